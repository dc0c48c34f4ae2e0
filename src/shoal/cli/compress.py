"""`shoal compress`: the whole story in one command: score, plan, apply, heal, measure, save, verify."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.choosing import MethodOptions, method_settings
from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import beside, kept
from shoal.cli.loading import example_of, open_data, open_model, open_more_data
from shoal.cli.options import DataOptions, ModelOptions
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.architectures.references import LoadedModel
    from shoal.calling import Inputs
    from shoal.data import Data
    from shoal.result import CompressionResult
    from shoal.surgery import Verification
    from shoal.training import HealSettings

__all__ = ["Options", "report", "run", "sourced"]


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions, DataOptions, ModelOptions):
    """What `shoal compress` takes.

    Attributes:
        data: Data that the network was not trained on, to choose by: a .txt or .jsonl of text, a
            folder of images with a subfolder a class, an .npz, hf:NAME, digits, topics, or
            file.py:function that returns batches.
        budget: What may remain: units=20, params=0.7, macs=0.5, latency=0.6, latency=12ms.
        output: The folder to write; it appears when it is complete and verified.
        overwrite: Replace a folder of that name that shoal wrote.
        example_batch: Samples in the call whose MACs, latency and memory are measured.
        eval_data: Data to measure the quality on, before and after; best apart from DATA.
        eval_samples: How many samples of it; all where it is not given.
        heal_epochs: Train the result on the healing data so many times, with the original as
            teacher; 0 recalibrates batch norms only. No healing where it is not given.
        heal_data: Data to train on; DATA where it is not given.
        heal_lr: Highest learning rate of healing.
        heal_distil: Weight of the original's outputs in healing, from 0 to 1.
        dry_run: Choose and say what would be removed; write nothing.
        resume: Go on where an interrupted run stopped.
    """

    budget: str
    output: Annotated[Path | None, Flag(short="-o", metavar="DIR")] = None
    overwrite: bool = False
    example_batch: int = 1
    eval_data: Annotated[str | None, Flag(metavar="DATA")] = None
    eval_samples: int | None = None
    heal_epochs: int | None = None
    heal_data: Annotated[str | None, Flag(metavar="DATA")] = None
    heal_lr: float | None = None
    heal_distil: float | None = None
    dry_run: bool = False
    resume: bool = False


def run(options: Options) -> None:
    """Make a network shallower within a budget, from the first score to the verified folder.

    Prints what was removed, why, and the measured before and after. What was dear to measure is kept
    beside the output until the run is done, and --resume goes on with it.
    """
    _check(options)
    settings, heal = method_settings(options, seed=options.seed), _healing(options)
    from shoal.budget import Budget

    budget = Budget.parse(options.budget)
    loaded = open_model(options)
    data = open_data(options, loaded)
    example = example_of(data, loaded.model, options.example_batch, whole=options.seq_len is not None)
    if options.dry_run:
        _only_plan(options, loaded, data, {"budget": budget, "example": example, "settings": settings})
        return
    if options.output is None:
        raise ConfigError("asked to compress without --output: say where to, or only look with --dry-run.")
    train, judged = _more_data(options, loaded)
    from shoal.pipeline import compress

    # What was dear to measure outlives a run that stops, and only that.
    with kept(beside(options.output, "journal.jsonl"), resume=options.resume) as journal:
        checkpoint = beside(options.output, "heal.safetensors")
        result = compress(
            loaded.model,
            data.batches,
            method=options.method,
            budget=budget,
            example=example,
            settings=settings,
            heal=heal,
            heal_batches=None if train is None else train.batches,
            evaluation=None if judged is None else judged.batches,
            journal=journal,
            checkpoint=checkpoint,
            resume=options.resume,
        )
        result = sourced(result, data)
        verification = _write(options, loaded, result, example, _notes(options, data, train, judged))
        checkpoint.unlink(missing_ok=True)
    report(result, verification, samples=options.example_batch, as_json=options.json)


def report(
    result: CompressionResult, verification: Verification, *, samples: int = 1, as_json: bool = False
) -> None:
    """Show what was removed, why, the measured before and after, and what was checked."""
    from shoal.reports import checks_table, comparison_table, data_line, plan_table

    if as_json:
        data = None if result.evidence is None else dict(result.evidence.data)
        show_json(
            {
                "output": str(verification.folder),
                "plan": json.loads(result.plan.to_json()),
                "data": data,
                "before": result.before.as_json(),
                "after": result.after.as_json(),
                "verification": verification.as_json(),
            }
        )
        return
    show_table(plan_table(result.plan, result.evidence))
    if result.evidence is not None:
        print(data_line(result.evidence.data) + "\n")
    show_table(comparison_table(result.before, result.after, samples=samples))
    show_table(checks_table(verification))
    note(f"written to {verification.folder}")


def sourced(result: CompressionResult, data: Data) -> CompressionResult:
    """Return the result, its evidence saying which data it rests on."""
    if result.evidence is None:
        return result
    told = {"source": data.source, "sha256": data.sha256, **result.evidence.data}
    return replace(result, evidence=replace(result.evidence, data=told))


def _check(options: Options) -> None:
    if options.output is None and not options.dry_run:
        raise ConfigError("asked to compress without --output: say where to, or only look with --dry-run.")
    later = {
        "--resume": options.resume,
        "--heal-epochs": options.heal_epochs,
        "--eval-data": options.eval_data,
    }
    unused = [name for name, value in later.items() if value not in (None, False)]
    if unused and options.dry_run:
        raise ConfigError(f"asked for {', '.join(unused)} with --dry-run: it only chooses. Leave one out.")
    if options.output is not None and not options.dry_run:
        from shoal.surgery import check_target

        check_target(options.output, overwrite=options.overwrite)
    if options.eval_samples is not None and options.eval_data is None:
        raise ConfigError("asked for --eval-samples without --eval-data: say of which data.")
    given = {
        "--heal-data": options.heal_data,
        "--heal-lr": options.heal_lr,
        "--heal-distil": options.heal_distil,
    }
    idle = [name for name, value in given.items() if value is not None]
    if idle and options.heal_epochs is None:
        raise ConfigError(f"asked for {', '.join(idle)} without --heal-epochs: nothing is healed without it.")


def _healing(options: Options) -> HealSettings | None:
    if options.heal_epochs is None:
        return None
    from shoal.training import HealSettings

    given: dict[str, Any] = {"lr": options.heal_lr, "distil": options.heal_distil}
    chosen = {name: value for name, value in given.items() if value is not None}
    return HealSettings(epochs=options.heal_epochs, seed=options.seed, **chosen)


def _more_data(options: Options, loaded: LoadedModel) -> tuple[Data | None, Data | None]:
    train = None if options.heal_data is None else open_more_data(options.heal_data, options, loaded)
    if options.eval_data is None:
        return train, None
    return train, open_more_data(options.eval_data, options, loaded, options.eval_samples)


def _only_plan(options: Options, loaded: LoadedModel, data: Data, asked: dict[str, Any]) -> None:
    from shoal.pipeline import make_plan
    from shoal.reports import plan_table

    plan = make_plan(loaded.model, data.batches, method=options.method, **asked)
    if options.json:
        show_json({"plan": json.loads(plan.to_json()), "output": None})
        return
    show_table(plan_table(plan))
    note("nothing was written (--dry-run)")


def _notes(options: Options, data: Data, train: Data | None, judged: Data | None) -> dict[str, Any]:
    used = {"calibration": data, "healing": train, "evaluation": judged}
    return {
        "seeds": {"seed": options.seed},
        "data": {name: each.description for name, each in used.items() if each is not None},
    }


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
        trust_remote_code=options.trust_remote_code,
        plan=result.plan,
        source=loaded.source,
        evidence=result.evidence,
        before=result.before,
        after=result.after,
        tokenizer_from=loaded.folder or loaded.load_tokenizer(),
        extra=notes,
    )
