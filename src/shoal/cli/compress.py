"""`shoal compress`: the whole story in one command: score, plan, apply, heal, measure, save, verify."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.choosing import MethodOptions, check_untrained, method_settings, trains
from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import beside, kept
from shoal.cli.healing import HealOptions, check_healing, data_notes, heal_settings, open_further_data
from shoal.cli.loading import example_of, open_data, open_model
from shoal.cli.options import FormatOptions, ModelOptions, UnitOptions
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.architectures.references import LoadedModel
    from shoal.calling import Inputs
    from shoal.data import Data
    from shoal.result import CompressionResult
    from shoal.surgery import Verification

__all__ = ["Options", "report", "run", "sourced"]


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions, UnitOptions, FormatOptions, HealOptions, ModelOptions):
    """What `shoal compress` takes.

    Attributes:
        data: Data that the network was not trained on, to choose by: a .txt or .jsonl of text, a
            folder of images with a subfolder a class, an .npz, hf:NAME, digits, topics, or
            file.py:function that returns batches.
        budget: What may remain: units=20, params=0.7, macs=0.5, latency=0.6, latency=12ms.
        output: The folder to write; it appears when it is complete and verified.
        overwrite: Replace a folder of that name that shoal wrote.
        example_batch: Samples in the call whose MACs, latency and memory are measured.
        dry_run: Choose and say what would be removed; write nothing.
        resume: Go on where an interrupted run stopped.
    """

    budget: str
    output: Annotated[Path | None, Flag(short="-o", metavar="DIR")] = None
    overwrite: bool = False
    example_batch: int = 1
    dry_run: bool = False
    resume: bool = False


def run(options: Options) -> None:
    """Make a network shallower within a budget, from the first score to the verified folder.

    Prints what was removed, why, and the measured before and after. What was dear to measure is kept
    beside the output until the run is done, and --resume goes on with it.
    """
    settings, heal = method_settings(options, seed=options.seed), heal_settings(options)
    _check(options, settings)
    from shoal.budget import Budget

    budget = Budget.parse(options.budget)
    loaded = open_model(options)
    data = open_data(options, loaded)
    example = example_of(data, loaded.model, options.example_batch, whole=options.seq_len is not None)
    asked: dict[str, Any] = {
        "method": options.method,
        "budget": budget,
        "settings": settings,
        "example": example,
        "granularity": options.granularity,
    }
    if options.dry_run:
        _only_plan(options, loaded, data, asked)
        return
    if options.output is None:
        raise ConfigError("asked to compress without --output: say where to, or only look with --dry-run.")
    _check_format(options, loaded, example)
    train, judged = open_further_data(options, loaded)
    if judged is not None and judged.sha256 == data.sha256:
        note("the quality is measured on the data that the choice rests on: it will look too good")
    from shoal.pipeline import compress

    # What was dear to measure outlives a run that stops, and only that.
    with kept(
        beside(options.output, "journal.jsonl"), resume=options.resume, overwrite=options.overwrite
    ) as journal:
        checkpoint = beside(options.output, "heal.safetensors")
        result = compress(
            loaded.model,
            data.batches,
            **asked,
            heal=heal,
            heal_batches=None if train is None else train.batches,
            evaluation=None if judged is None else judged.batches,
            journal=journal,
            checkpoint=checkpoint,
            resume=options.resume,
        )
        result = sourced(result, data)
        notes = {"seeds": {"seed": options.seed}, "data": data_notes(data, train, judged)}
        verification = _write(options, loaded, result, example, notes)
        checkpoint.unlink(missing_ok=True)
    if options.heal_epochs is None and result.plan.merges:
        note("not healed: without --heal-epochs merged networks lose much", quiet=options.json)
    if options.heal_epochs is not None:
        healed_on = (data if train is None else train).description
        note(f"healed for {options.heal_epochs} epochs on {healed_on}", quiet=options.json)
    report(result, verification, samples=options.example_batch, as_json=options.json)


def report(
    result: CompressionResult, verification: Verification, *, samples: int = 1, as_json: bool = False
) -> None:
    """Show what was removed, why, the measured before and after, and what was checked."""
    from shoal.reports import certificate_table, checks_table, comparison_table, data_line, plan_table

    if as_json:
        data = None if result.evidence is None else dict(result.evidence.data)
        show_json(
            {
                "output": str(verification.folder),
                "plan": json.loads(result.plan.to_json()),
                "data": data,
                "before": result.before.as_json(),
                "after": result.after.as_json(),
                "certificate": None if result.certificate is None else result.certificate.as_json(),
                "verification": verification.as_json(),
            }
        )
        return
    show_table(plan_table(result.plan, result.evidence))
    if result.evidence is not None:
        print(data_line(result.evidence.data) + "\n")
    show_table(comparison_table(result.before, result.after, samples=samples))
    if result.certificate is not None:
        show_table(certificate_table(result.certificate))
    show_table(checks_table(verification))
    note(f"written to {verification.folder}")


def sourced(result: CompressionResult, data: Data) -> CompressionResult:
    """Return the result, its evidence saying which data it rests on."""
    if result.evidence is None:
        return result
    told = {"source": data.source, "sha256": data.sha256, **result.evidence.data}
    return replace(result, evidence=replace(result.evidence, data=told))


def _check(options: Options, settings: Any) -> None:
    if options.output is None and not options.dry_run:
        raise ConfigError("asked to compress without --output: say where to, or only look with --dry-run.")
    later = {
        "--resume": options.resume,
        "--heal-epochs": options.heal_epochs,
        "--heal-data": options.heal_data,
        "--eval-data": options.eval_data,
    }
    unused = [name for name, value in later.items() if value not in (None, False)]
    if unused and options.dry_run:
        raise ConfigError(f"asked for {', '.join(unused)} with --dry-run: it only chooses. Leave one out.")
    if options.dry_run:
        check_untrained(options, settings, asked="--dry-run")
    if options.output is not None and not options.dry_run:
        from shoal.surgery import check_target

        check_target(options.output, overwrite=options.overwrite)
    check_healing(options, trains=trains(settings))


def _check_format(options: Options, loaded: LoadedModel, example: Inputs) -> None:
    """Check, before long work is begun, that what remains can be written."""
    from shoal.architectures import find_units
    from shoal.methods import get
    from shoal.surgery import check_format, fold

    if get(options.method).granularity == "layer":
        # A network in which only parts can be followed keeps its class, which no config describes then.
        check_format(fold(loaded.model, example), options.format)
        return
    if options.granularity == "block":
        check_format(loaded.model, options.format)
        return
    chain = find_units(loaded.model, example, granularity=options.granularity)
    check_format(loaded.model, options.format, [unit for unit in chain if unit.removable])


def _only_plan(options: Options, loaded: LoadedModel, data: Data, asked: dict[str, Any]) -> None:
    from shoal.reports import plan_table
    from shoal.stages import make_plan

    plan = make_plan(loaded.model, data.batches, **asked)
    if options.json:
        show_json({"plan": json.loads(plan.to_json()), "output": None})
        return
    show_table(plan_table(plan))
    note("nothing was written (--dry-run)")


def _write(
    options: Options,
    loaded: LoadedModel,
    result: CompressionResult,
    example: Inputs,
    notes: dict[str, Any],
) -> Verification:
    from shoal.surgery import save_verified

    return save_verified(
        result.model,
        options.output or Path(),
        example=example,
        overwrite=options.overwrite,
        format=options.format,
        trust_remote_code=options.trust_remote_code,
        plan=result.plan,
        source=loaded.source,
        evidence=result.evidence,
        before=result.before,
        after=result.after,
        certificate=result.certificate,
        tokenizer_from=loaded.folder or loaded.load_tokenizer(),
        extra=notes,
    )
