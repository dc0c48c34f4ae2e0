"""What a method is given, and what every method may ask for: evidence, savings, measured losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from shoal.budget import Budget
from shoal.calling import Batch, Inputs
from shoal.importance import EvidenceSettings, SkipLosses, collect_evidence
from shoal.journal import Journal, fingerprint
from shoal.measurement import Loss, unit_latency
from shoal.plan import Plan
from shoal.planners import savings_for
from shoal.result import Evidence
from shoal.tables import LatencyTable
from shoal.units import Chain

__all__ = ["Request"]


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
        evidence: Evidence collected before, with default settings; collected when first needed.
        journal: Where dear numbers are kept.
    """

    model: nn.Module
    chain: Chain
    batches: Iterable[Batch]
    example: Inputs
    budget: Budget
    loss: Loss | None = None
    evidence: Evidence | None = None
    journal: Journal = field(default_factory=Journal)

    @cached_property
    def key(self) -> str:
        """Hash of weights and data, which the journal's keys begin with."""
        if self.journal.path is None:
            return ""
        weights = (_content(value) for value in self.model.state_dict().values())
        data = (_content(leaf) for batch in self.batches for leaf in tree_leaves(_plain(batch)))
        return fingerprint(*weights, *data)

    def collect(self, settings: EvidenceSettings | None = None) -> Evidence:
        """Return the evidence: what was collected before, or one pass over the batches now."""
        if self.evidence is None or settings is not None:
            self.evidence = collect_evidence(
                self.model, self.chain, self.batches, loss=self.loss, settings=settings
            )
        return self.evidence

    @cached_property
    def losses(self) -> SkipLosses:
        """The measured loss without units."""
        return SkipLosses(
            self.model, self.chain, self.batches, loss=self.loss, journal=self.journal, key=self.key
        )

    @cached_property
    def latency(self) -> LatencyTable:
        """The measured latency of every unit on the model's device."""
        return unit_latency(self.model, self.chain, self.example)

    def savings(self) -> tuple[tuple[float, ...], float]:
        """Return what each unit saves of the budget's quantity, `(L,)`, and how much must be saved.

        Raises:
            BudgetError: If no removal meets the budget.
        """
        table = self.latency if self.budget.quantity == "latency" else None
        return savings_for(self.chain, self.budget, table)

    def plan(
        self, removed: Iterable[int], *, method: str, settings: Mapping[str, Any], predicted: Mapping[str, Any]
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


def _plain(batch: Batch) -> Any:
    return dict(batch) if isinstance(batch, Mapping) else batch


def _content(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    flat = value.detach().cpu().contiguous().reshape(-1)
    return str((value.dtype, tuple(value.shape))).encode() + flat.view(torch.uint8).numpy().tobytes()
