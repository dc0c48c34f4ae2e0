"""`shoal train`: training that ends with a shallower network."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import beside
from shoal.cli.loading import example_of, open_data, open_model, open_more_data
from shoal.cli.options import DataOptions, FormatOptions, ModelOptions
from shoal.cli.settings import changed, show_settings
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.architectures.references import LoadedModel
    from shoal.training import ConcurrentSettings, FitSettings, TrainingResult

__all__ = ["Options", "list_settings", "run"]


def list_settings() -> None:
    """Show every setting of gates."""
    from shoal.training import ConcurrentSettings

    show_settings("Settings of gates (--set KEY=VALUE)", ConcurrentSettings())


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions, FormatOptions, ModelOptions):
    """What `shoal train` takes.

    Attributes:
        data: Data to train on, with labels for classifiers; its order is drawn anew in every epoch.
        method: concurrent: units leave while the network is trained; dense: none does, to compare with.
        budget: What may remain: units=20, params=0.7, macs=0.5, latency=0.6.
        price: In place of a budget: the mean loss that all of the network's MACs are worth; a unit that gains
            less than its share of it goes.
        fresh: Begin with fresh random weights, not with those that the network comes with.
        epochs: How often the data is gone through.
        steps: Steps after which to stop, in place of epochs.
        lr: Highest learning rate; a cosine takes it to 0. 0.05 with sgd, 3e-4 with adamw.
        optimizer: sgd, with Nesterov's momentum, or adamw; adamw for language models, sgd for others.
        weight_decay: Of weights; not of biases and norms.
        mixed_precision: no, bf16, or fp16 on a GPU.
        augment: Shift images by up to an eighth of their side and mirror them at random.
        preset: default, or paper: what is known of the publication.
        set: A setting of gates; may be given again for others.
        list_settings: Show the settings of gates, and stop.
        eval_data: Data to measure the quality on, before and after.
        output: The folder to write; it appears when it is complete and verified.
        overwrite: Replace a folder of that name that shoal wrote.
        resume: Go on from the last checkpoint of an interrupted run.
    """

    method: str = "concurrent"
    budget: str | None = None
    price: float | None = None
    fresh: bool = False
    epochs: int = 10
    steps: int | None = None
    lr: float | None = None
    optimizer: str | None = None
    weight_decay: float = 5e-4
    mixed_precision: str = "no"
    augment: bool = False
    preset: str = "default"
    set: Annotated[tuple[str, ...], Flag(metavar="KEY=VALUE")] = ()
    list_settings: Annotated[bool, Flag(action=list_settings)] = False
    eval_data: Annotated[str | None, Flag(metavar="DATA")] = None
    output: Annotated[Path, Flag(short="-o", metavar="DIR")]
    overwrite: bool = False
    resume: bool = False


def run(options: Options) -> None:
    """Train a network, from its weights or from fresh ones, and drop the layers that are not worth their
    price on the way, so that training ends with a shallower network.

    A checkpoint stands beside the output until it is done; --resume goes on from it.
    """
    from shoal.surgery import check_format, check_target

    check_target(options.output, overwrite=options.overwrite)
    gates = _gates(options)
    from shoal.data import reshuffled
    from shoal.measurement import evaluate_quality, measure_pair
    from shoal.training import train

    loaded = open_model(options)
    check_format(loaded.model, options.format)
    data = open_data(options, loaded)
    judged = None if options.eval_data is None else open_more_data(options.eval_data, options, loaded)
    checkpoint = beside(options.output, "train.safetensors")
    example = example_of(data, loaded.model, 1)
    found = train(
        loaded.model,
        reshuffled(data, augment=options.augment),
        example=example,
        method=options.method,
        budget=options.budget,
        price=options.price,
        settings=gates,
        fit_settings=_fitting(options, loaded),
        fresh=options.fresh,
        checkpoint=checkpoint,
        resume=options.resume,
    )
    before, after = measure_pair(loaded.model, found.model, example)
    if judged is not None:
        qualities = [evaluate_quality(each, judged.batches) for each in (loaded.model, found.model)]
        before, after = (replace(m, quality=q) for m, q in zip((before, after), qualities, strict=True))
    _write(options, loaded, found, example, data.description, before, after)


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


def _fitting(options: Options, loaded: LoadedModel) -> FitSettings:
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
        warmup=0.05,
        seed=options.seed,
        purpose=f"{options.data}, augment={options.augment}",
        **given,
    )


def _write(
    options: Options,
    loaded: LoadedModel,
    found: TrainingResult,
    example: Any,
    described: str,
    before: Any,
    after: Any,
) -> None:
    from shoal.processes import together
    from shoal.reports import checks_table, comparison_table, plan_table
    from shoal.surgery import save_verified

    with together() as processes:
        if processes.number:
            return
    progress = None if found.progress is None else vars(found.progress)
    training = {
        "method": options.method,
        "steps": found.report.steps,
        "seconds": found.report.seconds,
        "epochs": [vars(epoch) for epoch in found.report.epochs],
        "pruning": progress,
        "fresh_weights": options.fresh,
    }
    verification = save_verified(
        found.model,
        options.output,
        example=example,
        overwrite=options.overwrite,
        format=options.format,
        trust_remote_code=options.trust_remote_code,
        plan=found.plan,
        source=loaded.source,
        before=before,
        after=after,
        tokenizer_from=loaded.folder or loaded.load_tokenizer(),
        extra={"training": training, "trained_on": described, "seeds": {"seed": options.seed}},
    )
    beside(options.output, "train.safetensors").unlink(missing_ok=True)
    if options.json:
        told = {"before": before.as_json(), "after": after.as_json(), "verification": verification.as_json()}
        plan = json.loads(found.plan.to_json())
        show_json({"output": str(options.output), "plan": plan, "training": training, **told})
        return
    show_table(plan_table(found.plan))
    show_table(comparison_table(before, after))
    show_table(checks_table(verification))
    if found.progress is not None:
        share = abs(found.progress.saved)
        what = (
            "was saved" if found.progress.saved >= 0 else "came on top, for asking units what they are worth"
        )
        note(f"{share:.0%} of the training compute of the whole network {what}, in MACs")
    note(f"written to {options.output}")
