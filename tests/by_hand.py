"""What a method is asked, and what it should find, by running whole networks with all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shoal import Budget, find_units
from shoal.architectures import bypassed
from shoal.calling import call, split_batch
from shoal.methods import Request
from shoal.units import Chain

__all__ = ["arriving", "next_unit", "request_for"]


def request_for(model: nn.Module, batches: Sequence[Any], *, removing: int, example: Any = None) -> Request:
    """Return a request for the network without so many units."""
    example = batches[0] if example is None else example
    chain = find_units(model, example)
    budget = Budget.parse(f"units={len(chain) - removing}")
    return Request(model=model, chain=chain, batches=batches, example=example, budget=budget)


def arriving(
    model: nn.Module, chain: Chain, batches: Iterable[Any], removed: Iterable[int] = (), layer: str = "linear"
) -> Tensor:
    """Return what reaches a layer when the whole network runs without these units, of all batches."""
    found: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_pre_hook(lambda module, args: found.append(args[0]))
    with torch.no_grad(), bypassed(model, chain, removed):
        for batch in batches:
            call(model, split_batch(batch)[0])
    hook.remove()
    return torch.cat(found).double()


def next_unit(
    model: nn.Module,
    chain: Chain,
    batches: Iterable[Any],
    gone: Sequence[int],
    reference: Tensor,
    cka: Callable[[Tensor, Tensor], Tensor],
) -> tuple[int, float]:
    """Return the unit whose absence, beside those that are gone, leaves the features most like the
    reference, and by how much they are unlike it.
    """
    changes = {
        unit: 1 - cka(reference, arriving(model, chain, batches, [*gone, unit])).item()
        for unit in chain.removable
        if unit not in gone
    }
    unit = min(changes, key=changes.__getitem__)
    return unit, changes[unit]
