"""`compress`: the whole story on one page: ask, choose, cut, heal, merge, measure, write."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from shoal.budget import Budget
from shoal.calling import Batch, Inputs
from shoal.errors import ConfigError
from shoal.journal import Journal
from shoal.measurement import Loss, evaluate_quality, measure_pair
from shoal.methods import Request
from shoal.plan import Plan
from shoal.result import CompressionResult, Evidence
from shoal.stages import Output, choose_plan, make_request, units_of
from shoal.surgery import certify, check_equal, check_format, expand, merge_layers
from shoal.training import HealSettings
from shoal.training import heal as heal_model
from shoal.units import Granularity

__all__ = ["check_healing", "compress", "unhealed"]


def compress(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    method: str = "sglp",
    budget: str | Budget,
    example: Inputs | None = None,
    heal: HealSettings | None = None,
    heal_batches: Iterable[Batch] | None = None,
    evaluation: Iterable[Batch] | None = None,
    preset: str | None = None,
    settings: Any = None,
    loss: Loss | None = None,
    evidence: Evidence | None = None,
    journal: Journal | None = None,
    output: Output | Path | str | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    granularity: Granularity = "block",
) -> CompressionResult:
    """Return the model made shallower within the budget, with what was removed, why, and the measured
    before and after.

    Args:
        model: Any network; it is left as it was found.
        batches: Batches to choose on, which the network was not trained on; see `analyze`.
        method, budget, example, preset, settings, loss, evidence, journal, granularity: As for
            `make_plan`.
        heal: How to train afterwards; not at all where it is None, but that batch norms take new statistics
            before convolutions merge.
        heal_batches: Batches to train on; `batches` where it is None.
        evaluation: Batches to judge by, apart from both; no quality is measured where it is None.
        output: Where to write the result, verified: a folder, or more; nowhere where it is None.
        checkpoint: Where healing keeps its state, so that it can go on.
        resume: Whether healing goes on from its last checkpoint.

    Raises:
        ShoalError: As `make_plan`, `apply`, `heal`, `save` and `verify` do; nothing half-written is
            left behind.
    """
    check_healing(heal)
    target = None if output is None else Output.at(output)
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
    train = request.heal_batches = batches if heal_batches is None else heal_batches
    plan = choose_plan(request, method, preset=preset, settings=settings)
    small = _cut(request, plan, target)
    if heal is None:
        small = unhealed(plan, small, train)
    else:
        small = heal_model(
            small,
            train,
            teacher=model,
            plan=plan,
            settings=heal,
            loss=loss,
            checkpoint=checkpoint,
            resume=resume,
        )
    result = _finish(request, plan, small, evaluation)
    if target is not None:
        target.write(result, model=model, example=request.example)
    return result


def check_healing(heal: object) -> None:
    """Check that settings of healing are such.

    Raises:
        ConfigError: If they are something else.
    """
    if heal is not None and not isinstance(heal, HealSettings):
        raise ConfigError(
            f"asked to heal with {heal!r}: shoal.HealSettings works, such as HealSettings(epochs=1), or None "
            "for not at all."
        )


def unhealed(plan: Plan, small: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    """Return what is handed back of a network that is not to be healed, convolutions still apart.

    Where convolutions merge, that is a copy whose batch norms have new statistics: what flows through them is
    not what it was, and after merging they are gone. Other networks stay as they are.

    Args:
        plan: What was done.
        small: What `expand` made of the network by it.
        batches: For the statistics.
    """
    return heal_model(small, batches, plan=plan, settings=HealSettings(epochs=0)) if plan.merges else small


def _cut(request: Request, plan: Plan, output: Output | None) -> nn.Module:
    """The network without what the plan removes, convolutions still apart, checked as far as it can be."""
    if output is not None:
        check_format(request.model, output.format, plan.removals)
    if request.shallower is not None:
        return request.shallower
    small = expand(request.model, plan)
    if output is not None and plan.merges:
        check_format(small, output.format)
    check_equal(request.model, plan, small, request.example)
    return small


def _finish(
    request: Request, plan: Plan, small: nn.Module, evaluation: Iterable[Batch] | None
) -> CompressionResult:
    """What is handed back of a network that was healed, measured beside the original."""
    model = request.model
    # Convolutions are merged last: what was trained computes the same.
    certificate = certify(model, plan, small) if plan.merges else None
    small = merge_layers(model, plan, small)
    before, after = measure_pair(model, small, request.example)
    if evaluation is not None:
        quality = [evaluate_quality(each, evaluation, loss=request.loss) for each in (model, small)]
        before, after = (replace(m, quality=q) for m, q in zip((before, after), quality, strict=True))
    return CompressionResult(
        model=small,
        plan=plan,
        evidence=request.evidence,
        before=before,
        after=after,
        certificate=certificate,
    )
