"""The whole story on one page: find the units, collect evidence, plan, apply, heal, save, verify."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import Batch, Inputs, check_batches, first_sample, split_batch
from shoal.errors import ConfigError, DataError, ShoalWarning, UnitError
from shoal.importance import EvidenceSettings, StreamSettings, collect_evidence, stream_evidence
from shoal.journal import Journal
from shoal.measurement import Loss, evaluate_quality, measure_pair
from shoal.methods import Method, Request, get, settings_for
from shoal.methods.timing import choose_on_time
from shoal.plan import Plan
from shoal.processes import together
from shoal.result import CompressionResult, Evidence
from shoal.surgery import (
    certify,
    check_equal,
    check_format,
    check_plan,
    check_target,
    expand,
    merge_layers,
    save_verified,
)
from shoal.training import HealSettings
from shoal.training import heal as heal_model
from shoal.units import Granularity

__all__ = [
    "Output",
    "analyze",
    "check_healing",
    "choose_plan",
    "compress",
    "make_plan",
    "make_request",
    "unhealed",
]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where and how a compressed model is written.

    Attributes:
        folder: The folder to make.
        source: How the original is had again (`LoadedModel.source`), for models that are not of
            Hugging Face.
        original: Folder of the original, whose tokenizer and processor files are copied.
        overwrite: Whether an existing folder may be replaced.
        format: As for `shoal.save`.
        notes: Further entries of `shoal.json`, such as seeds and data.
    """

    folder: Path
    source: Mapping[str, Any] | None = None
    original: Path | None = None
    overwrite: bool = False
    format: Literal["auto", "torch"] = "auto"
    notes: Mapping[str, Any] = field(default_factory=dict)


def analyze(
    model: nn.Module | Path | str,
    batches: Iterable[Batch],
    *,
    example: Inputs | None = None,
    loss: Loss | None = None,
    settings: EvidenceSettings | None = None,
    granularity: Granularity = "block",
    stream: StreamSettings | None = None,
) -> Evidence:
    """Return what one pass over the batches says of the model's units.

    In a program that `accelerate launch` or torchrun has started several times, the processes share the
    batches, and each returns what all of them say. Every one has to call this, with the same model and
    the same batches.

    Args:
        model: Any network; it is left as it was found. Or a Hugging Face folder with safetensors, which
            is read one layer at a time and may be larger than memory.
        batches: Re-iterable batches the network was **not** trained on: inputs, `(inputs, labels)`,
            or dicts such as `{"input_ids": …}`. Scores by loss mean little on memorised data.
        example: What the model's forward takes; the first sample of the batches where it is None.
        loss: `loss(outputs, labels)` for data that is neither labelled nor text.
        settings: How the pass is made.
        granularity: What a unit is, as for `find_units`.
        stream: Where hidden states are kept while a folder is read.

    Raises:
        ConfigError: If the folder cannot be read one layer at a time.
        UnknownArchitectureError: If the network has no units.
        DataError: If the batches cannot be used; says why.

    Example:
        >>> import torch
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)])
        >>> analyze(net, [torch.randn(16, 8)]).similarity.shape
        (4, 4)
    """
    if not isinstance(model, nn.Module):
        return stream_evidence(
            model,
            batches,
            example=example,
            granularity=granularity,
            loss=loss,
            settings=settings,
            stream=stream,
        )
    if stream is not None:
        raise ConfigError(
            f"asked to keep hidden states of {type(model).__name__} as stream= says: that is for a folder "
            "that is read layer by layer, and this network is loaded. Pass the folder, or leave stream= out."
        )
    with together():
        chain = find_units(model, _example(batches, example), granularity=granularity)
        return collect_evidence(model, chain, batches, loss=loss, settings=settings)


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
        granularity=_units_of(method, granularity),
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
    if isinstance(output, (str, Path)):
        output = Output(folder=Path(output))
    if output is not None:
        check_target(output.folder, overwrite=output.overwrite)
    request = make_request(
        model,
        batches,
        budget=budget,
        example=example,
        loss=loss,
        evidence=evidence,
        journal=journal,
        granularity=_units_of(method, granularity),
    )
    train = request.heal_batches = batches if heal_batches is None else heal_batches
    plan = choose_plan(request, method, preset=preset, settings=settings)
    if output is not None:
        check_format(model, output.format, plan.removals)
    small = request.shallower
    if small is None:
        small = expand(model, plan)
        if output is not None and plan.merges:
            check_format(small, output.format)
        check_equal(model, plan, small, request.example)
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
    # Convolutions are merged last: what was trained computes the same.
    certificate = certify(model, plan, small) if plan.merges else None
    small = merge_layers(model, plan, small)
    before, after = measure_pair(model, small, request.example)
    if evaluation is not None:
        quality = [evaluate_quality(each, evaluation, loss=loss) for each in (model, small)]
        before, after = (replace(m, quality=q) for m, q in zip((before, after), quality, strict=True))
    if output is not None:
        save_verified(
            small,
            output.folder,
            example=request.example,
            original=model,
            overwrite=output.overwrite,
            format=output.format,
            plan=plan,
            source=output.source,
            evidence=request.evidence,
            before=before,
            after=after,
            tokenizer_from=output.original,
            certificate=certificate,
            extra=output.notes,
        )
    return CompressionResult(
        model=small,
        plan=plan,
        evidence=request.evidence,
        before=before,
        after=after,
        certificate=certificate,
    )


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


def make_request(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    budget: str | Budget,
    example: Inputs | None = None,
    loss: Loss | None = None,
    evidence: Evidence | None = None,
    journal: Journal | None = None,
    granularity: Granularity = "block",
) -> Request:
    """Return what a method is asked: the network, its units, the data, the budget.

    Args:
        model, batches, budget, example, loss, evidence, journal, granularity: As for `make_plan`.

    Raises:
        BudgetError, DataError, UnitError: As `make_plan`.
    """
    wanted, example = Budget.parse(budget), _example(batches, example)
    chain = find_units(model, example, granularity=granularity)
    if not chain.removable and granularity != "layer":
        why = "; ".join(sorted({unit.why for unit in chain}))
        raise UnitError(
            f"asked to meet {wanted} with {chain.model}: it has {len(chain)} units and none may be "
            f"removed: {why}."
        )
    if evidence is not None and [u.name for u in evidence.chain] != [u.name for u in chain]:
        raise DataError(
            f"asked to use evidence of {len(evidence.chain)} units of {evidence.chain.model} on "
            f"{chain.model} with {len(chain)}: it was collected from another model. Run analyze on this one."
        )
    return Request(
        model=model,
        chain=chain,
        batches=batches,
        example=example,
        budget=wanted,
        loss=loss,
        evidence=evidence,
        journal=Journal() if journal is None else journal,
        granularity=granularity,
    )


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


def _units_of(method: str, granularity: Granularity) -> Granularity:
    own = get(method).granularity
    if own is not None and granularity not in ("block", own):
        raise ConfigError(
            f"asked for {method} with units of the granularity {granularity}: its units are of the "
            f"granularity {own}. Leave granularity out."
        )
    return own or granularity


def _check_granularity(request: Request, method: Method) -> None:
    if (method.granularity == "layer") != (request.granularity == "layer"):
        works = (
            "layermerge, layer_only and depth_merge work" if request.granularity == "layer" else "layer works"
        )
        raise ConfigError(
            f"asked for {method.name} with units of the granularity {request.granularity}: {works}."
        )


def _example(batches: Iterable[Batch], example: Inputs | None) -> Inputs:
    if example is not None:
        return example
    return first_sample(split_batch(next(iter(check_batches(batches))))[0])
