"""Best: shoal's own method. Losses of the network without units are measured, and searched.

1. The loss without every unit and every short run of units is measured; a dynamic program over runs
   and greedy search that measures again only what may be cheapest propose sets under the budget.
2. A guess of the loss of any set, learned from all sets measured so far, says which exchanges of units
   are worth measuring; the search ends when rounds of them bring nothing better.
3. All that on a part of the calibration data. The best sets are then measured on all of it, also on
   what the search has not seen, and exchanged on until nothing is better there; the lowest loss wins.

What two sets have in common is computed once. Every part is weighed in `benchmarks/ablation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from shoal.calling import Batch, check_batches
from shoal.errors import ConfigError
from shoal.importance import SkipLosses
from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import (
    Search,
    cheapest_removal,
    give_back,
    improve_by_exchanges,
    meets,
    remove_greedily,
)
from shoal.progress import length
from shoal.tables import ImportanceTable

__all__ = ["METHOD", "BestSettings", "choose"]

Removed = tuple[int, ...]
Goal = tuple[Sequence[float], float]


@dataclass(frozen=True, kw_only=True)
class BestSettings:
    """How the best set of units is searched.

    Attributes:
        longest_run: The longest run of units whose loss is measured; longer ones are estimated.
        greedy: Whether greedy search proposes a set too.
        lazy: A unit is not measured again in a round of that search while this share of its last cost
            is more than the cheapest costs; see `sleb`.
        exchanges: The most sets that are measured while units are exchanged, in both searches; 0 for
            none.
        patience: Rounds of eight exchanges without anything better, after which the search ends.
        held_out: Share of the calibration batches that the first search does not see: every fourth
            batch for 0.25. Where there are fewer batches than that, or they come in another order each
            time, there is one search on all of them.
        finalists: Sets that are measured on all of the data after it.
    """

    longest_run: int = 2
    greedy: bool = True
    lazy: float = 0.5
    exchanges: int = 160
    patience: int = 3
    held_out: float = 0.25
    finalists: int = 5

    def __post_init__(self) -> None:
        faults = [
            (name, least)
            for name, least in (("longest_run", 1), ("exchanges", 0), ("patience", 1), ("finalists", 1))
            if getattr(self, name) < least
        ]
        if faults:
            told = "; ".join(f"{name}={getattr(self, name)}: {least} or more works" for name, least in faults)
            raise ConfigError(f"asked for {told}.")
        if not (0 <= self.lazy <= 1 and 0 <= self.held_out <= 0.5):
            raise ConfigError(
                f"asked for lazy={self.lazy} and held_out={self.held_out}: a share from 0 to 1 works, and "
                "one up to 0.5, so that half of the data is left to search on."
            )


def choose(request: Request, settings: BestSettings) -> Plan:
    """Return the plan whose measured loss is the lowest that the search finds.

    Raises:
        BudgetError: If no plan meets the budget.
        DataError: If there is nothing to compute a loss from.
    """
    goal = request.savings()
    if goal[1] <= 0:
        return _plan(request, settings, (), {})
    part, whole = _part(request, settings), request.losses
    starts = _starts(request, part, settings, goal)
    found = _exchanged(request, part, starts, settings, goal)
    measured = found.measured
    if part is not whole:
        finalists = [units for units, _ in found.best[: settings.finalists]]
        whole.of([(), *finalists], "measuring finalists")
        left = replace(settings, exchanges=settings.exchanges - measured)
        found = _exchanged(request, whole, finalists, left, goal, hints=_shifted(part, whole, finalists))
        measured += found.measured
    removed, loss = found.best[0]
    facts = {
        "loss": loss,
        "loss_before": whole(),
        "measured": len(whole.asked),
        "measured_on_part": len(part.asked) if part is not whole else 0,
        "measured_exchanges": measured,
    }
    return _plan(request, settings, removed, facts)


def _exchanged(
    request: Request,
    losses: SkipLosses,
    starts: Sequence[Removed],
    settings: BestSettings,
    goal: Goal,
    hints: Mapping[Removed, float] | None = None,
) -> Search:
    return improve_by_exchanges(
        starts,
        losses=lambda sets: losses.of(sets, "exchanging units"),
        allowed=_barely(goal),
        known={units: losses(units) for units in {(), *losses.asked}},
        candidates=request.chain.removable,
        length=len(request.chain),
        evaluations=settings.exchanges,
        patience=settings.patience,
        hints=hints,
    )


def _shifted(part: SkipLosses, whole: SkipLosses, finalists: Sequence[Removed]) -> dict[Removed, float]:
    """Losses on a part of the data, moved to where those on all of it are."""
    shifts = [shift for shift in (whole(u) - part(u) for u in finalists) if math.isfinite(shift)]
    shift = median(shifts) if shifts else 0.0
    return {units: part(units) + shift for units in list(part.asked)}


def _barely(goal: Goal) -> Callable[[Removed], bool]:
    """A test of whether a set saves enough, and no unit of it could come back."""
    enough = meets(*goal)
    return lambda units: enough(units) and give_back(units, *goal) == units


def _part(request: Request, settings: BestSettings) -> SkipLosses:
    """Losses on the part of the data that the first search sees."""
    count = length(check_batches(request.batches)) or 0
    step = round(1 / settings.held_out) if settings.held_out else 0
    # In another order every so-manieth batch would be another one each time.
    stable = 2 <= step <= count and request.fingerprint_of(request.batches) == request.data_key
    if not stable:
        return request.losses
    return SkipLosses(
        request.model,
        request.chain,
        _Most(request.batches, step),
        loss=request.loss,
        journal=request.journal,
        key=f"{request.key}/without every {step}th batch",
    )


class _Most:
    """Batches without every so-manieth."""

    def __init__(self, batches: Iterable[Batch], step: int) -> None:
        self._batches, self._step = batches, step

    def __len__(self) -> int:
        count = length(self._batches) or 0
        return count - count // self._step

    def __iter__(self) -> Iterator[Batch]:
        return (batch for number, batch in enumerate(self._batches, 1) if number % self._step)


def _starts(request: Request, losses: SkipLosses, settings: BestSettings, goal: Goal) -> list[Removed]:
    """What the tables of measured costs and greedy search propose."""
    free, count = request.chain.removable, len(request.chain)
    single = losses.units()
    alone = ImportanceTable.additive(single, free)
    tables = [alone] if settings.longest_run == 1 else [losses.runs(settings.longest_run), alone]
    starts = [cheapest_removal(table, *goal, length=count).removed for table in tables]
    if settings.greedy:
        starts.append(_greedy(losses, settings, goal, free))
    # Where losses fall without units, the tables propose more than is asked for: the dearest come back.
    return [give_back(sorted(units, key=single.__getitem__), *goal) for units in dict.fromkeys(starts)]


def _greedy(losses: SkipLosses, settings: BestSettings, goal: Goal, free: Sequence[int]) -> Removed:
    def costs(gone: Removed, sets: Sequence[Removed]) -> list[float]:
        return losses.added(sets, gone=gone, title="greedy search")

    return tuple(sorted(remove_greedily(free, *goal, costs=costs, lazy=settings.lazy)))


def _plan(request: Request, settings: BestSettings, removed: Removed, facts: Mapping[str, Any]) -> Plan:
    return request.plan(removed, method="best", settings=asdict(settings), predicted=facts)


METHOD = Method(
    name="best",
    help="measured losses of runs and sets of units, searched until nothing improves",
    settings=BestSettings,
    presets={"default": BestSettings()},
    choose=choose,
)
