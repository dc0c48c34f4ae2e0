"""How many units each segment keeps, and which: the units of highest importance per segment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from shoal.errors import BudgetError, DataError
from shoal.units import Segment

__all__ = ["keep_counts", "top_units"]


def keep_counts(sizes: Sequence[int], total: int, *, least: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return how many units each segment keeps: its share of `total`, by largest remainder.

    Args:
        sizes: How many units each segment has, `(k,)`, 1 or more.
        total: How many units are kept in all.
        least: How many units each segment must keep, `(k,)`, such as those that cannot be removed;
            one each where it is None, and one each at least.

    Returns:
        A count for every segment, from its least to its size; they sum to `total`. The earlier of
        two segments with equal remainders gets more.

    Raises:
        BudgetError: If `total` is more than all units or less than the segments must keep.

    Example:
        >>> keep_counts([5, 3, 2], 5), keep_counts([8, 1, 1], 4)
        ((3, 1, 1), (2, 1, 1))
    """
    floors = [max(1, count) for count in (least or [1] * len(sizes))]
    whole = sum(sizes)
    if not sum(floors) <= total <= whole or any(map(int.__gt__, floors, sizes)):
        raise BudgetError(
            f"asked to keep {total} of {whole} units in segments of {list(sizes)}, at least "
            f"{floors} of each: from {sum(floors)} to {whole} units can be kept."
        )
    counts = [max(low, total * size // whole) for low, size in zip(floors, sizes, strict=True)]

    def remainder(index: int) -> int:
        return total * sizes[index] - counts[index] * whole

    while sum(counts) < total:
        room = [index for index in range(len(sizes)) if counts[index] < sizes[index]]
        counts[max(room, key=lambda index: (remainder(index), -index))] += 1
    while sum(counts) > total:
        spare = [index for index in range(len(sizes)) if counts[index] > floors[index]]
        counts[min(spare, key=lambda index: (remainder(index), -index))] -= 1
    return tuple(counts)


def top_units(
    scores: Sequence[float], segments: Sequence[Segment], counts: Sequence[int], removable: Iterable[int]
) -> tuple[int, ...]:
    """Return the units that stay when each segment keeps its `counts` of highest score.

    Units that cannot be removed stay whatever their score, and count.

    Args:
        scores: Importance of every unit, `(L,)`, higher = keep; those that cannot be removed may
            be NaN.
        segments: The segments, `(k,)`.
        counts: How many units each segment keeps, `(k,)`.
        removable: The units that may go.

    Returns:
        Indices of the kept units, ascending; the earlier of two units with equal scores stays.

    Raises:
        BudgetError: If a segment cannot keep its count.
        DataError: If the score of a removable unit is NaN.

    Example:
        >>> top_units([1, 3, 2, 5], [Segment(0, 3), Segment(3, 4)], [1, 1], removable=[0, 1, 2])
        (1, 3)
    """
    allowed = set(removable)
    unscored = [
        unit for segment in segments for unit in segment if unit in allowed and math.isnan(scores[unit])
    ]
    if unscored:
        raise DataError(f"asked to rank the units {unscored}, which have no score: score them first.")
    kept: list[int] = []
    for segment, count in zip(segments, counts, strict=True):
        forced = [unit for unit in segment if unit not in allowed]
        if not len(forced) <= count <= len(segment):
            raise BudgetError(
                f"asked to keep {count} of the {len(segment)} units in {segment}: {len(forced)} of them "
                f"cannot be removed, so that from {len(forced)} to {len(segment)} can be kept."
            )
        ranked = sorted(allowed.intersection(segment), key=lambda unit: (-scores[unit], unit))
        kept += forced + ranked[: count - len(forced)]
    return tuple(sorted(kept))
