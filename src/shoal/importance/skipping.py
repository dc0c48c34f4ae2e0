"""The measured loss of a network without some of its units: what every score tries to guess.

What the networks without two sets of units share is computed once for both (prefix reuse).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from shoal.activations import Replay, sharing_order
from shoal.calling import Batch, Inputs, check_batches, device_of, evaluating, split_batch, to_device
from shoal.errors import DataError
from shoal.journal import Journal
from shoal.measurement import Loss, is_causal, sample_losses, sample_weights
from shoal.progress import length, task
from shoal.tables import ImportanceTable
from shoal.units import Chain

__all__ = ["SkipLosses"]

Removed = tuple[int, ...]
# Sets measured between two writes to the journal.
_PIECE = 24


class SkipLosses:
    """Mean loss over the batches when exactly some units are bypassed; every set is measured once.

    It is the mean that `evaluate_quality` gives: over samples, or over tokens for token predictions.

    Args:
        model: The network; it is left as it was found.
        chain: Its units.
        batches: Batches with labels, or of text; see `collect_evidence`.
        loss: For anything else, as there.
        journal: Where measured losses are kept; in memory where it is None.
        key: Prefix of the journal's keys: a hash of weights and data.
    """

    def __init__(
        self,
        model: nn.Module,
        chain: Chain,
        batches: Iterable[Batch],
        *,
        loss: Loss | None = None,
        journal: Journal | None = None,
        key: str = "",
    ) -> None:
        self.model, self.chain, self.loss, self.key = model, chain, loss, key
        self.batches = check_batches(batches)
        self.journal = journal if journal is not None else Journal()
        self.measured = 0
        self.asked: set[Removed] = set()
        """Every set of units asked for, measured now or known before."""

    def __call__(self, removed: Iterable[int] = ()) -> float:
        """Return the mean loss without these units; without any, the network's own."""
        return self.of([tuple(removed)])[0]

    def of(self, sets: Sequence[Iterable[int]], title: str = "measuring losses") -> list[float]:
        """Return the mean loss without each of these sets of units; infinite where it overflows.

        Raises:
            DataError: If there is nothing to compute a loss from.
        """
        wanted = [tuple(sorted(set(units))) for units in sets]
        self.asked.update(wanted)
        missing = sharing_order(units for units in wanted if self._name(units) not in self.journal)
        # A crash loses one piece of the work at most.
        piece = len(missing) if self.journal.path is None else _PIECE
        for start in range(0, len(missing), piece or 1):
            self._measure(missing[start : start + piece], title)
        return [self.journal[self._name(units)] for units in wanted]

    def added(
        self, sets: Sequence[Iterable[int]], *, gone: Iterable[int] = (), title: str = "measuring units"
    ) -> list[float]:
        """Return by how much the loss without each of these sets is above that without those `gone`.

        Raises:
            DataError: If there is nothing to compute a loss from, or what is compared with is not finite.
        """
        base, *losses = self.of([gone, *sets], title)
        if not math.isfinite(base):
            what = f"without units {tuple(gone)}" if tuple(gone) else "of the whole network"
            raise DataError(
                f"asked to measure losses beside that {what}, which is {base}: it overflows or is NaN. Look "
                "for NaN in the data, and check its scale and labels and the model's precision."
            )
        return [loss - base for loss in losses]

    def units(self) -> list[float]:
        """Return what the removal of each unit alone costs, `(L,)`: the loss without it, less the
        network's own.

        Infinite for units that cannot be removed, and where the loss is not finite.
        """
        removable = self.chain.removable
        costs = self.added([(index,) for index in removable])
        alone = [math.inf] * len(self.chain)
        for index, cost in zip(removable, costs, strict=True):
            alone[index] = cost
        return alone

    def runs(self, longest: int) -> ImportanceTable:
        """Return what the removal of every run of removable units costs.

        Runs longer than `longest` are estimated from those; runs without which the loss is not
        finite stay out of the table, and so in the network.
        """
        removable = self.chain.removable
        runs = list(ImportanceTable.additive([0.0] * len(self.chain), removable, longest=longest).entries)
        costs = self.added([tuple(run) for run in runs], title="measuring runs of units")
        entries = {run: cost for run, cost in zip(runs, costs, strict=True) if math.isfinite(cost)}
        return ImportanceTable(entries=entries, source="measured loss").extended(removable)

    def _name(self, removed: Removed) -> str:
        return f"{self.key}/loss/{','.join(map(str, removed))}"

    def _measure(self, sets: list[Removed], title: str) -> None:
        totals = dict.fromkeys(sets, 0.0)
        weights = 0.0
        known = length(self.batches)
        steps = None if known is None else known * len(sets)
        with task(title, steps) as advance, evaluating(self.model), torch.no_grad():
            for batch in self.batches:
                inputs, labels = split_batch(to_device(batch, device_of(self.model)))
                replay, counted = Replay(self.model, self.chain, inputs), torch.zeros(0)
                for removed in sets:
                    outputs = replay(removed)
                    losses = self._losses(outputs, inputs, labels)
                    if not len(counted):
                        counted = self._weights(outputs, inputs, labels).to(losses)
                    totals[removed] += float(losses @ counted)
                    advance(1)
                weights += float(counted.sum())
        for removed, total in totals.items():
            mean = total / weights
            self.journal[self._name(removed)] = math.inf if math.isnan(mean) else mean
        self.measured += len(sets)

    def _losses(self, outputs: object, inputs: Inputs, labels: object) -> Tensor:
        losses = sample_losses(outputs, inputs, labels, loss=self.loss, causal=is_causal(self.model))
        if losses is None:
            raise DataError(
                "asked for the loss without some units: the batches have no labels and the model is no "
                "language model. Pass (inputs, labels), or loss=."
            )
        return losses.double()

    def _weights(self, outputs: object, inputs: Inputs, labels: object) -> Tensor:
        return sample_weights(outputs, inputs, labels, loss=self.loss, causal=is_causal(self.model))
