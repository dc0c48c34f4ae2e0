"""What `shoal train` does with a network once, however often it is asked to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from shoal.cli.console import note, show_table
from shoal.cli.files import check_file_target
from shoal.cli.loading import example_of, open_data, open_model
from shoal.cli.outcome import Outcome, checkpoint_of, judged_by, measured, written
from shoal.cli.settings import changed
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shoal.architectures.references import LoadedModel
    from shoal.calling import Inputs
    from shoal.cli.train import Options
    from shoal.data import Batches, Data
    from shoal.plan import Plan
    from shoal.training import ConcurrentSettings, FitSettings, TrainingResult
    from shoal.training.concurrent.trace import Trace

__all__ = ["Trained", "Training", "check_figures", "check_goal"]

_FIGURE = "gates"
# With fewer batches that a unit was asked on, what it is worth is hardly known.
_FEWEST = 10


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one training has come to.

    Attributes:
        plan: What was removed.
        told: How training went, as it stands in the folder.
        outcome: Before, after, and the folder.
    """

    plan: Plan
    told: Mapping[str, Any]
    outcome: Outcome

    def show_json(self) -> None:
        """Show it as one JSON document."""
        self.outcome.show_json(plan=json.loads(self.plan.to_json()), training=self.told)

    def show(self) -> None:
        """Show it as tables."""
        from shoal.reports import plan_table

        show_table(plan_table(self.plan))
        self.outcome.show(*self._notes())

    def _notes(self) -> list[str]:
        from shoal.training.concurrent.worth import Worth

        notes = []
        asked = self.told["asked"]
        if asked["shortcuts"]:
            before, after = self.outcome.before, self.outcome.after
            goal = (
                "" if asked["budget"] is None else f"asked for was {asked['budget']} of the plain network; "
            )
            notes.append(
                f"{goal}the plan counts the paths around layers; once they are folded "
                f"{after.params / before.params:.0%} of the plain network's parameters and "
                f"{after.macs / before.macs:.0%} of its MACs are left"
            )
        if self.told["pruning"] is not None:
            saved = self.told["pruning"]["saved"]
            what = "was saved" if saved >= 0 else "came on top, for asking units what they are worth"
            notes.append(f"{abs(saved):.0%} of the training compute of the whole network {what}, in MACs")
        worth = self.plan.predicted.get("worth", {})
        if short := sum(Worth(**each).is_below for each in worth.values()):
            notes.append(
                f"{short} of the {len(worth)} units that could still leave are surely worth less than their "
                "price now that training is over"
            )
        asked_of = self.plan.predicted.get("asked", {})
        left = self.plan.removed if asked_of else ()
        if unsure := sum(asked_of.get(str(index), 0) < _FEWEST for index in left):
            notes.append(
                f"{unsure} of the {len(left)} units that left were asked on fewer than {_FEWEST} batches "
                "what they are worth: close to chance; more steps say more"
            )
        return notes


@dataclass(frozen=True, kw_only=True)
class Training:
    """What was opened to train once, or several times.

    Attributes:
        loaded: The network.
        batches: What it is trained on.
        described: The same in words.
        judged: What its quality is measured on.
        example: One sample.
        gates, fitting: The settings.
    """

    loaded: LoadedModel
    batches: Batches
    described: str
    judged: Data | None
    example: Inputs
    gates: ConcurrentSettings | None
    fitting: FitSettings

    @classmethod
    def of(cls, options: Options) -> Training:
        """Open what the options name.

        Raises:
            ConfigError: If a setting does not work, or something cannot be opened.
        """
        gates = _gates(options)
        from shoal.data import reshuffled

        loaded = open_model(options)
        data = open_data(options, loaded)
        example = example_of(data, loaded.model, 1)
        _check_format(options, loaded, example)
        return cls(
            loaded=loaded,
            batches=reshuffled(data, augment=options.augment),
            described=data.description,
            judged=judged_by(options, loaded),
            example=example,
            gates=gates,
            fitting=_fitting(options, loaded, gates),
        )

    def once(self, options: Options) -> Trained | None:
        """Train, write the folder, and return what came of it; None in all processes but the main one."""
        from shoal.processes import together
        from shoal.training import train

        checkpoint = checkpoint_of(options, "train")
        found = train(
            self.loaded.model,
            self.batches,
            example=self.example,
            method=options.method,
            budget=options.budget,
            price=options.price,
            settings=self.gates,
            fit_settings=self.fitting,
            fresh=options.fresh,
            shortcuts=options.shortcuts,
            granularity=options.granularity,
            checkpoint=checkpoint,
            resume=options.resume,
        )
        before, after = measured(self.loaded.model, found.model, self.example, self.judged)
        with together() as processes:
            if processes.number:
                return None
        told = self._told(options, found)
        verification = written(
            options,
            self.loaded,
            found.model,
            checkpoint=checkpoint,
            example=self.example,
            format=options.format,
            plan=found.plan,
            source=self.loaded.source,
            before=before,
            after=after,
            extra={"training": told, "trained_on": self.described, "seeds": {"seed": options.seed}},
        )
        if options.figures is not None and found.trace is not None:
            _draw(options.figures, found.plan, found.trace)
        outcome = Outcome(before=before, after=after, verification=verification)
        return Trained(plan=found.plan, told=told, outcome=outcome)

    def asked(self, options: Options) -> dict[str, Any]:
        """Return what decides what a training comes to, as JSON values."""
        from shoal.surgery.record import plain

        names = ["model", "dtype", "data", "eval_data", "num_samples", "batch_size", "augment"]
        names += ["method", "budget", "price", "granularity", "fresh", "shortcuts"]
        settings = {
            "fitting": asdict(self.fitting),
            "gates": None if self.gates is None else asdict(self.gates),
        }
        found: dict[str, Any] = plain({name: getattr(options, name) for name in names} | settings)
        return found

    def _told(self, options: Options, found: TrainingResult) -> dict[str, Any]:
        return {
            "method": options.method,
            "steps": found.report.steps,
            "seconds": found.report.seconds,
            "epochs": [vars(epoch) for epoch in found.report.epochs],
            "pruning": None if found.progress is None else vars(found.progress),
            "gates": None if found.trace is None else vars(found.trace),
            "fresh_weights": options.fresh,
            "asked": self.asked(options),
        }


def check_goal(options: Options) -> None:
    """Check that one thing is asked for, in the words in which it is typed.

    Raises:
        ConfigError: If not.
    """
    given = [name for name in ("budget", "price") if getattr(options, name) is not None]
    if options.method == "concurrent" and len(given) != 1:
        found = "--budget and --price at once" if given else "neither --budget nor --price"
        raise ConfigError(
            f"asked to train with {found}: one of them works, --budget macs=0.5 or --price 0.1; or --sweep, "
            "for several in turn; or --method dense, for the whole network."
        )


def check_figures(options: Options) -> None:
    """Check, before long work is begun, that the picture can be drawn and written, where it is wanted.

    Raises:
        ConfigError: If there will be nothing to draw, or a file of its name may not be replaced.
        MissingExtraError: If matplotlib is not installed.
    """
    if options.figures is None:
        return
    from shoal.reports.figures import check_available, figure_paths
    from shoal.surgery.folders import check_writable

    if options.method != "concurrent":
        raise ConfigError(f"asked for --figures with the method {options.method}: it has no gates to draw.")
    check_available()
    check_writable(options.figures)
    if options.figures.is_file():
        raise ConfigError(
            f"asked to write figures into {str(options.figures)!r}: it is a file. Name a folder."
        )
    for path in figure_paths(options.figures / _FIGURE):
        check_file_target(path, overwrite=options.overwrite or options.resume)


def _draw(folder: Path, plan: Plan, trace: Trace) -> None:
    from shoal.reports import gates_figure, save_figure

    save_figure(gates_figure(plan, trace), folder / _FIGURE)
    note(f"figures written to {folder}")


def _check_format(options: Options, loaded: LoadedModel, example: Inputs) -> None:
    """Check, before long work is begun, that what training may end with can be written."""
    from shoal.architectures import find_units
    from shoal.surgery import check_format

    going = []
    if options.granularity != "block":
        chain = find_units(loaded.model, example, granularity=options.granularity)
        going = [unit for unit in chain if unit.removable]
    check_format(loaded.model, options.format, going)


def _gates(options: Options) -> ConcurrentSettings | None:
    from shoal.training import PRESETS

    if options.preset not in PRESETS:
        raise ConfigError(f"asked for the preset {options.preset!r}: {', '.join(PRESETS)} work.")
    if options.method != "concurrent":
        if options.set or options.preset != "default":
            raise ConfigError(
                f"asked for settings of gates with the method {options.method}: it has no gates."
            )
        return None
    base = replace(PRESETS[options.preset], seed=options.seed)
    settings: ConcurrentSettings = changed(base, options.set, of="gates")
    return settings


def _fitting(options: Options, loaded: LoadedModel, gates: ConcurrentSettings | None) -> FitSettings:
    from shoal.measurement import is_causal
    from shoal.training import FitSettings

    optimizer = options.optimizer or ("adamw" if is_causal(loaded.model) else "sgd")
    usual = 3e-4 if optimizer == "adamw" else 0.05
    given: dict[str, Any] = {"optimizer": optimizer, "mixed_precision": options.mixed_precision}
    return FitSettings(
        epochs=options.epochs,
        max_steps=options.steps,
        lr=usual if options.lr is None else options.lr,
        weight_decay=options.weight_decay,
        # The region of attraction is that of weights that decay.
        decay_all=gates is not None and gates.condition == "attracted",
        warmup=0.05,
        seed=options.seed,
        purpose={"data": options.data, "augment": options.augment},
        **given,
    )
