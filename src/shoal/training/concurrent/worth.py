"""What units that are left are worth once they are trained, beside what they have to be worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, stdev
from typing import Any

import torch

from shoal.activations import Replay
from shoal.calling import Batch, check_batches, device_of, evaluating, split_batch, to_device
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
    """

    gain: float
    error: float | None
    price: float

    @property
    def is_short(self) -> bool:
        """Whether the gain is below the price even two standard errors up."""
        return self.error is not None and self.gain + 2 * self.error < self.price


def measured_worth(
    gates: Gates,
    batches: Iterable[Batch],
    *,
    loss_of: Callable[[Batch], Callable[[Any], float]],
    price: Callable[[int], float],
    most_batches: int,
) -> dict[int, Worth]:
    """Return what each gated unit is worth on some batches, all others open.

    As in training, with the same random numbers for a batch; batch norms take its statistics and keep their
    own. Batches of which a loss is not finite say nothing.

    Args:
        gates: The gates.
        batches: With their labels.
        loss_of: Batch → output → mean loss.
        price: Unit → what it has to be worth.
        most_batches: After how many batches to stop.

    Raises:
        DataError: If there are no batches, or a batch norm gets one value per channel.
    """
    model, removed = gates.model, frozenset(gates.removed)
    found: dict[int, list[float]] = {index: [] for index in gates.theta}
    with evaluating(model, train=True), gates.aside(), holding(other_buffers(model)), torch.no_grad():
        for batch in track(islice(check_batches(batches), most_batches), "asking what is left", None):
            loss = loss_of(batch)
            replay = Replay(model, gates.chain, to_device(split_batch(batch)[0], device_of(model)))
            args, kwargs = replay.arguments
            with single_values_explained("ask what units are worth on a batch"):
                with replay.recording(removed, *args, **kwargs):
                    outputs = model(*args, **kwargs)
                whole = loss(outputs)
                # The last first: each shares what comes before it with the one before.
                for index in sorted(found, reverse=True):
                    found[index].append(loss(replay(removed | {index})) - whole)
    finite = {index: [gain for gain in gains if math.isfinite(gain)] for index, gains in found.items()}
    return {
        index: Worth(gain=fmean(gains), error=_error(gains), price=price(index))
        for index, gains in finite.items()
        if gains
    }


def _error(gains: list[float]) -> float | None:
    return stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
