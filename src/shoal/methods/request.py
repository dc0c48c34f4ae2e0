"""What a method is given, and what every method may ask for: evidence, savings, measured losses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from hashlib import sha256
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from shoal.budget import Budget
from shoal.calling import Batch, Inputs, check_batches, device_of
from shoal.errors import DataError
from shoal.importance import (
    EvidenceSettings,
    GraftSettings,
    SkipLosses,
    collect_evidence,
    graft_scores,
    magnitudes,
)
from shoal.journal import Journal, fingerprint
from shoal.measurement import Loss, unit_latency
from shoal.plan import Plan
from shoal.planners import Requirement, remove_greedily, remove_lowest, unprotected
from shoal.result import Evidence
from shoal.tables import LatencyTable
from shoal.units import Chain, Granularity

__all__ = ["Request"]

Removed = tuple[int, ...]
# Scores of the evidence that need no backward pass.
_FORWARD = ("angular_distance", "block_influence")


@dataclass(kw_only=True)
class Request:
    """A network, its units, data to score on, and a budget.

    Attributes:
        model: The network; methods leave it as it was found.
        chain: Its units.
        batches: Calibration batches.
        example: What the model's forward takes, for latency.
        budget: What may remain.
        loss: For data that is neither labelled nor text.
        evidence: Evidence collected before, taken to be with default settings; collected when first
            needed.
        journal: Where dear numbers are kept.
        heal_batches: Batches to train on, for methods that train while they choose; `batches` where
            it is None.
        shallower: What a method that trains while it chooses leaves: the network without what its
            plan removes, with the weights that it has come to. None where the plan says all.
        granularity: What the units are.
    """

    model: nn.Module
    chain: Chain
    batches: Iterable[Batch]
    example: Inputs
    budget: Budget
    loss: Loss | None = None
    evidence: Evidence | None = None
    journal: Journal = field(default_factory=Journal)
    heal_batches: Iterable[Batch] | None = None
    shallower: nn.Module | None = None
    granularity: Granularity = "block"
    _collected: EvidenceSettings = field(default_factory=EvidenceSettings, init=False, repr=False)

    @cached_property
    def key(self) -> str:
        """Hash of network, units, data, loss and device, which the journal's keys begin with.

        Batches in another order are other data: a loader that shuffles cannot be gone on with.
        """
        network = (str(self.model), str(getattr(self.model, "config", "")), str(device_of(self.model)))
        units = [(unit.name, unit.modules, repr(unit.outputs)) for unit in self.chain]
        weights = (_content(value) for value in self.model.state_dict().values())
        return fingerprint(*network, units, _identity(self.loss), *weights, self.data_key)

    @cached_property
    def data_key(self) -> str:
        """Hash of the calibration batches.

        Raises:
            DataError: If they are none.
        """
        return self.fingerprint_of(check_batches(self.batches))

    @staticmethod
    def fingerprint_of(batches: Iterable[Batch]) -> str:
        """Return a hash of what batches hold, in their order."""
        with torch.random.fork_rng(devices=[]):
            # A loader that shuffles draws its order.
            return fingerprint(*(_content(leaf) for batch in batches for leaf in tree_leaves(_plain(batch))))

    def attainable(self, share: float, whole: float) -> Budget:
        """Return a budget of latency, in the form that was asked for, that is likely to be met.

        Args:
            share: What the fastest network takes, of the whole network's time.
            whole: That time, in seconds.
        """
        # Times are measured anew.
        return self.budget.nearest(min(1.03 * share, 1.0) * whole, whole)

    def collect(self, settings: EvidenceSettings | None = None) -> Evidence:
        """Return the evidence: what was collected before with such settings, or one pass over the
        batches now.
        """
        wanted, had = settings or EvidenceSettings(), self._collected
        serves = had.similarity == wanted.similarity and (had.gradients or not wanted.gradients)
        if self.evidence is None or not serves:
            self.evidence = collect_evidence(
                self.model, self.chain, self.batches, loss=self.loss, settings=wanted
            )
            self._collected = wanted
        return self.evidence

    def grafts(self, subsets: Sequence[Sequence[int]], settings: GraftSettings) -> list[float]:
        """Return the graft score of each subset of units; kept in the journal.

        Raises:
            DataError: If there is nothing to compute a loss from.
        """
        # With the leak of the released code a score depends on the subsets before it.
        name = f"{self.key}/graft/{fingerprint(asdict(settings), [tuple(subset) for subset in subsets])}"
        if name not in self.journal:
            self.journal[name] = graft_scores(
                self.model, self.chain, self.batches, subsets, loss=self.loss, settings=settings
            )
        return list(self.journal[name])

    @cached_property
    def losses(self) -> SkipLosses:
        """The measured loss without units."""
        return SkipLosses(
            self.model, self.chain, self.batches, loss=self.loss, journal=self.journal, key=self.key
        )

    def scores(self, name: str, settings: GraftSettings | None = None) -> list[float]:
        """Return one number a unit, `(L,)`, higher = keep.

        Args:
            name: `skip_loss` (measured), `graft`, or one of the evidence's.
            settings: How graft scores are taken.

        Raises:
            DataError: If the data does not allow such scores.
        """
        if name == "skip_loss":
            return self.losses.units()
        if name == "graft":
            return self.grafts([(index,) for index in range(len(self.chain))], settings or GraftSettings())
        if name == "magnitude" and (self.evidence is None or name not in self.evidence.importance):
            return list(magnitudes(self.model, self.chain).tolist())
        known = self.collect(replace(self._collected, gradients=name not in _FORWARD)).importance
        if name not in known:
            raise DataError(
                f"asked to score by {name!r}: there are skip_loss, graft and, in the evidence, "
                f"{', '.join(known)}. Scores by gradients need labels, text, or loss=."
            )
        return list(known[name].tolist())

    def lowest(
        self, score: str, *, protect_first: int, protect_last: int
    ) -> tuple[Removed, dict[str, list[float]]]:
        """Return the units of lowest score whose removal meets the budget, and their scores.

        Args:
            score: As for `scores`.
            protect_first: How many units at the beginning of the chain stay in any case.
            protect_last: How many at its end.

        Returns:
            Indices, ascending, and `{"scores": …}` for the plan.

        Raises:
            BudgetError: If all that may go does not save enough.
            DataError: If the data does not allow such scores.
            UnitError: If all units are protected.
        """
        free = unprotected(self.chain, first=protect_first, last=protect_last)
        savings, need = self.savings(candidates=free, circumstance=_protected(protect_first, protect_last))
        if need <= 0:
            return (), {"scores": []}
        scores = self.scores(score)
        unscored = [index for index in free if math.isnan(scores[index])]
        if unscored:
            raise DataError(
                f"asked to remove units by {score}: the units {unscored} have none, as they change the shape "
                "or their weights are no floating-point numbers. Methods by measured loss, such as sleb, "
                "can rank them."
            )
        removed = remove_lowest(scores, savings, need, candidates=free)
        return removed, {"scores": [scores[index] for index in removed]}

    def least_lost(
        self, *, protect_first: int = 0, protect_last: int = 0, lazy: float | None = None
    ) -> tuple[Removed, dict[str, Any]]:
        """Return the units that greedy search by measured loss removes, and what was measured.

        Args:
            protect_first: How many units at the beginning of the chain stay in any case.
            protect_last: How many at its end.
            lazy: When a unit is not measured again, see `remove_greedily`.

        Returns:
            Indices, in the order in which they went, and facts for the plan.

        Raises:
            BudgetError: If all that may go does not save enough.
            DataError: If there is nothing to compute a loss from, or the network's is not finite.
            UnitError: If all units are protected.
        """
        free = unprotected(self.chain, first=protect_first, last=protect_last)
        savings, need = self.savings(candidates=free, circumstance=_protected(protect_first, protect_last))
        tried: set[Removed] = set()

        def costs(gone: Removed, sets: Sequence[Removed]) -> list[float]:
            tried.update(sets)
            return self.losses.added(sets, gone=gone)

        removed = remove_greedily(free, savings, need, costs=costs, lazy=lazy)
        known = {"order": list(removed), "measured": len(tried)}
        if not removed:
            return (), known
        before, after = self.losses.of([(), removed])
        return removed, {**known, "loss": after, "loss_before": before}

    @cached_property
    def latency(self) -> LatencyTable:
        """The measured latency of every unit on the model's device."""
        return unit_latency(self.model, self.chain, self.example)

    def savings(
        self, *, keep: int = 0, candidates: Sequence[int] | None = None, circumstance: str = ""
    ) -> tuple[tuple[float, ...], float]:
        """Return what each unit saves of the budget's quantity, `(L,)`, and how much must be saved.

        Args:
            keep: How many units have to stay in any case.
            candidates: The units that may go; all removable ones where it is None.
            circumstance: Why no others may, for the message.

        Raises:
            BudgetError: If no removal meets the budget; names the nearest that can be had.
        """
        table = self.latency if self.budget.quantity == "latency" else None
        requirement = Requirement.of(self.chain, self.budget, table)
        allowed = self.chain.removable if candidates is None else candidates
        free = sorted(requirement.savings[index] for index in allowed)
        kept = max(0, keep - (len(self.chain) - len(free)))
        if not circumstance and len(allowed) < len(self.chain.removable):
            circumstance = f"with only {len(allowed)} of {len(self.chain)} units allowed to go"
        elif not circumstance and kept:
            circumstance = f"with {keep} of {len(self.chain)} units kept"
        requirement.check(math.fsum(free[kept:]), *([circumstance] if circumstance else []))
        return requirement.savings, requirement.need

    def plan(
        self,
        removed: Iterable[int],
        *,
        method: str,
        settings: Mapping[str, Any],
        predicted: Mapping[str, Any],
    ) -> Plan:
        """Return the plan that removes these units under this request's budget."""
        removed = tuple(removed)
        known: dict[str, Any] = dict(predicted)
        if self.budget.quantity == "latency":
            table = self.latency
            known["latency"] = table.whole - sum(table.units[index] for index in removed)
            known["latency_before"] = table.whole
        return Plan.removing(
            self.chain, removed, budget=self.budget, method=method, settings=settings, predicted=known
        )


def _protected(first: int, last: int) -> str:
    ends = {"protect_first": first, "protect_last": last}
    told = " and ".join(f"{name}={count}" for name, count in ends.items() if count)
    return f"with {told}," if told else ""


def _identity(function: Any) -> Any:
    """What tells one function from another, as far as it can be told between processes."""
    if isinstance(function, partial):
        return _identity(function.func), _told(function.args), _told(function.keywords)
    code = getattr(function, "__code__", None)
    if code is None:
        kind = function if isinstance(function, type) else type(function)
        named = getattr(function, "__qualname__", "")
        return kind.__module__, kind.__qualname__, named, _told(getattr(function, "__dict__", ""))
    cells = [_told(cell.cell_contents) for cell in function.__closure__ or ()]
    inner = [str(constant) for constant in code.co_consts if not isinstance(constant, CodeType)]
    return function.__module__, function.__qualname__, code.co_code.hex(), inner, code.co_names, cells


def _told(value: Any) -> str:
    """What a value says of itself, without where it lies in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _plain(batch: Batch) -> Any:
    return dict(batch) if isinstance(batch, Mapping) else batch


def _content(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    flat = value.detach().cpu().contiguous().reshape(-1)
    # A digest, so that weights and data are never held a second time.
    return str((value.dtype, tuple(value.shape))), sha256(flat.view(torch.uint8).numpy().data).hexdigest()
