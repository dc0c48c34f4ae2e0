"""Which tensor went where while a network ran once: through which modules, functions and sums.

A tensor is known by a key, its number and how often it was written to, so that a network that
overwrites its hidden states is followed too. Tensors that stay what they were (dropout in evaluation
mode) keep their key. Nothing here says what the network's units are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from shoal.architectures.hidden import describe, hidden_input, hidden_output
from shoal.architectures.tracing import SUMS, has_parts, matrices
from shoal.calling import Inputs, call, evaluating

__all__ = ["Flow", "Key", "Passage", "Sum", "record"]

Key = tuple[int, int]

# Of zeros they make zeros.
DIVISIONS = frozenset({"div", "__truediv__"})
SCALINGS = DIVISIONS | {"mul", "__mul__", "__rmul__", "mul_", "dropout"}
RESHAPINGS = frozenset(
    {"view", "reshape", "transpose", "permute", "flatten", "unflatten", "squeeze", "unsqueeze"}
)
ROLLS_AND_CROPS = frozenset({"roll", "__getitem__"})
ZERO_KEEPING = SCALINGS | RESHAPINGS | ROLLS_AND_CROPS | {"to", "contiguous"}


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The first call of a module.

    Attributes:
        takes, gives: The hidden state before and after.
        in_shape, out_shape: Their shapes.
        dtypes: Their dtypes.
        outputs: What it returns, as `hidden.describe` says it; what only it can make stands as None.
        extras: What it returns beside the hidden state that only it can make.
    """

    takes: Key
    gives: Key
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, torch.dtype]
    outputs: Any
    extras: tuple[Key, ...]


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The addition of two hidden states of one shape, in the innermost module that was running."""

    operands: tuple[Key, Key]
    result: Key
    inside: nn.Module


@dataclass(frozen=True, kw_only=True)
class _Use:
    """A tensor went into a function (which gave `result`, inside `by`), or into the module `by`."""

    by: nn.Module | None
    result: Key | None


@dataclass(kw_only=True)
class Flow:
    """What went where during one forward call.

    Attributes:
        names: Dotted names of the network's modules.
        times: How often each module was called.
        passages: The first call of every module that takes and returns a hidden state.
        sums: Additions of hidden states, in order.
        scaled: Result of a function that scales, reshapes, rolls or crops one hidden state → that state:
            of zeros it makes zeros.
        of_one_shape: Result of a function that keeps the shape of one hidden state → that state.
    """

    names: dict[nn.Module, str]
    times: dict[nn.Module, int] = field(default_factory=dict)
    passages: dict[nn.Module, Passage] = field(default_factory=dict)
    sums: list[Sum] = field(default_factory=list)
    scaled: dict[Key, Key] = field(default_factory=dict)
    of_one_shape: dict[Key, Key] = field(default_factory=dict)
    _makers: dict[Key, list[nn.Module]] = field(default_factory=dict)
    _sources: dict[Key, tuple[Key, ...]] = field(default_factory=dict)
    _uses: dict[Key, list[_Use]] = field(default_factory=dict)

    def within(self, module: nn.Module, outer: nn.Module) -> bool:
        """Return whether a module is another one or a part of it."""
        name, prefix = self.names[module], self.names[outer]
        return not prefix or name == prefix or name.startswith(f"{prefix}.")

    def given(self, module: nn.Module) -> Key | None:
        """Return the hidden state that a module returned; None where it did not."""
        passage = self.passages.get(module)
        return None if passage is None else passage.gives

    def maker(self, key: Key, block: nn.Module) -> nn.Module | None:
        """Return the outermost module inside `block` that made this state; None where none did."""
        makers = [m for m in self._makers.get(key, []) if m is not block and self.within(m, block)]
        return makers[-1] if makers else None

    def feeds_only(self, key: Key, module: nn.Module) -> bool:
        """Return whether a state goes into this module, or what holds it, and nowhere else."""
        return all(
            use.by is not None
            and (self.within(use.by, module) or (use.result is None and self.within(module, use.by)))
            for use in self._uses.get(key, [])
        )

    def only_result(self, key: Key) -> Key | None:
        """Return what the only function that takes a state makes of it; None if more takes it."""
        uses = self._uses.get(key, [])
        functions = [use for use in uses if use.result is not None]
        if len(functions) != 1 or functions[0].by is None:
            return None
        where, result = functions[0].by, functions[0].result
        return result if all(use.by is not None and self.within(where, use.by) for use in uses) else None

    def used(self, key: Key, beyond: nn.Module) -> bool:
        """Return whether a state goes anywhere outside of a module."""
        return not all(use.by is not None and self.within(use.by, beyond) for use in self._uses.get(key, []))

    def derives(self, key: Key, origins: set[Key]) -> bool:
        """Return whether a state was computed from one of these without a weight matrix."""
        seen, ahead = {key}, [key]
        while ahead:
            for source in self._sources.get(ahead.pop(), ()):
                if source in origins:
                    return True
                if source not in seen:
                    seen.add(source)
                    ahead.append(source)
        return False


def record(model: nn.Module, example: Inputs) -> Flow:
    """Run the network once and return what went where; the model is left as it was found.

    Args:
        model: Any network.
        example: What its forward takes.
    """
    recorder = _Recorder(model)
    with evaluating(model), torch.no_grad(), recorder.watching(), recorder:
        recorder.uses_of(call(model, example), _Use(by=None, result=None))
    return recorder.flow


class _Recorder(TorchFunctionMode):
    """Sees every function, and from hooks inside which modules it runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.flow = Flow(names={module: name for name, module in model.named_modules()})
        self.running = [model]
        self._begun: list[dict[Key, int]] = []
        # Tensors are told apart without being kept: an identity may be given away again, a number is not.
        self._numbers = WeakTensorKeyDictionary()
        self._met = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.flow.names:
                if module is not self.model and (matrices(module) or not has_parts(module)):
                    before = module.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)
                    after = module.register_forward_hook(self._leave, with_kwargs=True)
                    stack.callback(before.remove)
                    stack.callback(after.remove)
            yield

    def uses_of(self, values: Any, use: _Use) -> None:
        for leaf in _tensors(values):
            self.flow._uses.setdefault(self._key(leaf), []).append(use)

    def _key(self, tensor: Tensor) -> Key:
        if tensor not in self._numbers:
            self._numbers[tensor] = self._met
            self._met += 1
        return self._numbers[tensor], tensor._version

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves = {self._key(leaf) for leaf in _tensors((args, kwargs))}
        self._begun.append({key: len(self.flow._uses.get(key, [])) for key in leaves})
        self.uses_of((args, kwargs), _Use(by=module, result=None))
        self.running.append(module)
        self.flow.times[module] = self.flow.times.get(module, 0) + 1

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.running.pop()
        begun = self._begun.pop()
        before, after = hidden_input(args, kwargs), hidden_output(output)
        if before is None or after is None:
            return
        now, gives = self._key(before), self._key(after)
        takes = next((key for key in begun if key[0] == now[0]), now)
        if gives == takes:
            # It did nothing: nor did it use the state.
            del self.flow._uses[takes][begun[takes] :]
            return
        if self.flow.times[module] > 1:
            return
        given = {id(leaf) for leaf in _tensors((args, kwargs))} | {id(after)}
        self.flow._makers.setdefault(gives, []).append(module)
        self.flow.passages[module] = Passage(
            takes=takes,
            gives=gives,
            in_shape=tuple(before.shape),
            out_shape=tuple(after.shape),
            dtypes=(before.dtype, after.dtype),
            outputs=describe(output, args, kwargs, spare=True),
            extras=tuple(self._key(leaf) for leaf in _tensors(output) if id(leaf) not in given),
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = _tensors((args, dict(kwargs or {})))
        keys = [self._key(tensor) for tensor in given]
        shapes = [tensor.shape for tensor in given]
        floating = [tensor.is_floating_point() for tensor in given]
        result = func(*args, **(kwargs or {}))
        made = _tensors(result)
        if not made:
            return result
        results = [self._key(tensor) for tensor in made]
        for key in keys:
            if key not in results:
                self.flow._uses.setdefault(key, []).append(_Use(by=self.running[-1], result=results[0]))
        name = getattr(func, "__name__", "")
        if name not in SUMS | ZERO_KEEPING and any(_is_matrix(tensor) for tensor in given):
            return result
        for key in results:
            self.flow._sources[key] = (*self.flow._sources.get(key, ()), *(k for k in keys if k != key))
        # What a parameter is added to (a position, a bias) goes past nothing.
        states = [n for n, each in enumerate(given) if floating[n] and not isinstance(each, nn.Parameter)]
        if isinstance(result, Tensor):
            self._note(name, result, [(keys[n], shapes[n]) for n in states], results[0])
        return result

    def _note(self, name: str, result: Tensor, states: list[tuple[Key, torch.Size]], key: Key) -> None:
        if name in SUMS and len(states) == 2 and states[0][1] == states[1][1]:
            operands = (states[0][0], states[1][0])
            self.flow.sums.append(Sum(operands=operands, result=key, inside=self.running[-1]))
            return
        # Where one state scales or shifts another, the larger one is followed.
        large = [(state, shape) for state, shape in states if shape.numel() == result.numel()]
        followed = large if len(states) > 1 else states
        if len(followed) != 1 or followed[0][0] == key:
            return
        ((state, shape),) = followed
        if name in ZERO_KEEPING and (name not in DIVISIONS or state == states[0][0]):
            self.flow.scaled[key] = state
        if shape == result.shape:
            self.flow.of_one_shape[key] = state


def _is_matrix(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.dim() >= 2


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Mapping):
        values = dict(values)
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
