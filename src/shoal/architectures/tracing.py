"""What every module of a network does to the hidden state, observed while the network runs once.

A module *carries* its input if its output still depends on it with all weight matrices at zero:
then a path without weights leads through it (a residual connection), and the network was trained
to live with what comes around the weights. A module is *added* if its output is added to another
tensor outside of it: then it is the branch of a residual connection that its parent draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from shoal.architectures.hidden import describe, hidden_input, hidden_output
from shoal.architectures.trials import FAILURES
from shoal.architectures.weightless import SlimProducts
from shoal.calling import Inputs, call, evaluating

__all__ = ["SUMS", "Call", "has_parts", "matrices", "trace"]

# Names of the functions that add two tensors.
SUMS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})


@dataclass(kw_only=True)
class Call:
    """What was seen of one module.

    Attributes:
        order: When it was first entered, counted over all modules.
        times: How often it was called.
        in_shape, out_shape: Shape of the hidden state before and after.
        keeps: Whether the hidden state keeps its shape and dtype.
        outputs: What it returns, as `hidden.describe` says it; None if that cannot be said.
        returned: Class name of what it returns.
        carries: Whether a path without weights leads through it.
        added: Whether its output is added to another tensor outside of it.
        finite: Whether all numbers of the hidden state that it returned were finite.
    """

    order: int
    times: int = 0
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    keeps: bool = False
    outputs: Any = None
    returned: str = ""
    carries: bool = False
    added: bool = False
    finite: bool = True


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of two axes or more: those that mix features."""
    return [parameter for parameter in module.parameters() if parameter.dim() >= 2]


def has_parts(module: nn.Module) -> bool:
    """Return whether a module has modules inside, if only empty ones."""
    # Not any(): lists that are empty are false, and what torch.compile wraps may have no truth.
    return next(module.children(), None) is not None


def trace(model: nn.Module, example: Inputs) -> dict[nn.Module, Call]:
    """Run the network once and return what each of its modules did, in the order of first entry.

    Compound modules without a weight matrix are left out, and so is what was never called. The
    model is left as it was found.

    Args:
        model: Any network.
        example: What its forward takes.
    """
    watched = [
        module
        for module in model.modules()
        if module is not model and (matrices(module) or not has_parts(module))
    ]
    recorder = _Recorder()
    with evaluating(model), torch.no_grad(), recorder.watching(watched), _Additions(recorder):
        call(model, example)
    return recorder.calls


class _Recorder:
    """Hooks that write down calls; silent while a module is being run again for a test."""

    def __init__(self) -> None:
        self.calls: dict[nn.Module, Call] = {}
        self.silent = False
        self.producers: dict[int, list[Call]] = {}
        self._alive: list[Tensor] = []
        self._inputs: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    @contextmanager
    def watching(self, modules: list[nn.Module]) -> Iterator[None]:
        with ExitStack() as stack:
            for module in modules:
                before = module.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)
                after = module.register_forward_hook(self._leave, with_kwargs=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.silent:
            return
        seen = self.calls.setdefault(module, Call(order=len(self.calls)))
        seen.times += 1
        if seen.times == 1 and _may_carry(module):
            # A copy: modules may overwrite what they are given.
            self._inputs[module] = tree_map(_copied, args), tree_map(_copied, dict(kwargs))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen = self.calls[module]
        if self.silent or seen.times > 1:
            return
        before, after = hidden_input(args, kwargs), hidden_output(output)
        seen.returned = type(output).__name__
        if before is None or after is None:
            return
        seen.in_shape, seen.out_shape = tuple(before.shape), tuple(after.shape)
        seen.finite = bool(torch.isfinite(after).all())
        seen.keeps = seen.in_shape == seen.out_shape and before.dtype == after.dtype
        seen.outputs = describe(output, args, kwargs)
        self.remember(after, [seen])
        copies = self._inputs.pop(module, None)
        if seen.keeps and copies is not None:
            self.silent = True
            try:
                seen.carries = _carries(module, *copies)
            except FAILURES:
                # It cannot live without its weights, so nothing leads around them.
                seen.carries = False
            finally:
                self.silent = False

    def remember(self, tensor: Tensor, producers: list[Call]) -> None:
        """Note who made a tensor, and keep it alive so that its id stays its own."""
        self._alive.append(tensor)
        known = self.producers.setdefault(id(tensor), [])
        known.extend(seen for seen in producers if seen not in known)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _may_carry(module: nn.Module) -> bool:
    """A plain layer of torch cannot; a list never runs."""
    plain = type(module).__module__.startswith("torch.nn.modules") and not has_parts(module)
    return not plain and bool(matrices(module))


def _carries(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    hidden = hidden_input(args, kwargs)
    if hidden is None:
        return False
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(hidden.shape, generator=generator).to(hidden)
    outputs = []
    for state in (hidden.clone(), hidden + 0.1 * (hidden.abs().mean() + 1) * noise):
        replaced = tree_map(lambda leaf: state.clone() if leaf is hidden else _copied(leaf), (args, kwargs))  # noqa: B023
        outputs.append(hidden_output(_without_weights(module, *replaced)))
    first, second = outputs
    if first is None or second is None:
        return False
    return not torch.equal(first.nan_to_num(), second.nan_to_num())


def _without_weights(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what the module makes of the arguments with all its weight matrices at zero."""
    made = [inner for inner in module.modules() if _makes_its_weight(inner)]
    spared = {id(parameter) for inner in made for parameter in inner.parameters()}
    with ExitStack() as stack:
        # Not torch.func.functional_call: it leaves the zeros in a module that is held twice.
        for inner in module.modules():
            for name, parameter in list(inner._parameters.items()):
                if parameter is not None and parameter.dim() >= 2 and id(parameter) not in spared:
                    stack.callback(setattr, inner, name, parameter)
                    zeros = parameter.new_zeros(()).expand(parameter.shape)
                    setattr(inner, name, nn.Parameter(zeros, requires_grad=False))
        for inner in made:
            stack.callback(inner.register_forward_hook(_silence).remove)
        with SlimProducts():
            return module(*args, **kwargs)


def _makes_its_weight(module: nn.Module) -> bool:
    """Weight and spectral norms divide by what would be zero; a forward computes the weight anew."""
    if "weight" in module._parameters or "weight" in module._buffers:
        return False
    return is_parametrized(module) or isinstance(vars(module).get("weight"), Tensor)


def _silence(module: nn.Module, args: Any, output: Any) -> Any:
    return tree_map(lambda leaf: torch.zeros_like(leaf) if isinstance(leaf, Tensor) else leaf, output)


class _Additions(TorchFunctionMode):
    """Marks calls whose result, scaled or reshaped at most, is added to another tensor of its shape."""

    SCALED = frozenset({"mul", "__mul__", "__rmul__", "mul_", "div", "__truediv__", "dropout"})
    RESHAPED = frozenset(
        {"view", "reshape", "transpose", "permute", "flatten", "unflatten", "squeeze", "unsqueeze"}
    )
    HANDED_ON = SCALED | RESHAPED | {"to", "contiguous"}

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.recorder.silent:
            return result
        name = getattr(func, "__name__", "")
        tensors = [value for value in args if isinstance(value, Tensor)]
        # What a parameter is added to (a position, a bias) goes past nothing.
        states = [value for value in tensors if not isinstance(value, nn.Parameter)]
        if name in SUMS and len(states) == 2 and states[0].shape == states[1].shape:
            for tensor in tensors:
                for seen in self.recorder.producers.get(id(tensor), []):
                    seen.added = True
        elif name in self.HANDED_ON and isinstance(result, Tensor):
            for tensor in tensors:
                if made := self.recorder.producers.get(id(tensor)):
                    self.recorder.remember(result, made)
        return result
