"""The dynamic program over runs: the least cost of removing disjoint runs that save b ticks.

With K(j, b) and R(j, b) the least cost over units 0 … j - 1 that saves b ticks, unit j - 1 being
kept or the last of a run,

    K(j, b) = min(K(j - 1, b), R(j - 1, b))
    R(j, b) = min over runs [a, j) of K(a, b - saved[a, j)) + cost[a, j)

A run is entered from a kept unit only, so that runs are maximal.

Axes: L units, b = 0 … B ticks; the last bin holds everything from B upwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.planners.ticks import whole_ticks

__all__ = ["Run", "Solution", "most_saved", "solve"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of units that can be removed as one.

    Attributes:
        start, stop: Its units, `[start, stop)`.
        cost: What its removal costs.
        saved: What its removal saves.
    """

    start: int
    stop: int
    cost: float
    saved: float


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The filled tables of the dynamic program.

    Attributes:
        kept: K at `[j, b]`, `(L + 2, B + 1)`; unit L is imagined and kept, so that the last row
            is the answer.
        ended: Whether that cost comes from R, not K, of the row before, `(L + 2, B + 1)`.
        starts: The start of the run that R(j, b) ends, `(L + 1, B + 1)`.
        ticks: The ticks that every run `(start, stop)` saves.
    """

    kept: NDArray[np.float64]
    ended: NDArray[np.bool_]
    starts: NDArray[np.int32]
    ticks: dict[tuple[int, int], int]

    @property
    def least(self) -> NDArray[np.float64]:
        """The least cost that saves b ticks, `(B + 1,)`; infinite where nothing does."""
        return self.kept[-1]

    def trace(self, ticks: int) -> tuple[int, ...]:
        """Return the units whose removal costs `least[ticks]`, ascending."""
        removed: list[int] = []
        row, column, last = len(self.kept) - 1, ticks, self.kept.shape[1] - 1
        while row > 0:
            if not self.ended[row, column]:
                row -= 1
                continue
            start, stop = int(self.starts[row - 1, column]), row - 1
            removed.extend(range(start, stop))
            saved = self.ticks[start, stop]
            if column == last:
                # Whatever saves more than the last bin counts was put into it too.
                first = max(last - saved, 0)
                column = first + int(self.kept[start, first:].argmin())
            else:
                column -= saved
            row = start
        return tuple(sorted(removed))


def solve(runs: Sequence[Run], length: int, *, tick: float, bins: int) -> Solution:
    """Return the tables for these runs, each saving whole ticks (rounded down), up to `bins`."""
    kept = np.full((length + 2, bins + 1), math.inf)
    kept[0, 0] = 0.0
    ended = np.zeros(kept.shape, dtype=np.bool_)
    starts = np.zeros((length + 1, bins + 1), dtype=np.int32)
    ticks = {(run.start, run.stop): whole_ticks(run.saved, tick) for run in runs}
    ending: list[list[Run]] = [[] for _ in range(length + 1)]
    for run in runs:
        ending[run.stop].append(run)
    for stop in range(length + 1):
        removed = np.full(bins + 1, math.inf)
        for run in ending[stop]:
            _extend(removed, starts[stop], kept[run.start], run, ticks[run.start, run.stop])
        np.less(removed, kept[stop], out=ended[stop + 1])
        np.minimum(removed, kept[stop], out=kept[stop + 1])
    return Solution(kept=kept, ended=ended, starts=starts, ticks=ticks)


def _extend(
    removed: NDArray[np.float64],
    starts: NDArray[np.int32],
    kept: NDArray[np.float64],
    run: Run,
    saved: int,
) -> None:
    """Lower `removed`, R of one row, where ending in this run is cheaper, and note its start."""
    last = len(removed) - 1
    if saved < last:
        candidates = kept[: last - saved] + run.cost
        better = candidates < removed[saved:last]
        np.copyto(removed[saved:last], candidates, where=better)
        starts[saved:last][better] = run.start
    enough = kept[max(last - saved, 0) :].min() + run.cost
    if enough < removed[last]:
        removed[last] = enough
        starts[last] = run.start


def most_saved(runs: Sequence[Run], length: int) -> tuple[int, ...]:
    """Return the units whose removal saves the most, and of those sets the cheapest, ascending."""
    ending: list[list[Run]] = [[] for _ in range(length + 1)]
    for run in runs:
        ending[run.stop].append(run)
    # (saved, -cost, the run that ends here), the best at each row.
    nothing = (-math.inf, 0.0, None)
    kept: list[tuple[float, float, Run | None]] = [(0.0, 0.0, None)]
    for stop in range(length + 1):
        ways = ((kept[run.start], run) for run in ending[stop])
        removed = max(
            ((before[0] + run.saved, before[1] - run.cost, run) for before, run in ways),
            key=lambda way: way[:2],
            default=nothing,
        )
        stays = (kept[stop][0], kept[stop][1], None)
        kept.append(removed if removed[:2] > stays[:2] else stays)
    units: list[int] = []
    row = length + 1
    while row > 0:
        last = kept[row][2]
        if last is None:
            row -= 1
        else:
            units.extend(range(last.start, last.stop))
            row = last.start
    return tuple(sorted(units))
