"""Better a set of removed units by exchanging one at a time, judged by a loss that can be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from shoal.units import Segment

__all__ = ["improve_by_swaps", "meets"]

Removed = tuple[int, ...]
# Sets measured together share one pass over the data.
_TOGETHER = 8


def improve_by_swaps(
    removed: Iterable[int],
    *,
    losses: Callable[[Sequence[Removed]], Sequence[float]],
    allowed: Callable[[Removed], bool],
    single: dict[int, float],
    evaluations: int,
) -> tuple[Removed, float, int]:
    """Return a set that no exchange of one removed for one kept unit improves, or the best in reach.

    Neighbours of the set at hand are measured most promising first: those that restore a unit dear
    to lose and remove one cheap to lose. The best of a handful is taken as soon as it is better.

    Args:
        removed: The set to begin with.
        losses: Loss of the network without each of several sets.
        allowed: Whether a set meets the budget and whatever else is asked of it; see `meets`.
        single: What the removal of each removable unit alone costs.
        evaluations: The most sets measured.

    Returns:
        The set, its loss, and how many sets were measured.

    Example:
        >>> cost = {0: 3.0, 1: 1.0, 2: 2.0}
        >>> improve_by_swaps([0], losses=lambda sets: [sum(cost[i] for i in s) for s in sets],
        ...                  allowed=lambda s: len(s) == 1, single=cost, evaluations=10)
        ((1,), 1.0, 3)
    """
    best: Removed = tuple(sorted(removed))
    loss = losses([best])[0]
    spent, tried = 1, {best}
    while spent < evaluations:
        waiting = [near for near in _neighbours(best, single) if near not in tried and allowed(near)]
        better: Removed | None = None
        while waiting and better is None and spent < evaluations:
            batch = waiting[: min(_TOGETHER, evaluations - spent)]
            waiting = waiting[len(batch) :]
            tried.update(batch)
            spent += len(batch)
            lowest, candidate = min(zip(losses(batch), batch, strict=True))
            if lowest < loss:
                better, loss = candidate, lowest
        if better is None:
            break
        best = better
    return best, loss, spent


def meets(
    savings: Sequence[float], need: float, segments: Sequence[Segment] = ()
) -> Callable[[Removed], bool]:
    """Return a test of whether a set saves `need` and leaves a unit in each segment.

    Args:
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved, up to a rounding of 1e-9 of it.
        segments: Of each, at least one unit is kept.

    Example:
        >>> test = meets([1, 1, 1], 2, [Segment(0, 2)])
        >>> test((0, 1)), test((1, 2)), test((2,))
        (False, True, False)
    """

    def test(removed: Removed) -> bool:
        gone = set(removed)
        enough = sum(savings[unit] for unit in gone) >= need * (1 - 1e-9)
        return enough and all(any(unit not in gone for unit in segment) for segment in segments)

    return test


def _neighbours(removed: Removed, single: dict[int, float]) -> list[Removed]:
    """All sets one restoration or one exchange away, most promising first."""
    gone = set(removed)
    ranked = [(-single[back], tuple(sorted(gone - {back}))) for back in removed]
    ranked += [
        (single[out] - single[back], tuple(sorted(gone - {back} | {out})))
        for back in removed
        for out in single
        if out not in gone
    ]
    return [near for _, near in sorted(ranked)]
