"""Options for healing and judging: how to train what is left, on which data, and which data judges it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.command import Flag
from shoal.cli.loading import open_more_data
from shoal.cli.options import DataOptions
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.architectures.references import LoadedModel
    from shoal.data import Data
    from shoal.training import HealSettings

__all__ = ["HealOptions", "check_healing", "data_notes", "heal_settings", "open_further_data"]


@dataclass(frozen=True, kw_only=True)
class HealOptions(DataOptions):
    """Healing and judging.

    Attributes:
        eval_data: Data to measure the quality on, before and after; best apart from DATA.
        eval_samples: How many samples of it; all where it is not given.
        heal_epochs: Train what is left on the healing data so many times, with the original as
            teacher; 0 recalibrates batch norms only. No healing where it is not given.
        heal_data: Data to train on; DATA where it is not given.
        heal_lr: Highest learning rate of healing.
        heal_distil: Weight of the original's outputs in healing, from 0 to 1.
    """

    eval_data: Annotated[str | None, Flag(metavar="DATA")] = None
    eval_samples: int | None = None
    heal_epochs: int | None = None
    heal_data: Annotated[str | None, Flag(metavar="DATA")] = None
    heal_lr: float | None = None
    heal_distil: float | None = None


def check_healing(options: HealOptions, *, trains: bool = False) -> None:
    """Check that none of these options would be ignored.

    Args:
        options: The verb's options.
        trains: Whether the method trains on the healing data while it chooses.

    Raises:
        ConfigError: If one would.
    """
    if options.eval_samples is not None and options.eval_data is None:
        raise ConfigError("asked for --eval-samples without --eval-data: say of which data.")
    given = {
        "--heal-data": None if trains else options.heal_data,
        "--heal-lr": options.heal_lr,
        "--heal-distil": options.heal_distil,
    }
    idle = [name for name, value in given.items() if value is not None]
    if idle and options.heal_epochs is None:
        raise ConfigError(f"asked for {', '.join(idle)} without --heal-epochs: nothing is healed without it.")


def heal_settings(options: HealOptions) -> HealSettings | None:
    """Return how to heal; None where no healing was asked for.

    Raises:
        ConfigError: If a value does not work.
    """
    if options.heal_epochs is None:
        return None
    from shoal.training import HealSettings

    given: dict[str, Any] = {"lr": options.heal_lr, "distil": options.heal_distil}
    chosen = {name: value for name, value in given.items() if value is not None}
    return HealSettings(epochs=options.heal_epochs, seed=options.seed, **chosen)


def open_further_data(options: HealOptions, loaded: LoadedModel) -> tuple[Data | None, Data | None]:
    """Return the data to heal on and the data to judge by, None for what was not given."""
    train = None if options.heal_data is None else open_more_data(options.heal_data, options, loaded)
    if options.eval_data is None:
        return train, None
    return train, open_more_data(options.eval_data, options, loaded, options.eval_samples)


def data_notes(data: Data, train: Data | None, judged: Data | None) -> dict[str, str]:
    """Return in words which data was used for what."""
    used = {"calibration": data, "healing": train, "evaluation": judged}
    return {name: each.description for name, each in used.items() if each is not None}
