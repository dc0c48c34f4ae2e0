"""Every segment keeps a share of its units: how many go is planned here, which of them the caller picks.

Axes: L units, k segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from shoal.errors import BudgetError, ConfigError
from shoal.planners.counts import keep_counts
from shoal.planners.ticks import fewest_ticks
from shoal.units import Segment

__all__ = ["removal_by_shares"]

Pick = Callable[[Segment, int], Sequence[int]]


def removal_by_shares(
    segments: Sequence[Segment],
    savings: Sequence[float],
    need: float,
    removable: Iterable[int],
    *,
    pick: Pick,
    counts: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Return the units that go, as few as save `need` when every segment keeps its share of the rest.

    Args:
        segments: The segments of the chain, `(k,)`; of each at least one unit is kept.
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved, up to a rounding of 1e-9 of it.
        removable: The units that may go.
        pick: Which units of a segment go when this many of it stay; asked only where the answer
            may suffice, and once for each.
        counts: How many units each segment keeps, `(k,)`; its share by largest remainder where it
            is None.

    Raises:
        BudgetError: If no shares save enough with the units that are picked.
        ConfigError: If the counts do not fit the segments.

    Example:
        >>> cuts = [Segment(0, 3), Segment(3, 5)]
        >>> removal_by_shares(cuts, [1] * 5, 2, range(5), pick=lambda cut, keep: list(cut)[keep:])
        (2, 4)
    """
    allowed = set(removable)
    fixed = [sum(unit not in allowed for unit in segment) for segment in segments]
    known: dict[tuple[Segment, int], Sequence[int]] = {}
    most = 0.0
    for shares in _all_shares(segments, fixed, counts):
        divided = list(zip(segments, shares, strict=True))
        if not _suffices(sum(_largest(savings, allowed, *part) for part in divided), need):
            continue
        for part in divided:
            known[part] = known[part] if part in known else tuple(pick(*part))
        removed = sorted(unit for part in divided for unit in known[part])
        saved = math.fsum(savings[unit] for unit in removed)
        if _suffices(saved, need):
            return tuple(removed)
        most = max(most, saved)
    kept = f"{list(counts)} units" if counts is not None else "a unit or more"
    raise BudgetError(
        f"asked to save {need:g}: with {kept} kept in the {len(segments)} segments "
        f"{', '.join(map(str, segments))} too little can be saved ({most:g} at most was). "
        "Ask for fewer segments, fewer units kept, or a larger budget."
    )


def _all_shares(
    segments: Sequence[Segment], fixed: Sequence[int], counts: Sequence[int] | None
) -> Iterable[tuple[int, ...]]:
    """Yield the counts to try, the most units kept first."""
    sizes = [len(segment) for segment in segments]
    if counts is None:
        least = sum(max(1, count) for count in fixed)
        return (keep_counts(sizes, total, least=fixed) for total in range(sum(sizes), least - 1, -1))
    fits = len(counts) == len(sizes) and all(
        max(1, low) <= count <= size for low, count, size in zip(fixed, counts, sizes, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"asked to keep {list(counts)} units in segments of {sizes}, of which {list(fixed)} cannot be "
            "removed: give one count a segment, from 1 or what cannot be removed to its size."
        )
    return [tuple(counts)]


def _largest(savings: Sequence[float], allowed: set[int], segment: Segment, keep: int) -> float:
    """The most that a segment saves when it keeps this many units."""
    possible = sorted((savings[unit] for unit in segment if unit in allowed), reverse=True)
    return math.fsum(possible[: len(segment) - keep])


def _suffices(saved: float, need: float) -> bool:
    return need <= 0 or (saved > 0 and fewest_ticks(need, saved) <= 1)
