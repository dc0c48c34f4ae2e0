"""One shot: the units of lowest importance go, one after the other, until enough is saved.

Axes: L units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from shoal.errors import BudgetError, DataError
from shoal.planners.enough import saves_enough

__all__ = ["give_back", "remove_in_order", "remove_lowest"]

Removed = tuple[int, ...]


def remove_lowest(
    scores: Sequence[float],
    savings: Sequence[float],
    need: float,
    *,
    candidates: Iterable[int],
) -> Removed:
    """Return the units of lowest score whose removal saves enough.

    Args:
        scores: Importance of every unit, `(L,)`, higher = keep; units with an infinite one stay.
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved.
        candidates: The units that may go.

    Returns:
        Indices, ascending; the earlier of two units with equal scores goes.

    Raises:
        BudgetError: If all that may go does not save enough.
        DataError: If a candidate's score is NaN.

    Example:
        >>> remove_lowest([3, 1, 2], [1, 1, 1], 2, candidates=range(3))
        (1, 2)
    """
    free = sorted(candidates)
    unscored = [unit for unit in free if math.isnan(scores[unit])]
    if unscored:
        raise DataError(f"asked to rank the units {unscored}, which have no score: score them first.")
    order = sorted((unit for unit in free if scores[unit] < math.inf), key=lambda unit: (scores[unit], unit))
    return remove_in_order(order, savings, need)


def remove_in_order(order: Iterable[int], savings: Sequence[float], need: float) -> Removed:
    """Return as many units from the beginning of an order as save enough, ascending.

    Units that save nothing of what is asked for are passed over. Where units save differently, those
    that turn out not to be needed come back, the latest first.

    Raises:
        BudgetError: If all of them do not save enough.

    Example:
        >>> remove_in_order([2, 0, 1], [5, 1, 3], 5)
        (0,)
    """
    removed: list[int] = []
    for unit in order:
        if saves_enough(savings, need, removed):
            break
        if savings[unit] > 0:
            removed.append(unit)
    if not saves_enough(savings, need, removed):
        raise BudgetError(
            f"asked to save {need:g}: what may go saves {math.fsum(savings[unit] for unit in removed):g}, "
            f"by removing {len(removed)} units. Ask for no more than that, or protect fewer units."
        )
    return give_back(removed, savings, need)


def give_back(removed: Sequence[int], savings: Sequence[float], need: float) -> Removed:
    """Return the removed units without those that are not needed to save enough, ascending.

    Args:
        removed: Units in the order in which they went; the latest come back first.
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved.
    """
    rest = list(removed)
    for unit in reversed(removed):
        without = [other for other in rest if other != unit]
        if saves_enough(savings, need, without):
            rest = without
    return tuple(sorted(rest))
