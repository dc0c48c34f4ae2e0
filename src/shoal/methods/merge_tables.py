"""What every way to rewrite a segment of convolutions costs and loses, and the best choice of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from shoal.architectures.convolutions import Convolutions, find_convolutions
from shoal.calling import check_batches, device_of, sample_count
from shoal.errors import BudgetError, DataError
from shoal.importance import MergeLoss, MergeLosses
from shoal.layers import MergeEntry
from shoal.measurement import (
    EntryCost,
    count_macs,
    count_params,
    entry_costs,
    measure_latency,
    time_entries,
)
from shoal.methods.merging_settings import MergeSettings
from shoal.methods.request import Request
from shoal.planners import FrontPoint, Option, best_within, discretised_plan, merge_front
from shoal.processes import together
from shoal.steps import Merge
from shoal.surgery import EntryRules, find_entries, merge_

__all__ = ["MergeTables"]

T = TypeVar("T")


class MergeTables:
    """What the entries cost and lose, and the best choice of them."""

    def __init__(self, request: Request, settings: MergeSettings, rules: EntryRules) -> None:
        self.request, self.settings = request, settings
        self.quantity = request.budget.quantity
        self.convolutions: Convolutions = find_convolutions(request.model, request.example)
        self.entries = find_entries(self.convolutions, rules)
        self.scale = 1.0

    @cached_property
    def folded(self) -> nn.Module:
        """The network with all layers, batch norms folded."""
        return merge_(self.convolutions.copy(), ())

    @cached_property
    def before(self) -> tuple[float, float]:
        """What the original costs, and what it costs with batch norms folded."""
        request = self.request
        if self.quantity == "latency":
            return self.timed(self.folded)
        if self.quantity == "macs":
            return request.chain.macs, count_macs(self.folded, request.example).total
        if self.quantity == "params":
            return request.chain.params, count_params(self.folded)
        return len(request.chain), len(request.chain)

    def timed(self, network: nn.Module) -> tuple[float, float]:
        """Return the seconds of the original and of another network, measured side by side."""
        models = {"before": self.request.model, "after": network}
        if self.settings.timing.backend == "compile":
            models = {name: torch.compile(model) for name, model in models.items()}  # type: ignore[misc]
        example = self.request.example
        if self.settings.timing.channels_last:
            last = torch.channels_last
            copies: dict[str, Any] = copy.deepcopy(models)
            models = {name: each.to(memory_format=last) for name, each in copies.items()}
            example = tree_map(lambda leaf: leaf.to(memory_format=last) if _is_map(leaf) else leaf, example)

        def measured() -> tuple[float, float]:
            found = measure_latency(models, example)
            return found["before"].quickest, found["after"].quickest

        return _by_the_first(measured)

    @cached_property
    def costs(self) -> tuple[EntryCost, ...]:
        """What each entry costs."""
        settings, request = self.settings, self.request
        seconds = None
        if self.quantity == "latency":
            first = next(request.model.parameters())
            measure = partial(
                time_entries,
                self.entries,
                batch=sample_count(request.example),
                device=device_of(request.model),
                dtype=first.dtype,
                settings=settings.timing,
                journal=request.journal,
                key="shapes",
                everything=settings.time_all,
            )
            seconds = _by_the_first(measure)
        return entry_costs(
            self.entries,
            self.quantity,
            batch=sample_count(request.example),
            seconds=seconds,
            separate=settings.separate,
        )

    @cached_property
    def unchanged(self) -> dict[int, float]:
        """What each layer costs as it is; layers that are not searched are left out."""
        pairs = zip(self.entries, self.costs, strict=True)
        return {entry.segment.start: cost.total for entry, cost in pairs if entry.unchanged}

    @property
    def rest(self) -> float:
        """What everything else costs, which no plan changes."""
        return self.before[1] - self.scale * sum(self.unchanged.values())

    @property
    def allowance(self) -> float:
        """What may remain in all."""
        return self.request.budget.allowance(self.before[0])

    @cached_property
    def useful(self) -> list[int]:
        """The entries that cost less than the layers as they are, and those that change nothing."""
        found = []
        for number, (entry, cost) in enumerate(zip(self.entries, self.costs, strict=True)):
            as_is = sum(self.unchanged.get(index, math.inf) for index in entry.segment)
            if entry.unchanged or cost.total < as_is or self.settings.objective == "published":
                found.append(number)
        return [number for number in found if math.isfinite(self.costs[number].total)]

    @cached_property
    def losses(self) -> MergeLosses:
        """What entries lose."""
        request, tuning = self.request, self.request.heal_batches
        if tuning is request.batches:
            # Half of them lead back, the other half judges.
            tuning = None
        key = request.key
        if tuning is not None:
            key = f"{key}/{request.fingerprint_of(check_batches(tuning))}"
        return MergeLosses(
            self.convolutions,
            request.batches,
            loss=request.loss,
            tuning=tuning,
            journal=request.journal,
            key=key,
            settings=self.settings.importance,
        )

    def best(self, allowance: float) -> FrontPoint:
        """Return the choice of entries that loses least within what may remain in all; its options are
        numbers of entries, its cost that of the entries alone.

        Raises:
            BudgetError: If there is none.
        """
        room = (allowance - self.rest) / self.scale
        least = self._least()
        if least > room * (1 + 1e-9):
            raise self._impossible(self.rest + self.scale * least, allowance)
        if self.settings.measure == "all":
            self.losses.of([self.entries[number] for number in self.useful])
        while True:
            # Until it is measured an entry may cost nothing: no plan can be better than this one.
            hoped = self._solve([n for n in self.useful if self._loss(n) != math.inf], room)
            missing = [self.entries[n] for n in hoped.options if self._loss(n) is None]
            if not missing:
                return hoped
            with suppress(BudgetError, DataError):
                sure = self._solve([n for n in self.useful if self._loss(n) not in (None, math.inf)], room)
                if sure.loss - hoped.loss <= self.settings.tolerance:
                    return sure
            self.losses.of(missing)

    def _solve(self, numbers: Sequence[int], room: float) -> FrontPoint:
        """Return the best choice of these entries that costs no more than there is room for."""
        options = [self._option(number) for number in numbers]
        first, length = min(option.start for option in options), max(option.stop for option in options)
        shifted = [
            Option(start=o.start - first, stop=o.stop - first, cost=o.cost, loss=o.loss) for o in options
        ]
        if self.settings.quantum is None:
            point = best_within(merge_front(length - first, shifted, most=room), room)
        else:
            quantum, rounding = self.settings.quantum, self.settings.rounding
            point = discretised_plan(length - first, shifted, room, quantum=quantum, rounding=rounding)
        return replace(point, options=tuple(numbers[index] for index in point.options))

    def _option(self, number: int) -> Option:
        entry, loss = self.entries[number], self._loss(number)
        return Option(
            start=entry.segment.start,
            stop=entry.segment.stop,
            cost=self.costs[number].total,
            loss=0.0 if loss is None else loss,
        )

    def _loss(self, number: int) -> float | None:
        entry = self.entries[number]
        found = self.losses.measured(entry)
        if self.settings.objective == "published":
            return None if found is None else -math.exp(self._published(found))
        if entry.unchanged:
            return 0.0
        return None if found is None else max(0.0, found.loss)

    def cheapest(self) -> FrontPoint:
        """Return the choice of entries that costs least, whatever it loses."""
        return self.best(self.rest + self.scale * self._least())

    def _published(self, found: MergeLoss) -> float:
        """The change of accuracy, or of the loss where there are no classes, as published."""
        if found.accuracy_change is not None:
            return found.accuracy_change
        if not self.losses.loss_before:
            raise DataError(
                "asked for objective=published without labels: the gap to the original's outputs is none of "
                "a task. Labels, or loss=, work; or objective=loss."
            )
        return -found.loss / self.losses.loss_before

    def _least(self) -> float:
        """What the cheapest choice of entries costs by the table."""
        first = min(entry.segment.start for entry in self.entries)
        cheapest = {first: 0.0}
        for number in self.useful:
            segment = self.entries[number].segment
            cost = cheapest.get(segment.start, math.inf) + self.costs[number].total
            cheapest[segment.stop] = min(cost, cheapest.get(segment.stop, math.inf))
        return cheapest[max(cheapest)]

    def _impossible(self, least: float, allowance: float) -> BudgetError:
        share, budget = least / self.before[0], self.request.budget
        # Times are measured anew, and tables leave a little out; whole numbers are what they are.
        margin = 1.02 if budget.relative or self.quantity == "latency" else 1.0
        nearest = budget.nearest(margin * least, self.before[0])
        return BudgetError(
            f"asked for {self.request.budget}, {allowance:.4g} of {self.before[0]:.4g}: the most that "
            f"merging its convolutions can save leaves {least:.4g} ({share:.3f} of the original). Ask "
            f"for {nearest} or more."
        )

    def only(self, allowed: Callable[[MergeEntry], bool]) -> MergeTables:
        """Return the same tables with some of the entries alone."""
        useful, _, _ = self.useful, self.losses, self.before
        found = copy.copy(self)
        found.useful = [number for number in useful if allowed(self.entries[number])]
        found.scale = 1.0
        return found

    def steps(self, chosen: FrontPoint) -> tuple[Merge, ...]:
        """Return what a choice does to the network: at least, batch norms are folded."""
        found: list[Merge] = []
        folds: list[Merge] = []
        for number in chosen.options:
            entry, cost = self.entries[number], self.costs[number]
            step = self._step(entry, fused=cost.fused)
            # A layer by itself is folded in any case; with a shortcut in its region it may take that in.
            plain = entry.unchanged and (not cost.fused or entry.merged == entry.separate[0])
            (folds if plain else found).append(step)
        normed = [step for step in folds if self.convolutions.layers[step.start].norm]
        return tuple(found or [replace(step, fused=True) for step in normed[:1]])

    def _step(self, entry: MergeEntry, *, fused: bool) -> Merge:
        names = [layer.name for layer in self.convolutions.layers]
        return Merge(
            start=entry.segment.start,
            stop=entry.segment.stop,
            kept=entry.kept,
            layers=tuple(names[entry.segment.start : entry.segment.stop]),
            fused=fused,
            added=entry.added,
        )

    def check(self, counts: dict[str, int]) -> None:
        """Check that what a plan really leaves meets the budget: tables leave out what comes in for shifts.

        Raises:
            BudgetError: If it does not.
        """
        found = counts.get(self.quantity)
        if found is not None and found > self.allowance * (1 + 1e-9):
            raise self._impossible(found, self.allowance)

    def facts(self, chosen: FrontPoint) -> dict[str, Any]:
        """Return what the choice rests on."""
        measured = sum(self.losses.measured(entry) is not None for entry in self.entries)
        return {
            "added_loss": chosen.loss if self.settings.objective == "loss" else None,
            "importance": self.losses.source,
            "entries": len(self.entries),
            "entries_worth_it": len(self.useful),
            "entries_measured": measured,
        }


def _is_map(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() == 4


def _by_the_first(measure: Callable[[], T]) -> T:
    """What the first of the processes measures, in all of them: they would disturb each other."""
    with together() as processes:
        found = processes.exchange(measure() if processes.number == 0 else None)[0]
    return cast(T, found)
