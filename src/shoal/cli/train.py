"""`shoal train`: training that ends with a shallower network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from shoal.cli.command import Flag
from shoal.cli.options import FormatOptions, UnitOptions
from shoal.cli.outcome import TrainingOptions, check_checkpoint
from shoal.cli.settings import show_settings

__all__ = ["Options", "list_settings", "run"]


def list_settings() -> None:
    """Show every setting of gates."""
    from shoal.training import ConcurrentSettings

    show_settings("Settings of gates (--set KEY=VALUE)", ConcurrentSettings())


@dataclass(frozen=True, kw_only=True)
class Options(UnitOptions, FormatOptions, TrainingOptions):
    """What `shoal train` takes.

    Attributes:
        data: Data to train on, with labels for classifiers; its order is drawn anew in every epoch.
        method: concurrent: units leave while the network is trained; dense: none does, to compare with.
        budget: What may remain: units=20, params=0.7, macs=0.5, latency=0.6.
        price: In place of a budget: the mean loss that all of the network's MACs are worth, 0.1, or that
            all of something else is, such as latency=0.1; a unit that gains less than its share of it goes.
        sweep: In place of both: train once for each of several budgets or prices, such as
            macs=0.3,0.5,0.7 or price=0.03,0.1,0.3, each into a folder of its own in the output.
        shortcuts: For plain networks (VGG, LeNet, MLP): add a path around every layer, so that any may
            go, and fold what is left of them at the end.
        granularity: What may leave: block, or sublayer for attention and MLP alone where blocks consist of
            them; Hugging Face models need --format torch for it.
        fresh: Begin with fresh random weights, not with those that the network comes with.
        epochs: How often the data is gone through.
        steps: Steps after which to stop, in place of epochs.
        lr: Highest learning rate; a cosine takes it to 0. 0.05 with sgd, 3e-4 with adamw.
        optimizer: sgd, with Nesterov's momentum, or adamw; adamw for language models, sgd for others.
        weight_decay: Of weights; not of biases and norms, but with the preset paper.
        mixed_precision: no, bf16, or fp16 on a GPU.
        augment: Shift images by up to an eighth of their side and mirror them at random.
        preset: default, or paper: what is known of the publication.
        set: A setting of gates; may be given again for others.
        list_settings: Show the settings of gates, and stop.
        figures: Folder for a picture of what gates did in training, a .png and an .svg.
    """

    method: str = "concurrent"
    budget: str | None = None
    price: str | None = None
    sweep: Annotated[str | None, Flag(metavar="QUANTITY=VALUE,…")] = None
    shortcuts: bool = False
    granularity: Literal["block", "sublayer"] = "block"
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
    figures: Annotated[Path | None, Flag(metavar="DIR")] = None


def run(options: Options) -> None:
    """Train a network, from its weights or from fresh ones, and drop the layers that are not worth their
    price on the way, so that training ends with a shallower network.

    A checkpoint stands beside the output until it is done; Ctrl-C writes it too, and --resume goes on from
    it.
    """
    from shoal.cli.sweeping import sweep
    from shoal.cli.training import Training, check_figures, check_goal
    from shoal.surgery import check_target

    if options.sweep is not None:
        sweep(options, options.sweep)
        return
    check_goal(options)
    check_target(options.output, overwrite=options.overwrite)
    check_checkpoint(options, "train")
    check_figures(options)
    trained = Training.of(options).once(options)
    if trained is None:
        return
    if options.json:
        trained.show_json()
    else:
        trained.show()
