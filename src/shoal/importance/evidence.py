"""One pass forward and backward over the calibration batches, and all that it says of the units.

Everything is summed while the batches go by; nothing is kept beyond the batch at hand. Several processes
(`shoal.processes`) share the batches, and add up their sums at the end.

Shapes: L = units, B = batch, K = distinct hidden states (L + 1 in an unbroken chain).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shoal.activations import Boundaries, rows_of, watching
from shoal.calling import Batch, Inputs, call, check_batches, device_of, evaluating, split_batch, to_device
from shoal.errors import ConfigError, DataError, ShoalWarning
from shoal.importance.gradients import GradientScores, gradients_of
from shoal.importance.representations import RepresentationSums
from shoal.importance.weights import magnitudes, parameters_of
from shoal.measurement import Loss, is_causal, logits_of, sample_losses
from shoal.processes import Processes, together
from shoal.progress import length, track
from shoal.result import Evidence
from shoal.segmentation import segment_similarity
from shoal.similarity import SimilaritySettings
from shoal.units import Chain

__all__ = ["EvidenceSettings", "EvidenceSums", "collect_evidence"]

# Mean loss below this share of a guess's (log of the number of classes) looks like memory.
_MEMORISED = 0.02


@dataclass(frozen=True, kw_only=True)
class EvidenceSettings:
    """How the pass over the calibration batches is made.

    Attributes:
        similarity: How similarity is estimated.
        gradients: Whether to go backward and score by gradients where there is a loss.
    """

    similarity: SimilaritySettings = field(default_factory=SimilaritySettings)
    gradients: bool = True


def collect_evidence(
    model: nn.Module,
    chain: Chain,
    batches: Iterable[Batch],
    *,
    loss: Loss | None = None,
    settings: EvidenceSettings | None = None,
) -> Evidence:
    """Return what one pass over the batches says of the units; the model is left as it was found.

    Started by `accelerate launch` or torchrun, the processes share the batches and each returns what all
    of them say; then every process has to call this, with the same model and batches.

    Args:
        model: The network, on any device, in any floating-point dtype.
        chain: Its units.
        batches: Re-iterable batches that the network has not been trained on. Labels are used where
            there are labels; language models use next-token loss without padding; without either,
            no scores by gradients are made.
        loss: `loss(outputs, labels)`, the mean over a batch or one value a sample, for anything else.
        settings: How the pass is made.

    Raises:
        DataError: If there are no batches, too few samples for a similarity, labels out of range, or
            activations or losses that are not finite, or other batches in other processes.
        ConfigError: If weights of units are offloaded, or processes have different models.
    """
    settings = settings or EvidenceSettings()
    sums = EvidenceSums(model, chain, settings, loss)
    with ExitStack() as stack:
        processes = stack.enter_context(together())
        _check_held(model, chain)
        processes.check_same(model, [unit.name for unit in chain])
        stack.enter_context(evaluating(model))
        boundaries = stack.enter_context(watching(model, chain))
        stack.enter_context(gradients_of(model, chain))
        stack.enter_context(torch.enable_grad())
        shared, total = processes.share(check_batches(batches)), processes.share_of(length(batches))
        for number, batch in track(shared, "one pass over the calibration data", total):
            inputs, labels = split_batch(to_device(batch, device_of(model)))
            _go_through(sums, number, boundaries, inputs, labels)
        processes.add_gradients_(p for unit in chain for p in parameters_of(model, unit))
        sums.merge(processes)
        gradients = sums.scores.scores(model) if sums.scores.samples else {}
        return sums.evidence({"magnitude": magnitudes(model, chain), **gradients})


def _check_held(model: nn.Module, chain: Chain) -> None:
    names = [unit.name for unit in chain if any(p.is_meta for p in parameters_of(model, unit))]
    if names:
        raise ConfigError(
            f"asked to score the units of {chain.model}: the weights of {len(names)} of {len(chain)} "
            f"({names[0]}, …) are not held in memory but offloaded, or were never loaded, and gradients "
            "need them there. Load the model without offloading, or score its folder layer by layer "
            "(shoal analyze FOLDER --stream)."
        )


def _go_through(sums: EvidenceSums, number: int, boundaries: Boundaries, inputs: Inputs, labels: Any) -> None:
    with torch.set_grad_enabled(sums.wants_loss(inputs, labels)):
        boundaries.clear()
        outputs = call(sums.model, inputs)
        if boundaries.overwritten() and not boundaries.copies:
            boundaries.copies = True
            boundaries.clear()
            # The first call's graph is gone before the second one's is made.
            del outputs
            outputs = call(sums.model, inputs)
        sums.add_states(number, inputs, boundaries.points())
        losses = sums.losses(number, outputs, inputs, labels) if torch.is_grad_enabled() else None
    if losses is not None:
        with sums.scores.watching(boundaries):
            losses.sum().backward()
        sums.scores.count(losses.detach())
    boundaries.clear()


class EvidenceSums:
    """What batches say of the units, summed; from it the evidence is made.

    Args:
        model: The network.
        chain: Its units.
        settings: What is summed, and how.
        loss: As for `collect_evidence`.

    Attributes:
        scores: Sums of what gradients say; whoever goes backward adds to them.
    """

    def __init__(self, model: nn.Module, chain: Chain, settings: EvidenceSettings, loss: Loss | None) -> None:
        self.model, self.chain, self.loss = model, chain, loss
        self.backward = settings.gradients
        self.causal = is_causal(model)
        self.representations = RepresentationSums(settings.similarity)
        self.scores = GradientScores(chain)
        self.batches = 0
        self.classes = 0

    def wants_loss(self, inputs: Inputs, labels: Any) -> bool:
        """Return whether a batch is to be scored by gradients: they are asked for, and it has a loss."""
        given = self.loss is not None or labels is not None
        return self.backward and (given or (bool(self.causal) and rows_of(inputs) is not None))

    def losses(self, number: int, outputs: Any, inputs: Inputs, labels: Any) -> Tensor | None:
        """Return the loss of each sample of a batch, `(B,)`, to be differentiated; None where there is none.

        Args:
            number: The batch's number in the whole.
            outputs: What the model returned.
            inputs, labels: The batch.

        Raises:
            DataError: If the losses are not finite.
        """
        chosen = not (isinstance(labels, Tensor) and labels.is_floating_point())
        logits = logits_of(outputs) if self.loss is None and chosen else None
        if logits is not None and logits.dim() > 1:
            self.classes = logits.shape[1] if logits.dim() != 3 else logits.shape[2]
        losses = sample_losses(outputs, inputs, labels, loss=self.loss, causal=self.causal)
        total = None if losses is None else losses.sum()
        if total is not None and not torch.isfinite(total):
            raise DataError(
                f"asked to score on batch {number}: its loss is {total.item()}. Check the data's "
                "scale and labels, and the model's precision."
            )
        return losses

    def add_states(
        self, number: int, inputs: Inputs, points: tuple[list[Tensor], list[int], list[int]]
    ) -> None:
        """Add the hidden states of one batch.

        Args:
            number: The batch's number in the whole.
            inputs: What went into the model.
            points: The distinct hidden states, and which of them each unit takes and returns.

        Raises:
            DataError: If there are too few samples, or activations that are not finite.
        """
        self.representations.add(*points, rows_of(inputs), number)
        self.batches += 1

    def merge(self, processes: Processes) -> None:
        """Add what other processes have summed; gradients of parameters are no sums of its own."""
        self.representations, *others = processes.exchange(self.representations)
        for representations in others:
            self.representations.merge(representations)
        self.scores, *rest = processes.exchange(self.scores)
        for scores in rest:
            self.scores.merge(scores)
        self.batches = sum(processes.exchange(self.batches))
        self.classes = max(processes.exchange(self.classes))

    def evidence(self, importance: Mapping[str, NDArray[np.float64]]) -> Evidence:
        """Return the evidence, with these importances beside those that hidden states give."""
        similarity, angles, influence = self.representations.matrices()
        length = len(self.chain)
        states = {
            "block_influence": np.array([influence[index, index + 1] for index in range(length)]),
            "angular_distance": np.array([angles[index, index + 1] for index in range(length)]),
        }
        return Evidence(
            chain=self.chain,
            boundary_similarity=similarity,
            angular_distance=angles,
            block_influence=influence,
            importance={**states, **importance},
            segmentation=segment_similarity(similarity[1:, 1:]),
            data=self._data(),
        )

    def _data(self) -> dict[str, Any]:
        data: dict[str, Any] = {"batches": self.batches, **self.representations.counts()}
        if not self.scores.samples:
            return data | {"loss": None, "memorised": None}
        mean = self.scores.mean_loss
        memorised = mean < _MEMORISED * log(self.classes) if self.classes > 1 else None
        if memorised:
            warnings.warn(
                f"the mean loss on the calibration data is {mean:.4f}, where a guess among {self.classes} "
                f"costs {log(self.classes):.2f}: the network looks to have memorised it, and scores by loss "
                "say little there. Use data that it was not trained on.",
                ShoalWarning,
                stacklevel=4,
            )
        return data | {"loss": mean, "memorised": memorised}
