"""Chosen by position alone: evenly spaced units, or the last ones. What scores have to beat.

Axes: L units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from shoal.errors import BudgetError
from shoal.planners.enough import saves_enough

__all__ = ["evenly_spaced", "remove_evenly", "remove_last"]

Removed = tuple[int, ...]


def evenly_spaced(units: Sequence[int], count: int) -> Removed:
    """Return `count` of the units, as evenly spaced as can be, each in the middle of its share.

    Example:
        >>> evenly_spaced(range(8), 4), evenly_spaced(range(9), 2), evenly_spaced(range(5), 1)
        ((1, 3, 5, 7), (2, 6), (2,))
    """
    return tuple(units[(2 * number + 1) * len(units) // (2 * count)] for number in range(count))


def remove_evenly(candidates: Iterable[int], savings: Sequence[float], need: float) -> Removed:
    """Return as few evenly spaced units as save enough.

    Args:
        candidates: The units that may go; those that save nothing stay.
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved.

    Raises:
        BudgetError: If all of them do not save enough.

    Example:
        >>> remove_evenly(range(6), [1, 5, 1, 1, 5, 1], 10)
        (1, 4)
    """
    return _fewest(evenly_spaced, candidates, savings, need)


def remove_last(candidates: Iterable[int], savings: Sequence[float], need: float) -> Removed:
    """Return as few of the last units as save enough; as `remove_evenly` otherwise.

    Raises:
        BudgetError: If all of them do not save enough.

    Example:
        >>> remove_last(range(6), [1] * 6, 2)
        (4, 5)
    """
    return _fewest(lambda units, count: tuple(units[len(units) - count :]), candidates, savings, need)


def _fewest(
    pick: Callable[[Sequence[int], int], Removed],
    candidates: Iterable[int],
    savings: Sequence[float],
    need: float,
) -> Removed:
    free = sorted(unit for unit in candidates if savings[unit] > 0)
    for count in range(len(free) + 1):
        removed = pick(free, count)
        if saves_enough(savings, need, removed):
            return removed
    most = math.fsum(savings[unit] for unit in free)
    raise BudgetError(
        f"asked to save {need:g}: what may go saves {most:g}, by removing {len(free)} units. "
        "Ask for no more than that."
    )
