"""The front of merge plans: for every cost that is worth paying, the plan that loses least.

A plan cuts a chain of layers into segments and takes one option for each; costs and losses add up.
At border n stand labels: the pairs (cost, loss) of all ways to rewrite layers 0 … n - 1 that no other
way beats in both,

    F(n) = undominated of { (c + cost, l + loss) : options [start, n), (c, l) in F(start) }

Costs are not rounded to a grid, and F(L) answers every budget at once.

Axes: L layers; borders 0 … L, border n between layers n - 1 and n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.errors import BudgetError, DataError
from shoal.planners.enough import SLACK, is_enough
from shoal.units import Segment

__all__ = ["FrontPoint", "Option", "best_within", "cheapest_rests", "merge_front", "options_by_stop"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to rewrite a segment of layers.

    Attributes:
        start, stop: Its layers, `[start, stop)`.
        cost: What it costs to run, from 0 upwards, such as seconds.
        loss: What it costs in quality; may be negative; lower is better.
    """

    start: int
    stop: int
    cost: float
    loss: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise DataError(
                f"asked for an option for the layers [{self.start}, {self.stop}): "
                "it needs one layer or more, and layers are numbered from 0."
            )
        if not 0 <= self.cost < math.inf or not math.isfinite(self.loss):
            raise DataError(
                f"asked for an option for the layers [{self.start}, {self.stop}) that costs {self.cost} "
                f"and loses {self.loss}: both must be finite numbers, and the cost 0 or more."
            )


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A plan for all layers.

    Attributes:
        cost: What its options cost together.
        loss: What they lose together.
        options: Their indices in the options that were given, in order of layers.
    """

    cost: float
    loss: float
    options: tuple[int, ...]

    @classmethod
    def along(cls, path: Iterable[int], options: Sequence[Option]) -> FrontPoint:
        """Return the plan that takes the options of these indices."""
        path = tuple(path)
        return cls(
            cost=math.fsum(options[index].cost for index in path),
            loss=math.fsum(options[index].loss for index in path),
            options=path,
        )


def merge_front(
    length: int, options: Sequence[Option], *, most: float | None = None
) -> tuple[FrontPoint, ...]:
    """Return the plans that no other plan beats in cost or loss without being beaten in the other.

    Exact, up to the rounding of sums. The time grows with the number of labels: some hundred a border
    for measured costs and losses; those of an adversary can double it with every layer.

    Args:
        length: L, the number of layers.
        options: The ways to rewrite segments, in any order; a segment may have several.
        most: Plans that cost more are left out, up to a rounding of 1e-9 of it, and given up as soon
            as the cheapest way to complete them would cost more.

    Returns:
        Plans in strictly ascending order of cost and strictly descending order of loss, one or more.
        Of plans that are equal in both, one.

    Raises:
        BudgetError: If every plan costs more than `most`; names the least that can be had.
        DataError: If options end beyond the layers, or no options put end to end cover all layers.

    Example:
        >>> separate = [Option(start=n, stop=n + 1, cost=2.0, loss=0.0) for n in range(2)]
        >>> merged = Option(start=0, stop=2, cost=3.0, loss=0.5)
        >>> [(plan.cost, plan.loss, plan.options) for plan in merge_front(2, [*separate, merged])]
        [(3.0, 0.5, (2,)), (4.0, 0.0, (0, 1))]
    """
    by_stop = options_by_stop(length, options)
    labels = _labels(options, by_stop, most)
    plans = [FrontPoint.along(_path(labels, options, end), options) for end in range(len(labels[-1].cost))]
    front: list[FrontPoint] = []
    # Sums that differ by the order of their terms are equal only now.
    for plan in sorted(plans, key=lambda plan: (plan.cost, plan.loss)):
        if not front or plan.loss < front[-1].loss:
            front.append(plan)
    return tuple(front) if most is None else _within(front, most)


def best_within(front: Sequence[FrontPoint], allowance: float) -> FrontPoint:
    """Return the plan of least loss that costs no more than is allowed, up to a rounding of 1e-9 of it.

    Args:
        front: Plans in ascending order of cost and descending order of loss.
        allowance: The most that the plan may cost.

    Raises:
        BudgetError: If every plan costs more; names the least that can be had.
        DataError: If there is no plan.

    Example:
        >>> options = [Option(start=0, stop=1, cost=cost, loss=-cost) for cost in (1.0, 2.0, 4.0)]
        >>> best_within(merge_front(1, options), 3.5).cost
        2.0
    """
    if not front:
        raise DataError("asked for the best plan of an empty front: it must hold one plan or more.")
    return _within(front, allowance)[-1]


def options_by_stop(length: int, options: Sequence[Option]) -> list[list[int]]:
    """Return the indices of the options that end at each border, `(L + 1,)`.

    Raises:
        DataError: If options end beyond the layers, or no options put end to end cover all layers.
    """
    if length < 0:
        raise DataError(f"asked to plan for {length} layers: there must be 0 or more.")
    by_stop: list[list[int]] = [[] for _ in range(length + 1)]
    for index, option in enumerate(options):
        if option.stop > length:
            raise DataError(
                f"asked to plan for {length} layers with an option for the layers "
                f"[{option.start}, {option.stop}): options end at {length} at most."
            )
        by_stop[option.stop].append(index)
    reached = {0}
    for border, ending in enumerate(by_stop):
        if any(options[index].start in reached for index in ending):
            reached.add(border)
    if length not in reached:
        raise DataError(f"asked to plan for {length} layers: {_gap(length, options, reached)}")
    return by_stop


def cheapest_rests(
    options: Sequence[Option], by_stop: Sequence[Sequence[int]], costs: Sequence[float]
) -> list[float]:
    """Return the least that the layers from each border on cost, `(L + 1,)`; infinite without a way."""
    rests = [math.inf] * (len(by_stop) - 1) + [0.0]
    for stop in range(len(by_stop) - 1, 0, -1):
        for index in by_stop[stop]:
            start = options[index].start
            rests[start] = min(rests[start], costs[index] + rests[stop])
    return rests


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """The labels of a border, ascending in cost.

    Attributes:
        cost, loss: The sums.
        option: The last option.
        before: The label at the start of that option which it was added to.
    """

    cost: NDArray[np.float64]
    loss: NDArray[np.float64]
    option: NDArray[np.int32]
    before: NDArray[np.int32]

    def taken(self, which: slice | NDArray[np.intp]) -> _Labels:
        return _Labels(
            cost=self.cost[which],
            loss=self.loss[which],
            option=self.option[which],
            before=self.before[which],
        )


def _labels(options: Sequence[Option], by_stop: Sequence[Sequence[int]], most: float | None) -> list[_Labels]:
    """Return the labels of every border; the cheapest plan is always among those of the last."""
    rests = cheapest_rests(options, by_stop, [option.cost for option in options])
    limit = math.inf if most is None else max(rests[0], most) * (1 + 2 * SLACK)
    zero, none = np.zeros(1), np.zeros(1, dtype=np.int32)
    labels = [_Labels(cost=zero, loss=zero, option=none, before=none)]
    nothing = labels[0].taken(slice(0))
    for rest, ending in zip(rests[1:], by_stop[1:], strict=True):
        ways = [nothing]
        if rest < math.inf:
            ways += (_extended(labels, index, options[index], limit - rest) for index in ending)
        labels.append(_undominated(ways))
    return labels


def _extended(labels: Sequence[_Labels], index: int, option: Option, limit: float) -> _Labels:
    """Return the labels at the option's start with it added, as far as they cost no more than the limit."""
    before = labels[option.start]
    cost = before.cost + option.cost
    count = int(np.searchsorted(cost, limit, side="right"))
    return _Labels(
        cost=cost[:count],
        loss=before.loss[:count] + option.loss,
        option=np.full(count, index, dtype=np.int32),
        before=np.arange(count, dtype=np.int32),
    )


def _undominated(ways: Sequence[_Labels]) -> _Labels:
    """Return those of the labels that no other beats, ascending in cost; of equal ones the first."""
    whole = _Labels(
        cost=np.concatenate([way.cost for way in ways]),
        loss=np.concatenate([way.loss for way in ways]),
        option=np.concatenate([way.option for way in ways]),
        before=np.concatenate([way.before for way in ways]),
    )
    # Every way is sorted already, which a stable sort makes use of.
    order = np.argsort(whole.cost, kind="stable")
    loss = whole.loss[order]
    least_before = np.minimum.accumulate(np.concatenate([[math.inf], loss]))[:-1]
    order = order[loss < least_before]
    # Of those that cost the same, each lost less than the one before.
    cost = whole.cost[order]
    return whole.taken(order[np.diff(cost, append=math.inf) > 0])


def _path(labels: Sequence[_Labels], options: Sequence[Option], end: int) -> list[int]:
    """Return the options that lead to a label of the last border, in order of layers."""
    path: list[int] = []
    border, label = len(labels) - 1, end
    while border:
        here = labels[border]
        path.append(int(here.option[label]))
        border, label = options[path[-1]].start, int(here.before[label])
    return path[::-1]


def _within(front: Sequence[FrontPoint], allowance: float) -> tuple[FrontPoint, ...]:
    plans = tuple(plan for plan in front if is_enough(allowance, plan.cost))
    if not plans:
        raise BudgetError(
            f"asked for a plan that costs at most {allowance:g}: the cheapest costs {front[0].cost:g} "
            f"and loses {front[0].loss:g}. Allow no less than that."
        )
    return plans


def _gap(length: int, options: Sequence[Option], reached: set[int]) -> str:
    """Say why no options put end to end cover all layers."""
    covered = {layer for option in options for layer in range(option.start, option.stop)}
    if missing := Segment.runs(set(range(length)) - covered):
        layers = ", ".join(map(str, missing))
        return f"no option covers the layers {layers}. Give every layer an option, if only to stay."
    borders = ", ".join(map(str, sorted(reached)))
    return (
        f"put end to end from layer 0 on, the options end at the borders {borders}, and none leads from "
        f"there to {length}. Give options that start at one of these borders."
    )
