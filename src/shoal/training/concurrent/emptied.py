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
    """A module that has lost its weights and its parts, and hands on what it is given.

    It keeps its class and its plain attributes, which the network's code may ask for. The sizes of its
    weights are kept too, so that it can be filled with weights that hold no memory.

    Args:
        module: Is emptied at once.
        stand_in: What answers its calls.
        gone: Ids of the parameters and buffers that nothing else holds; others stay what they are.
    """

    def __init__(self, module: nn.Module, stand_in: nn.Module, gone: Collection[int]) -> None:
        # `torch.compile(module)` has the module inside: both hand on what they are given.
        self._module, self._stand_in = getattr(module, "_orig_mod", module), stand_in
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and id(parameter) in gone:
                    part._parameters[name] = nn.Parameter(_weightless(parameter), parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None and id(buffer) in gone:
                    part._buffers[name] = _weightless(buffer)
        self._parts = {name: vars(self._module)[name] for name in _PARTS}
        self._forwards = {each: vars(each).get("forward") for each in (module, self._module)}
        vars(self._module).pop("_compiled_call_impl", None)
        self.empty()

    def empty(self) -> None:
        """Take the parts away."""
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
            del vars(module)["forward"]
            if own is not None:
                vars(module)["forward"] = own


def only_in(modules: Collection[nn.Module], model: nn.Module) -> set[int]:
    """Return the ids of the parameters and buffers that nothing of a network but these modules holds."""
    inside = {part for module in modules for part in module.modules()}
    outside: set[nn.Module] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        # What they share with others is met there.
        if module not in outside and module not in modules:
            outside.add(module)
            waiting.extend(module.children())
    return _held_by(inside) - _held_by(outside)


def forget_(optimizer: Optimizer, gone: Collection[int]) -> None:
    """Take parameters out of an optimiser, with what it remembers of them.

    Args:
        optimizer: Any of torch's, or one that keeps `param_groups` and `state` as they do.
        gone: Ids of the parameters; those of other tensors are passed over.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in gone:
                parameter.grad = None
                optimizer.state.pop(parameter, None)
        stay = [id(parameter) not in gone for parameter in group["params"]]
        for name in ("params", "param_names"):
            if name in group:
                group[name] = list(compress(group[name], stay))


def _held_by(modules: Iterable[nn.Module]) -> set[int]:
    held = (tensor for module in modules for part in _TENSORS for tensor in vars(module)[part].values())
    return {id(tensor) for tensor in held if tensor is not None}


def _weightless(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
