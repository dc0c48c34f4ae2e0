"""Which runs of units to remove so that enough is saved at the least cost.

The removed set consists of disjoint maximal runs, and each costs what the importance table says of
exactly that run. A segment without a kept unit would lie within one run, so keeping a unit of each
segment means to leave out the runs that hold a whole segment.

Axes: L units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shoal.errors import BudgetError, DataError
from shoal.planners.program import Run, most_saved, solve
from shoal.planners.ticks import common_quantum, fewest_ticks
from shoal.tables import ImportanceTable
from shoal.units import Segment

__all__ = ["Removal", "cheapest_removal", "frontier", "largest_removal"]

_EXACT_TICKS = 20_000
_TICKS = (10_000, 40_000)


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A set of units to remove, with what it costs and saves.

    Attributes:
        removed: Indices of the removed units, ascending.
        cost: What their removal costs, in the unit of the importance (of the loss).
        saved: What it saves, in the unit of the savings.
    """

    removed: tuple[int, ...]
    cost: float
    saved: float


def cheapest_removal(
    importance: ImportanceTable,
    savings: Sequence[float],
    need: float,
    *,
    length: int,
    segments: Sequence[Segment] = (),
) -> Removal:
    """Return the removal of least cost that saves at least `need`.

    Exact where the savings are multiples of one quantum that `need` holds at most 20,000 times.
    Otherwise the savings of runs are rounded down to a 10,000th of `need`: what is saved always
    suffices, and sets that suffice by less than that rounding may be passed over.

    Args:
        importance: What the removal of every run costs; may be negative. Runs that are not in it,
            or whose cost is infinite, are not removed.
        savings: What the removal of each unit saves, `(L,)`, from 0 upwards.
        need: How much must be saved, up to a rounding of 1e-9 of it; nothing is removed for <= 0.
        length: L.
        segments: Of each, at least one unit is kept. Runs may cross their borders.

    Raises:
        BudgetError: If no removal saves that much; names the most that can be saved.
        DataError: If runs lie outside the chain, or costs or savings are no numbers to plan with.

    Example:
        >>> table = ImportanceTable.additive([3.0, 1.0, 2.0], range(3))
        >>> cheapest_removal(table, [1, 1, 1], 2, length=3).removed
        (1, 2)
    """
    runs = _runs(importance, savings, length, segments)
    if need <= 0:
        return Removal(removed=(), cost=0.0, saved=0.0)
    largest = _removal(most_saved(runs, length), importance, savings)
    if largest.saved <= 0 or fewest_ticks(need, largest.saved) > 1:
        kept = f" with a unit kept in each of {len(segments)} segments" if segments else ""
        raise BudgetError(
            f"asked to save {need:g}: the most that can be saved{kept} is {largest.saved:g}, "
            f"by removing {len(largest.removed)} of {length} units. Ask for no more than that."
        )
    for tick in _finer_and_finer(runs, savings, need):
        solution = solve(runs, length, tick=tick, bins=fewest_ticks(need, tick))
        if math.isfinite(solution.least[-1]):
            return _removal(solution.trace(len(solution.least) - 1), importance, savings)
    # What is needed differs from the most that can be saved by less than the rounding.
    return largest


def frontier(
    importance: ImportanceTable,
    savings: Sequence[float],
    *,
    length: int,
    segments: Sequence[Segment] = (),
) -> list[Removal]:
    """Return the removals that no other removal beats in both cost and saving.

    Exact where the savings are multiples of one quantum, as in `cheapest_removal`; otherwise one
    removal for each 10,000th of the most that can be saved, where that has one of its own.

    Args:
        importance: What the removal of every run costs; may be negative.
        savings: What the removal of each unit saves, `(L,)`, from 0 upwards.
        length: L.
        segments: Of each, at least one unit is kept.

    Returns:
        Removals in ascending order of saving and of cost. The first removes nothing, unless some
        removal costs nothing or less.

    Raises:
        DataError: If runs lie outside the chain, or costs or savings are no numbers to plan with.
    """
    runs = _runs(importance, savings, length, segments)
    largest = _removal(most_saved(runs, length), importance, savings)
    tick = next(_finer_and_finer(runs, savings, largest.saved)) if largest.saved > 0 else 1.0
    solution = solve(runs, length, tick=tick, bins=fewest_ticks(largest.saved, tick))
    found, least = [largest], math.inf
    for bins in range(len(solution.least) - 1, -1, -1):
        if solution.least[bins] < least:
            least = float(solution.least[bins])
            found.append(_removal(solution.trace(bins), importance, savings))
    return _undominated(found)


def largest_removal(
    importance: ImportanceTable,
    savings: Sequence[float],
    *,
    length: int,
    segments: Sequence[Segment] = (),
) -> Removal:
    """Return the removal that saves the most, and of those the cheapest.

    Args:
        importance: What the removal of every run costs; runs that are not in it stay.
        savings: What the removal of each unit saves, `(L,)`, from 0 upwards.
        length: L.
        segments: Of each, at least one unit is kept.

    Raises:
        DataError: If runs lie outside the chain, or costs or savings are no numbers to plan with.
    """
    runs = _runs(importance, savings, length, segments)
    return _removal(most_saved(runs, length), importance, savings)


def _runs(
    importance: ImportanceTable, savings: Sequence[float], length: int, segments: Sequence[Segment]
) -> list[Run]:
    if len(savings) != length:
        raise DataError(
            f"asked to plan for {length} units with the savings of {len(savings)}: give one each."
        )
    runs = []
    for run, cost in sorted(importance.entries.items()):
        if not len(run) or run.stop > length:
            raise DataError(
                f"asked to plan for {length} units with the importance of the run {run}: "
                f"runs hold a unit or more and end at {length} at most."
            )
        if math.isnan(cost) or cost == -math.inf:
            raise DataError(
                f"asked to plan with the importance {cost} of the run {run}: it must be a number."
            )
        spared = savings[run.start : run.stop]
        if not all(0 <= saving < math.inf for saving in spared):
            raise DataError(
                f"asked to plan with the savings {list(spared)} of the units {run}: "
                "what a unit saves is a number from 0 upwards."
            )
        if cost < math.inf and not any(_holds(run, segment) for segment in segments):
            runs.append(Run(start=run.start, stop=run.stop, cost=float(cost), saved=math.fsum(spared)))
    return runs


def _holds(run: Segment, segment: Segment) -> bool:
    return len(segment) > 0 and run.start <= segment.start and segment.stop <= run.stop


def _finer_and_finer(runs: Sequence[Run], savings: Sequence[float], need: float) -> Iterator[float]:
    """Yield the one exact tick where there is one, else ever finer ones."""
    units = {unit for run in runs for unit in range(run.start, run.stop)}
    quantum = common_quantum(float(savings[unit]) for unit in units)
    if quantum is not None and fewest_ticks(need, quantum) <= _EXACT_TICKS:
        yield quantum
    else:
        yield from (need / count for count in _TICKS)


def _removal(units: tuple[int, ...], importance: ImportanceTable, savings: Sequence[float]) -> Removal:
    return Removal(
        removed=units,
        cost=math.fsum(importance[run] for run in Segment.runs(units)),
        saved=math.fsum(savings[unit] for unit in units),
    )


def _undominated(removals: Sequence[Removal]) -> list[Removal]:
    front: list[Removal] = []
    for removal in sorted(removals, key=lambda removal: (-removal.saved, removal.cost)):
        if not front or removal.cost < front[-1].cost:
            front.append(removal)
    return front[::-1]
