"""Asking units what they are worth: which ones in a step, on the batch that was just trained on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from shoal.calling import Batch, device_of, split_batch, to_device
from shoal.errors import DataError
from shoal.measurement import Loss, batch_loss, is_causal
from shoal.processes import together
from shoal.training.concurrent.compute import forward_macs
from shoal.training.concurrent.gains import Estimator, SlopeGains, flip_gains
from shoal.training.concurrent.gates import Gates
from shoal.training.concurrent.settings import ConcurrentSettings

__all__ = ["Questions"]


class Questions:
    """Asks units of a gated network for their gains.

    Args:
        gates: The gates.
        settings: Which units are asked, and how.
        loss: Called as `loss(outputs, labels)` in place of the usual losses.

    Attributes:
        macs: Multiply-accumulates that questions have cost so far, for one sample of the example.
    """

    def __init__(self, gates: Gates, settings: ConcurrentSettings, loss: Loss | None = None) -> None:
        self._gates, self._settings, self._loss = gates, settings, loss
        self._random = random.Random(settings.seed)
        self._slopes = SlopeGains(gates) if settings.estimator == "slope" else None
        self._estimate: Estimator = self._slopes or flip_gains
        self.macs = 0.0

    def ask(self, batch: Batch | None, number: int) -> dict[int, float]:
        """Return what some units are worth on the batch that the network was called on, on the mean of all
        processes.

        Args:
            batch: That batch with its labels; None where the network was called with its labels, or text.
            number: How many units are asked; all of those that have gates where there are no more.

        Raises:
            DataError: If the loss is not finite, or there is nothing to compute one from.
            ConfigError: If the network was not called.
        """
        # What fails in one process fails in all: none should wait for it.
        with together() as processes:
            return _mean(processes.exchange(self._asked(batch, number)))

    def _asked(self, batch: Batch | None, number: int) -> dict[int, float]:
        gates = self._gates
        gates.check_called()
        units = list(gates.theta) if number >= len(gates.theta) else self._chosen(number)
        loss_of = self.loss_of(batch)
        _check_finite(loss_of(gates.outputs))
        gains = self._estimate(gates, units, loss_of)
        if self._slopes is None:
            self.macs += sum(forward_macs(gates.chain, gates.off ^ {index}, start=index) for index in units)
        else:
            # What a shut unit would have added is computed now.
            self.macs += sum(gates.chain[index].macs for index in gains if index in gates.off)
        return gains

    def close(self) -> None:
        """Watch the network no longer."""
        if self._slopes is not None:
            self._slopes.close()

    def state(self) -> list[Any]:
        """Return which units will be asked, as JSON values."""
        return list(self._random.getstate())

    def restore_(self, state: Iterable[Any]) -> None:
        """Take that up."""
        version, numbers, spare = state
        self._random.setstate((version, tuple(numbers), spare))

    def _chosen(self, number: int) -> list[int]:
        """Any units whose gates are undecided, and now and then one whose gate is open."""
        theta = self._gates.theta
        undecided = [index for index in theta if theta[index] < 1]
        decided = [index for index in theta if theta[index] == 1]
        chosen: list[int] = []
        for _ in range(min(number, len(theta))):
            revisit = self._random.random() < self._settings.revisit
            pool = decided if decided and (revisit or not undecided) else undecided
            chosen.append(pool.pop(self._random.randrange(len(pool))))
        return chosen

    def loss_of(self, batch: Batch | None) -> Callable[[Any], float]:
        """Return what gives the mean loss of outputs for a batch, that of the last call where it is None."""
        model = self._gates.model
        given = self._gates.inputs if batch is None else to_device(batch, device_of(model))
        labelled = batch is not None or isinstance(given, Mapping)
        inputs, labels = split_batch(given) if labelled else (given, None)
        causal = is_causal(model)

        def loss_of(outputs: Any) -> float:
            with torch.no_grad():
                loss = batch_loss(outputs, inputs, labels, loss=self._loss, causal=causal)
                if loss is None:
                    raise DataError(
                        "asked what units are worth: there is nothing to compute a loss from. Pass the batch "
                        "with its labels, step((inputs, labels)), or loss= for the pruner."
                    )
                return float(loss)

        return loss_of


def _check_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise DataError(
            f"asked to prune in training: the loss of the batch is {loss}. Nothing was removed. A lower "
            "learning rate may work; look for NaN or infinity in that batch too."
        )


def _mean(found: list[dict[int, float]]) -> dict[int, float]:
    """The mean over all processes that train together."""
    return {index: math.fsum(each[index] for each in found) / len(found) for index in found[0]}
