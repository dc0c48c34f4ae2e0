"""The published program for merge plans: costs in whole ticks, one budget.

With g the ticks of an option's cost, M(n, t) the most importance (-loss) that layers 0 … n - 1 keep
within t ticks,

    M(0, t) = 0
    M(n, t) = max over options [start, n) of M(start, t - g) + importance

`merge_front` answers every budget without rounding; this is what results are compared with.

Axes: L layers; borders n = 0 … L; t = 0 … P ticks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shoal.errors import BudgetError, ConfigError
from shoal.planners.fronts import FrontPoint, Option, cheapest_rests, options_by_stop
from shoal.planners.ticks import fewest_ticks, whole_ticks

__all__ = ["Rounding", "discretised_plan"]

Rounding = Literal["floor", "ceil"]

_DECIMALS = 7


def discretised_plan(
    length: int, options: Sequence[Option], allowance: float, *, quantum: float, rounding: Rounding
) -> FrontPoint:
    """Return the plan of most importance, -loss, whose costs in ticks stay within the allowance in ticks.

    Sums of importance that are equal after rounding to 7 decimals go to the fewest ticks, then to the
    option that was given first. The cost that comes back is that of the options as they were given:
    with `floor` it may exceed the allowance, by less than one quantum for each option of the plan.

    Args:
        length: L, the number of layers.
        options: The ways to rewrite segments; their loss is minus their importance.
        allowance: The most that the plan may cost; rounded down to whole ticks.
        quantum: What a tick costs, in the unit of the costs; 0.1 ms in the authors' code.
        rounding: Of the options' costs to ticks: `floor`, as in the authors' code, or `ceil`, with
            which the allowance is never exceeded (by more than a rounding of 1e-9).

    Raises:
        BudgetError: If every plan takes more ticks; names the least allowance that would do.
        ConfigError: If the quantum is not above 0, the allowance is no number, or the rounding is unknown.
        DataError: If options end beyond the layers, or no options put end to end cover all layers.

    Example:
        >>> cheap, dear = (Option(start=0, stop=1, cost=cost, loss=-cost) for cost in (1.0, 2.9))
        >>> for rounding in ("floor", "ceil"):
        ...     discretised_plan(1, [cheap, dear], 2.5, quantum=1.0, rounding=rounding).cost
        2.9
        1.0

    Reference: Kim et al., 2024, LayerMerge, https://arxiv.org/abs/2406.12837, algorithm 1; the rounding
    of importance and the ties as in the authors' code.
    """
    if not 0 < quantum < math.inf or not math.isfinite(allowance) or rounding not in ("floor", "ceil"):
        raise ConfigError(
            f"asked for a plan that costs at most {allowance} in steps of {quantum}, rounded by "
            f"{rounding!r}: the steps must be above 0, both finite, the rounding floor or ceil."
        )
    by_stop = options_by_stop(length, options)
    in_ticks = whole_ticks if rounding == "floor" else fewest_ticks
    ticks = [in_ticks(option.cost, quantum) for option in options]
    # More than the dearest plan takes changes nothing.
    bins = min(whole_ticks(allowance, quantum), length * max(ticks, default=0))
    fewest = cheapest_rests(options, by_stop, ticks)[0]
    if fewest > bins:
        raise BudgetError(
            f"asked for a plan that costs at most {allowance:g}, in steps of {quantum:g}: the cheapest "
            f"takes {fewest:g} steps of rounded costs. Allow {fewest * quantum:g} or more."
        )
    tables = _fill(options, by_stop, ticks, bins)
    return FrontPoint.along(_trace(tables, options, ticks), options)


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """The filled tables of the program, `(L + 1, P + 1)` each.

    Attributes:
        kept: M, the most importance; minus infinity where nothing fits.
        spent: The ticks that it takes.
        option: The last option.
    """

    kept: NDArray[np.float64]
    spent: NDArray[np.int64]
    option: NDArray[np.int32]


def _fill(
    options: Sequence[Option], by_stop: Sequence[Sequence[int]], ticks: Sequence[int], bins: int
) -> _Tables:
    shape = (len(by_stop), bins + 1)
    kept, spent = np.full(shape, -math.inf), np.zeros(shape, dtype=np.int64)
    chosen = np.zeros(shape, dtype=np.int32)
    kept[0] = 0.0
    for stop, ending in enumerate(by_stop):
        for index in ending:
            start, taken = options[index].start, ticks[index]
            if taken > bins:
                continue
            candidates = kept[start, : bins + 1 - taken] - options[index].loss
            costs = spent[start, : bins + 1 - taken] + taken
            best, least = kept[stop, taken:], spent[stop, taken:]
            new, old = np.round(candidates, _DECIMALS), np.round(best, _DECIMALS)
            better = (new > old) | ((new == old) & (costs < least))
            best[better], least[better] = candidates[better], costs[better]
            chosen[stop, taken:][better] = index
    return _Tables(kept=kept, spent=spent, option=chosen)


def _trace(tables: _Tables, options: Sequence[Option], ticks: Sequence[int]) -> list[int]:
    """Return the options of the best plan, in order of layers."""
    path: list[int] = []
    border, column = tables.kept.shape[0] - 1, tables.kept.shape[1] - 1
    while border:
        path.append(int(tables.option[border, column]))
        border, column = options[path[-1]].start, column - ticks[path[-1]]
    return path[::-1]
