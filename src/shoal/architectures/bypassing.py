"""Run a network without some of its units, without editing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from shoal.architectures.hidden import stand_ins
from shoal.units import Chain

__all__ = ["bypassed", "forward_replaced"]


@contextmanager
def forward_replaced(replacements: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Let modules answer calls with other functions inside the `with`; their hooks still run."""
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for module, function in replacements:
            changed.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = function
        yield
    finally:
        for module, own in reversed(changed):
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own


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
    replacements: list[tuple[nn.Module, Callable[..., Any]]] = []
    for unit in chain.select(units):
        instead = stand_ins(unit.outputs, len(unit.modules))
        for path, module in zip(unit.modules, instead, strict=True):
            replacements.append((model.get_submodule(path), module.forward))
    with forward_replaced(replacements):
        yield model
