"""The cheapest set of units by trying every set: for short chains, and as the judge of planners."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, combinations

from shoal.errors import BudgetError, ConfigError
from shoal.planners.runs import Removal
from shoal.planners.ticks import fewest_ticks
from shoal.progress import task

__all__ = ["cheapest_subset"]

_MOST = 20


def cheapest_subset(
    cost: Callable[[tuple[int, ...]], float],
    removable: Iterable[int],
    savings: Sequence[float],
    need: float,
) -> Removal:
    """Return the set of units of least cost whose removal saves at least `need`.

    Args:
        cost: What the removal of these units, ascending, costs; called for every set that saves
            enough, up to 2^n of n removable units. Infinite (or NaN) rules a set out.
        removable: The units that may be removed, 20 at most.
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved, up to a rounding of 1e-9 of it; nothing is removed for <= 0.

    Returns:
        The removal; of sets that cost the same the smallest, then the first in order.

    Raises:
        BudgetError: If no set saves enough; names the most that can be saved.
        ConfigError: If more than 20 units are removable.

    Example:
        >>> cheapest_subset(lambda units: len(units) ** 2, range(3), [1, 2, 4], 3).removed
        (2,)
    """
    units = sorted(set(removable))
    if len(units) > _MOST:
        raise ConfigError(
            f"asked to try every set of {len(units)} removable units: that is done for {_MOST} at most. "
            "Plan by runs instead, or allow fewer units to be removed."
        )
    if need <= 0:
        return Removal(removed=(), cost=0.0, saved=0.0)
    best: Removal | None = None
    with task("trying sets of units", total=2 ** len(units)) as advance:
        for chosen in _subsets(units):
            saved = math.fsum(savings[unit] for unit in chosen)
            if saved > 0 and fewest_ticks(need, saved) <= 1:
                price = float(cost(chosen))
                if price < (math.inf if best is None else best.cost):
                    best = Removal(removed=chosen, cost=price, saved=saved)
            advance(1)
    if best is None:
        most = math.fsum(savings[unit] for unit in units)
        raise BudgetError(
            f"asked to save {need:g}: the most that can be saved is {most:g}, by removing all "
            f"{len(units)} removable units, or no set that saves enough has a finite cost."
        )
    return best


def _subsets(units: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(units, size) for size in range(len(units) + 1))
