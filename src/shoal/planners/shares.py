"""Every segment keeps a share of its units: how many go is planned here, which of them the caller picks.

Axes: L units, k segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from random import Random

from shoal.errors import BudgetError, ConfigError
from shoal.planners.counts import keep_counts
from shoal.planners.enough import is_enough
from shoal.units import Segment

__all__ = ["best_subset", "removal_by_shares"]

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
        saved = math.fsum(_largest(savings, allowed, *part) for part in divided)
        if is_enough(saved, need):
            for segment, keep in divided:
                if (segment, keep) not in known:
                    known[segment, keep] = pick(segment, keep) if keep < len(segment) else ()
            removed = sorted(unit for part in divided for unit in known[part])
            saved = math.fsum(savings[unit] for unit in removed)
            if is_enough(saved, need):
                return tuple(removed)
        most = max(most, saved)
    kept = f"{list(counts)} units" if counts is not None else "a unit or more"
    raise BudgetError(
        f"asked to save {need:g}: with {kept} kept in the {len(segments)} segments "
        f"{', '.join(map(str, segments))} {most:g} can be saved. "
        "Ask for fewer segments, fewer units kept, or a larger budget."
    )


def best_subset(
    units: Sequence[int],
    count: int,
    *,
    scores: Callable[[Sequence[tuple[int, ...]]], Sequence[float]],
    most: int,
    seed: int = 0,
) -> tuple[int, ...]:
    """Return the subset of highest score: of all, or of a random draw where there are too many.

    Args:
        units: What is chosen from, ascending.
        count: How many of them.
        scores: The score of each of several subsets; called once.
        most: The most subsets that are scored.
        seed: Of the draw.

    Returns:
        The subset, ascending; of equal scores the first in lexicographic order.

    Example:
        >>> best_subset([2, 3, 5], 2, scores=lambda subsets: [-sum(each) for each in subsets], most=9)
        (2, 3)
    """
    if math.comb(len(units), count) <= most:
        subsets = list(combinations(units, count))
    else:
        random = Random(seed)
        subsets = sorted({tuple(sorted(random.sample(units, count))) for _ in range(most)})
    found = list(scores(subsets))
    return subsets[found.index(max(found))]


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
