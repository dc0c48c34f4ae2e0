"""Units that leave a network while it is in training: their weights are freed, their places stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import compress

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Emptied", "forget_", "only_in"]

_TENSORS = ("_parameters", "_buffers")
_PARTS = (*_TENSORS, "_modules")


class Emptied:
    """A module without its weights and parts, which hands on what it is given, from `empty` to `fill`.

    It keeps its class and its plain attributes, which the network's code may ask for. The sizes of its
    weights are kept too, so that it can be filled with weights that hold no memory. Both may be interrupted,
    and called again.

    Args:
        module: What will be emptied.
        stand_in: What answers its calls then.
        gone: Parameters and buffers that nothing else holds; others stay what they are.
    """

    def __init__(self, module: nn.Module, stand_in: nn.Module, gone: Iterable[Tensor]) -> None:
        # `torch.compile(module)` has the module inside: both hand on what they are given.
        self._module, self._stand_in = getattr(module, "_orig_mod", module), stand_in
        self._gone = {id(tensor): tensor for tensor in gone}
        self._tensors = [vars(part)[name] for part in module.modules() for name in _TENSORS]
        self._parts = {name: vars(self._module)[name] for name in _PARTS}
        self._forwards = {each: vars(each).get("forward") for each in (module, self._module)}

    def empty(self) -> None:
        """Take the parts away, and the memory of their weights."""
        for tensors in self._tensors:
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) in self._gone:
                    tensors[name] = _weightless(tensor)
        self._gone.clear()
        vars(self._module).pop("_compiled_call_impl", None)
        for name, parts in self._parts.items():
            vars(self._module)[name] = type(parts)()
        # The network's code may ask for parts: those have no weights, and are none of the network's.
        vars(self._module).update(self._parts["_modules"])
        for module in self._forwards:
            vars(module)["forward"] = self._stand_in.forward

    def fill(self) -> None:
        """Put them back, without memory."""
        for name in self._parts["_modules"]:
            vars(self._module).pop(name, None)
        vars(self._module).update(self._parts)
        for module, own in self._forwards.items():
            vars(module).pop("forward", None)
            if own is not None:
                vars(module)["forward"] = own


def only_in(modules: Collection[nn.Module], model: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers that nothing of a network but these modules holds."""
    inside = {part for module in modules for part in module.modules()}
    outside: set[nn.Module] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        # What they share with others is met there.
        if module not in outside and module not in modules:
            outside.add(module)
            waiting.extend(module.children())
    shared = _held_by(outside)
    return [tensor for number, tensor in _held_by(inside).items() if number not in shared]


def forget_(optimizer: Optimizer, gone: Iterable[Tensor]) -> None:
    """Take parameters out of an optimiser, with what it remembers of them.

    Args:
        optimizer: Any of torch's, or one that keeps `param_groups` and `state` as they do.
        gone: The parameters; other tensors are passed over.
    """
    numbers = {id(tensor) for tensor in gone}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in numbers:
                parameter.grad = None
                optimizer.state.pop(parameter, None)
        stay = [id(parameter) not in numbers for parameter in group["params"]]
        for name in ("params", "param_names"):
            if name in group:
                group[name] = list(compress(group[name], stay))


def _held_by(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    held = (tensor for module in modules for part in _TENSORS for tensor in vars(module)[part].values())
    return {id(tensor): tensor for tensor in held if tensor is not None}


def _weightless(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
