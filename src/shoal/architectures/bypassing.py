"""Run a network without some of its units, without editing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from shoal.architectures.hidden import stand_ins
from shoal.units import Chain

__all__ = ["answer_of", "bypassed", "forward_replaced", "is_compiled", "uncompiled"]

Answer = Callable[..., Any]


def is_compiled(module: nn.Module) -> bool:
    """Return whether all of a module is compiled: by `torch.compile(module)` or by `module.compile()`."""
    return _is_wrapper(module) or module._compiled_call_impl is not None


def answer_of(module: nn.Module) -> Answer:
    """Return what answers a module's calls: its compiled call where it has one, otherwise its forward."""
    found: Answer = getattr(module, _place(module))
    return found


def _place(module: nn.Module) -> str:
    return "forward" if module._compiled_call_impl is None else "_compiled_call_impl"


@contextmanager
def forward_replaced(replacements: Iterable[tuple[nn.Module, Answer]]) -> Iterator[None]:
    """Let modules answer calls with other functions inside the `with`; their hooks still run.

    Of a compiled module the compiled call is replaced, hooks and all: what stands in for it is not compiled,
    and what was compiled stays valid.
    """
    changed: list[tuple[nn.Module, str, Any]] = []
    try:
        for module, function in replacements:
            place = _place(module)
            changed.append((module, place, module.__dict__.get(place)))
            module.__dict__[place] = function
        yield
    finally:
        for module, place, own in reversed(changed):
            if own is None:
                del module.__dict__[place]
            else:
                module.__dict__[place] = own


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[nn.Module]:
    """Give a network as it is written inside the `with`: nothing is compiled when it is called, and modules
    stand where `torch.compile` has put wrappers around them, under the names that they have without.
    """
    wrapped = [
        (module._modules, name, child)
        for module in model.modules()
        for name, child in module._modules.items()
        if child is not None and _is_wrapper(child)
    ]
    try:
        for entries, name, wrapper in wrapped:
            entries[name] = _written(wrapper)
        written = _written(model)
        parts = [module for module in written.modules() if is_compiled(module)]
        with forward_replaced((module, module._call_impl) for module in parts):
            yield written
    finally:
        for entries, name, wrapper in wrapped:
            entries[name] = wrapper


def _is_wrapper(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules


def _written(module: nn.Module) -> nn.Module:
    """What stands inside of a wrapper."""
    return module.get_submodule("_orig_mod") if _is_wrapper(module) else module


@contextmanager
def bypassed(model: nn.Module, chain: Chain, units: Iterable[int | str]) -> Iterator[nn.Module]:
    """Run the model as if these units were removed, inside the `with`; nothing is computed for them.

    Example:
        >>> import torch
        >>> from shoal.architectures import find_units
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> x = torch.ones(1, 4)
        >>> with bypassed(net, find_units(net, x), [1]):
        ...     same = torch.equal(net(x), net[2](net[0](x)))
        >>> same
        True
    """
    replacements: list[tuple[nn.Module, Answer]] = []
    for unit in chain.select(units):
        instead = stand_ins(unit.outputs, len(unit.modules))
        for path, module in zip(unit.modules, instead, strict=True):
            replacements.append((model.get_submodule(path), module.forward))
    with forward_replaced(replacements):
        yield model
