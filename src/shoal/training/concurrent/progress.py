"""How far training and pruning at once has come."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PruningProgress"]


@dataclass(frozen=True, kw_only=True)
class PruningProgress:
    """How far a run has come.

    Attributes:
        step: Steps done.
        units: Units that are left.
        remaining: Share of the network's cost that is left, in the quantity of the budget or of the price;
            with a price of several quantities, of their mixture.
        macs: Share of its multiply-accumulates that is left.
        expected: That share, as gates are drawn now.
        saved: Share of the training compute so far, in MACs, that gates and removals have saved; what asking
            units has cost is taken off.
        removed: Units that left in this step.
        price: What all of the network's cost has to be worth, in mean loss: as it is led to a budget, and
            once gates are settled, the highest at which all that is left is worth it.
    """

    step: int
    units: int
    remaining: float
    macs: float
    expected: float
    saved: float
    removed: tuple[int, ...]
    price: float
