"""`shoal heal`: training after surgery, with the original as teacher."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.command import Flag
from shoal.cli.files import read_json
from shoal.cli.loading import example_of, open_data, open_model
from shoal.cli.outcome import Outcome, TrainingOptions, checkpoint_of, judged_by, measured, written
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
class Options(TrainingOptions):
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
    """

    teacher: Annotated[str | None, Flag(metavar="MODEL")] = None
    epochs: int | None = None
    steps: int | None = None
    lr: float | None = None
    distil: float | None = None
    set: Annotated[tuple[str, ...], Flag(metavar="KEY=VALUE")] = ()
    list_settings: Annotated[bool, Flag(action=list_settings)] = False


def run(options: Options) -> None:
    """Train a network for a short while after surgery, on the task and on what a teacher says.

    A folder that shoal wrote keeps its plan. A checkpoint stands beside the output until it is done.
    """
    from shoal.surgery import check_target, format_of
    from shoal.training import heal

    check_target(options.output, overwrite=options.overwrite)
    settings = _settings(options)
    loaded = open_model(options)
    plan, source, original, evidence = _history(loaded)
    format = "auto" if loaded.folder is None else format_of(loaded.folder)
    teacher = None if options.teacher is None else open_model(options, options.teacher).model
    data, judged = open_data(options, loaded), judged_by(options, loaded)
    checkpoint = checkpoint_of(options, "heal")
    healed = heal(
        loaded.model,
        data.batches,
        teacher=teacher,
        # Units of a network with shortcuts are none of the folded one, nor of its teacher.
        plan=None if plan is None or "shortcuts" in plan.settings else plan,
        settings=settings,
        checkpoint=checkpoint,
        resume=options.resume,
    )
    example = example_of(data, loaded.model, 1)
    before, after = measured(loaded.model, healed, example, judged)
    verification = written(
        options,
        loaded,
        healed,
        checkpoint=checkpoint,
        example=example,
        format=format,
        plan=plan,
        source=source if format == "auto" else loaded.source,
        before=original or before,
        after=after,
        extra={
            "evidence": evidence,
            "healed_on": data.description,
            "seeds": {"heal": settings.seed, "data": options.seed},
        },
    )
    outcome = Outcome(before=before, after=after, verification=verification)
    if options.json:
        outcome.show_json()
    else:
        outcome.show()


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
