"""What units that are left are worth once they are trained, beside what they have to be worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, stdev
from typing import Any

import torch
from torch import nn

from shoal.activations import Replay
from shoal.calling import Batch, check_batches, device_of, evaluating, split_batch, to_device
from shoal.errors import ConfigError
from shoal.measurement.intervals import student_quantile
from shoal.progress import track
from shoal.training.batchnorm import holding, other_buffers, single_values_explained
from shoal.training.concurrent.gates import Gates

__all__ = ["Worth", "measured_worth"]


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What one unit is worth.

    Attributes:
        gain: By how much the mean loss rises without it.
        error: One standard error of that; None on fewer than two batches.
        price: What the gain has to be.
        batches: How many spoke.
    """

    gain: float
    error: float | None
    price: float
    batches: int

    @property
    def is_below(self) -> bool:
        """Whether the gain is surely below the price: with all of its 95 % interval."""
        if self.error is None:
            return False
        return self.gain + student_quantile(self.batches - 1) * self.error < self.price


def measured_worth(
    gates: Gates,
    units: Iterable[int],
    batches: Iterable[Batch],
    *,
    loss_of: Callable[[Batch], Callable[[Any], float]],
    price: Callable[[int], float],
    most_batches: int,
) -> dict[int, Worth]:
    """Return what gated units are worth on some batches, all gates open.

    As in training, with the same random numbers for a batch; batch norms take its statistics and keep their
    own. Modules that were put into evaluation mode by themselves stay there. Batches of which a loss is not
    finite say nothing.

    Args:
        gates: The gates.
        units: Those that are asked.
        batches: With their labels.
        loss_of: Batch → output → mean loss.
        price: Unit → what it has to be worth.
        most_batches: After how many batches to stop.

    Raises:
        ConfigError: If no batch is wanted.
        DataError: If there are no batches, or a batch norm gets one value per channel.
    """
    if most_batches < 1:
        raise ConfigError(f"asked what units are worth on {most_batches} batches: 1 or more works.")
    found: dict[int, list[float]] = {index: [] for index in units}
    if not found:
        return {}
    model, removed = gates.model, frozenset(gates.removed)
    with _as_in_training(model), gates.aside(), torch.no_grad():
        buffers = other_buffers(model)
        for batch in track(islice(check_batches(batches), most_batches), "asking what is left", None):
            loss = loss_of(batch)
            replay = Replay(model, gates.chain, to_device(split_batch(batch)[0], device_of(model)))
            args, kwargs = replay.arguments
            with single_values_explained("ask what units are worth on a batch"):
                with holding(buffers), replay.recording(removed, *args, **kwargs):
                    outputs = model(*args, **kwargs)
                whole = loss(outputs)
                # The last first: each shares what comes before it with the one before.
                for index in sorted(found, reverse=True):
                    with holding(buffers):
                        found[index].append(loss(replay(removed | {index})) - whole)
    finite = {index: [gain for gain in gains if math.isfinite(gain)] for index, gains in found.items()}
    return {
        index: Worth(gain=fmean(gains), error=_error(gains), price=price(index), batches=len(gains))
        for index, gains in finite.items()
        if gains
    }


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()} if model.training else {}
    with evaluating(model, train=True):
        for module, mode in modes.items():
            module.training = mode
        yield


def _error(gains: list[float]) -> float | None:
    return stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
