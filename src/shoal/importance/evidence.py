"""One pass forward and backward over the calibration batches, and all that it says of the units.

Everything is summed while the batches go by; nothing is kept beyond the batch at hand.

Shapes: L = units, B = batch, K = distinct hidden states (L + 1 in an unbroken chain).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shoal.activations import Boundaries, rows_of, watching
from shoal.calling import Batch, Inputs, call, check_batches, device_of, evaluating, split_batch, to_device
from shoal.errors import DataError, ShoalWarning
from shoal.importance.gradients import GradientScores, gradients_of
from shoal.importance.representations import RepresentationSums
from shoal.importance.weights import magnitudes
from shoal.measurement import Loss, is_causal, logits_of, sample_losses
from shoal.progress import track
from shoal.result import Evidence
from shoal.segmentation import segment_similarity
from shoal.similarity import SimilaritySettings
from shoal.units import Chain

__all__ = ["EvidenceSettings", "collect_evidence"]

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
            activations or losses that are not finite.
    """
    settings = settings or EvidenceSettings()
    run = _Pass(model, chain, settings, loss)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        boundaries = stack.enter_context(watching(model, chain))
        stack.enter_context(gradients_of(model, chain))
        stack.enter_context(torch.enable_grad())
        for batch in track(check_batches(batches), "one pass over the calibration data"):
            inputs, labels = split_batch(to_device(batch, device_of(model)))
            run.add(boundaries, inputs, labels)
        return run.evidence()


class _Pass:
    def __init__(self, model: nn.Module, chain: Chain, settings: EvidenceSettings, loss: Loss | None) -> None:
        self.model, self.chain, self.loss = model, chain, loss
        self.backward = settings.gradients
        self.causal = is_causal(model)
        self.representations = RepresentationSums(settings.similarity)
        self.scores = GradientScores(chain)
        self.batches = 0
        self.classes = 0

    def add(self, boundaries: Boundaries, inputs: Inputs, labels: Any) -> None:
        losses = self._forward(boundaries, inputs, labels)
        tensors, starts, stops = boundaries.points()
        self.representations.add(tensors, starts, stops, rows_of(inputs))
        if losses is not None:
            total = losses.sum()
            if not torch.isfinite(total):
                raise DataError(
                    f"asked to score on batch {self.batches}: its loss is {total.item()}. Check the data's "
                    "scale and labels, and the model's precision."
                )
            with self.scores.watching(boundaries):
                total.backward()
            self.scores.count(losses.detach())
        self.batches += 1
        boundaries.clear()

    def _forward(self, boundaries: Boundaries, inputs: Inputs, labels: Any) -> Tensor | None:
        with torch.set_grad_enabled(self.backward and self._have_loss(labels, inputs)):
            boundaries.clear()
            outputs = call(self.model, inputs)
            if boundaries.overwritten() and not boundaries.copies:
                boundaries.copies = True
                boundaries.clear()
                # The first call's graph is gone before the second one's is made.
                del outputs
                outputs = call(self.model, inputs)
            if not torch.is_grad_enabled():
                return None
            chosen = not (isinstance(labels, Tensor) and labels.is_floating_point())
            logits = logits_of(outputs) if self.loss is None and chosen else None
            if logits is not None and logits.dim() > 1:
                self.classes = logits.shape[1] if logits.dim() != 3 else logits.shape[2]
            return sample_losses(outputs, inputs, labels, loss=self.loss, causal=self.causal)

    def _have_loss(self, labels: Any, inputs: Inputs) -> bool:
        return (
            self.loss is not None or labels is not None or (bool(self.causal) and rows_of(inputs) is not None)
        )

    def evidence(self) -> Evidence:
        similarity, angles, influence = self.representations.matrices()
        length = len(self.chain)
        importance = {
            "block_influence": np.array([influence[index, index + 1] for index in range(length)]),
            "angular_distance": np.array([angles[index, index + 1] for index in range(length)]),
            "magnitude": magnitudes(self.model, self.chain),
        }
        if self.scores.samples:
            importance |= self.scores.scores(self.model)
        return Evidence(
            chain=self.chain,
            boundary_similarity=similarity,
            angular_distance=angles,
            block_influence=influence,
            importance=importance,
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
