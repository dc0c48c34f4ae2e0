"""`shoal heal`: training after surgery, with the original as teacher."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import beside, read_json
from shoal.cli.loading import example_of, open_data, open_model, open_more_data
from shoal.cli.options import DataOptions, ModelOptions
from shoal.cli.settings import changed, show_settings

if TYPE_CHECKING:
    from shoal.architectures.references import LoadedModel
    from shoal.plan import Plan
    from shoal.training import HealSettings

__all__ = ["Options", "list_settings", "run"]


def list_settings() -> None:
    """Show every setting of healing."""
    from shoal.training import HealSettings

    show_settings("Settings of healing (--set KEY=VALUE)", HealSettings())


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions, ModelOptions):
    """What `shoal heal` takes.

    Attributes:
        data: Data to train on, with labels for classifiers; inputs alone are enough with a teacher.
        teacher: The original, whose outputs are learned from.
        epochs: How often the data is gone through; 0 recalibrates batch norms only.
        steps: Steps after which to stop, in place of epochs.
        lr: Highest learning rate; 1e-4 for language models, 1e-3 for others.
        distil: Weight of the teacher's outputs, from 0 to 1; the task has the rest.
        set: Another setting of healing; may be given again for others.
        list_settings: Show the settings of healing, and stop.
        eval_data: Data to measure the quality on, before and after.
        output: The folder to write; it appears when it is complete and verified.
        overwrite: Replace a folder of that name that shoal wrote.
        resume: Go on from the last checkpoint of an interrupted run.
    """

    teacher: Annotated[str | None, Flag(metavar="MODEL")] = None
    epochs: int | None = None
    steps: int | None = None
    lr: float | None = None
    distil: float | None = None
    set: Annotated[tuple[str, ...], Flag(metavar="KEY=VALUE")] = ()
    list_settings: Annotated[bool, Flag(action=list_settings)] = False
    eval_data: Annotated[str | None, Flag(metavar="DATA")] = None
    output: Annotated[Path, Flag(short="-o", metavar="DIR")]
    overwrite: bool = False
    resume: bool = False


def run(options: Options) -> None:
    """Train a network for a short while after surgery, on the task and on what a teacher says.

    A folder that shoal wrote keeps its plan. A checkpoint stands beside the output until it is done.
    """
    from shoal.surgery import check_target, format_of, save_verified

    check_target(options.output, overwrite=options.overwrite)
    settings = _settings(options)
    from dataclasses import replace

    from shoal.measurement import evaluate_quality, measure_pair
    from shoal.reports import checks_table, comparison_table
    from shoal.training import heal

    loaded = open_model(options)
    plan, source, original, evidence = _history(loaded)
    written = "auto" if loaded.folder is None else format_of(loaded.folder)
    teacher = None if options.teacher is None else open_model(options, options.teacher).model
    data = open_data(options, loaded)
    judged = None if options.eval_data is None else open_more_data(options.eval_data, options, loaded)
    checkpoint = beside(options.output, "heal.safetensors")
    healed = heal(
        loaded.model,
        data.batches,
        teacher=teacher,
        plan=plan,
        settings=settings,
        checkpoint=checkpoint,
        resume=options.resume,
    )
    example = example_of(data, loaded.model, 1)
    before, after = measure_pair(loaded.model, healed, example)
    if judged is not None:
        qualities = [evaluate_quality(each, judged.batches) for each in (loaded.model, healed)]
        before, after = (replace(m, quality=q) for m, q in zip((before, after), qualities, strict=True))
    verification = save_verified(
        healed,
        options.output,
        example=example,
        overwrite=options.overwrite,
        format=written,
        trust_remote_code=options.trust_remote_code,
        plan=plan,
        source=source if written == "auto" else loaded.source,
        before=original or before,
        after=after,
        tokenizer_from=loaded.folder or loaded.load_tokenizer(),
        extra={
            "evidence": evidence,
            "healed_on": data.description,
            "seeds": {"heal": settings.seed, "data": options.seed},
        },
    )
    checkpoint.unlink(missing_ok=True)
    if options.json:
        told = {"before": before.as_json(), "after": after.as_json(), "verification": verification.as_json()}
        show_json({"output": str(options.output), **told})
        return
    show_table(comparison_table(before, after))
    show_table(checks_table(verification))
    note(f"written to {options.output}")


def _settings(options: Options) -> HealSettings:
    from shoal.training import HealSettings

    given = {
        "epochs": options.epochs,
        "max_steps": options.steps,
        "lr": options.lr,
        "distil": options.distil,
        "seed": options.seed,
    }
    base = HealSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    settings: HealSettings = changed(base, options.set, of="healing")
    return settings


def _history(loaded: LoadedModel) -> tuple[Plan | None, Any, Any, Any]:
    """The plan, source, measurement of the original and evidence that a folder of shoal's remembers."""
    from shoal.architectures.origins import located
    from shoal.plan import Plan
    from shoal.result import Measurement

    record = None if loaded.folder is None else loaded.folder / "shoal.json"
    if record is None or not record.is_file():
        return None, loaded.source, None, None
    fields = read_json(record, "record")
    plan = Plan.from_json(json.dumps(fields["plan"])) if fields.get("plan") else None
    before = Measurement(**fields["before"]) if fields.get("before") else None
    source = fields.get("source")
    if loaded.source.get("original"):
        source = loaded.source["original"]
    elif source and loaded.folder is not None:
        source = located(source, loaded.folder)
    return plan, source or loaded.source, before, fields.get("evidence")
