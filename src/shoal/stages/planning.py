"""`make_plan`: what to remove within a budget, by the method that is asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from shoal.budget import Budget
from shoal.calling import Batch, Inputs
from shoal.errors import ConfigError, ShoalWarning
from shoal.journal import Journal
from shoal.measurement import Loss
from shoal.methods import Method, Request, get, settings_for
from shoal.methods.timing import choose_on_time
from shoal.plan import Plan
from shoal.result import Evidence
from shoal.stages.asking import make_request, units_of
from shoal.surgery import check_plan
from shoal.units import Granularity

__all__ = ["choose_plan", "make_plan"]


def make_plan(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    method: str = "sglp",
    budget: str | Budget,
    example: Inputs | None = None,
    preset: str | None = None,
    settings: Any = None,
    loss: Loss | None = None,
    evidence: Evidence | None = None,
    journal: Journal | None = None,
    granularity: Granularity = "block",
) -> Plan:
    """Return what to remove so that the model meets the budget.

    Args:
        model: Any network; it is left as it was found.
        batches: Batches that the network was not trained on; see `analyze`.
        method: One of `shoal.methods.names()`.
        budget: What may remain, such as `macs=0.6`, `units=20`, `latency=0.7`.
        example: What the model's forward takes; latency is measured with it.
        preset: `paper` for the settings of the publication; the best we know where it is None.
        settings: Some of the method's settings by name, or an instance of them.
        loss: `loss(outputs, labels)` for data that is neither labelled nor text.
        evidence: What `analyze` returned for the same model, to be used again.
        journal: Where dear numbers are kept, so that an interrupted run can go on.
        granularity: What a unit is, as for `find_units`.

    Raises:
        BudgetError: If no plan meets the budget; names the nearest that can be had.
        ConfigError: If there is no such method, preset or setting.
        DataError: If the batches cannot be used, or the evidence is of another model.
        UnitError: If none of the units may be removed, or the config of a Hugging Face model cannot say
            what would be left.
    """
    request = make_request(
        model,
        batches,
        budget=budget,
        example=example,
        loss=loss,
        evidence=evidence,
        journal=journal,
        granularity=units_of(method, granularity),
    )
    plan = choose_plan(request, method, preset=preset, settings=settings)
    check_plan(model, plan)
    if request.shallower is not None:
        warnings.warn(
            f"{method} changed weights while it chose, and a plan holds none: `compress` hands back the "
            "network with them.",
            ShoalWarning,
            stacklevel=2,
        )
    return plan


def choose_plan(request: Request, method: str, *, preset: str | None = None, settings: Any = None) -> Plan:
    """Return what the method chooses; latency is corrected by what is really saved.

    Args:
        request: What is asked; the evidence that was collected is in it afterwards.
        method, preset, settings: As for `make_plan`.

    Raises:
        BudgetError, ConfigError, DataError: As `make_plan`.
    """
    chosen = get(method)
    wanted = settings_for(chosen, settings, preset)
    _check_granularity(request, chosen)
    if request.budget.quantity != "latency" or chosen.times_itself:
        return chosen.choose(request, wanted)
    measured = request.latency
    plan = choose_on_time(request, chosen, wanted)
    if request.evidence is not None:
        request.evidence = replace(request.evidence, latency=measured)
    return plan


def _check_granularity(request: Request, method: Method) -> None:
    if (method.granularity == "layer") != (request.granularity == "layer"):
        works = (
            "layermerge, layer_only and depth_merge work" if request.granularity == "layer" else "layer works"
        )
        raise ConfigError(
            f"asked for {method.name} with units of the granularity {request.granularity}: {works}."
        )
