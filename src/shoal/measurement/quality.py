"""How well a network does on data: loss, accuracy, perplexity.

Shapes: N samples, C classes, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.calling import (
    Batch,
    Inputs,
    call,
    check_batches,
    device_of,
    evaluating,
    sample_count,
    split_batch,
    to_device,
)
from shoal.errors import DataError
from shoal.measurement.losses import IGNORED, Loss, is_causal, logits_of, sample_losses, token_targets
from shoal.progress import track

__all__ = ["evaluate_quality", "wilson_interval"]


def evaluate_quality(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Return how well a network does on all batches, in evaluation mode without caches.

    Args:
        model: Any network; left as it was found.
        batches: `(inputs, labels)`, a dict with `labels`, or the `input_ids` of a language model.
        loss: Called as `loss(outputs, labels)` in place of the usual losses.
        device: Where the network is and the batches go; found out where it is None.

    Returns:
        Always `loss` and `samples`. Classifiers: `accuracy` with `accuracy_low` and
        `accuracy_high`, its 95 % interval. Token predictions: `tokens`, `nats_per_token` (which is
        the loss; every token weighs the same) and `perplexity`.

    Raises:
        DataError: If there are no batches, nothing to compute a loss from, or a loss is not finite.
    """
    place = device_of(model) if device is None else torch.device(device)
    tally = _Tally(causal=is_causal(model), loss=loss)
    with evaluating(model), torch.no_grad():
        for number, batch in enumerate(track(check_batches(batches), "evaluating")):
            inputs, labels = to_device(split_batch(batch), place)
            before = tally.loss_sum
            tally.add(call(model, inputs), inputs, labels)
            if not math.isfinite(tally.loss_sum):
                raise DataError(
                    f"asked to evaluate on batch {number} (from 0): its loss is "
                    f"{tally.loss_sum - before}. Look for NaN or infinity in the batch and in the weights."
                )
    return tally.summary()


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was seen `successes` times in `trials`.

    Example:
        >>> tuple(round(bound, 3) for bound in wilson_interval(9, 10))
        (0.596, 0.982)

    Reference: Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    z = 1.959964
    share, shrink = successes / trials, 1 + z * z / trials
    middle = share + z * z / (2 * trials)
    margin = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    return max(0.0, (middle - margin) / shrink), min(1.0, (middle + margin) / shrink)


@dataclass(kw_only=True)
class _Tally:
    """Sums over batches. Losses weigh by sample, or by token for token predictions."""

    causal: bool | None
    loss: Loss | None
    loss_sum: float = 0.0
    samples: int = 0
    tokens: int = 0
    correct: int = 0
    labelled: int = 0

    def add(self, outputs: Any, inputs: Inputs, labels: Any) -> None:
        """Add what one batch says."""
        losses = sample_losses(outputs, inputs, labels, loss=self.loss, causal=self.causal)
        if losses is None:
            raise DataError(
                f"asked to evaluate outputs of type {type(outputs).__name__} "
                f"{'without' if labels is None else 'with'} labels: there is nothing to compute a loss "
                "from. Batches of (inputs, labels), input_ids for a language model, or `loss` work."
            )
        self.samples += sample_count(inputs)
        logits = logits_of(outputs)
        tokens = None
        if self.loss is None and logits is not None:
            tokens = token_targets(logits, inputs, labels, causal=self.causal)
        if tokens is not None:
            counted = (tokens[1] != IGNORED).sum(dim=1)
            self.tokens += int(counted.sum())
            self.loss_sum += float((losses.double() * counted).sum())
        else:
            self.loss_sum += float(losses.double().sum())
            self._add_accuracy(logits, labels)

    def _add_accuracy(self, logits: Tensor | None, labels: Any) -> None:
        if logits is None or logits.dim() != 2 or not isinstance(labels, Tensor):
            return
        if labels.shape == logits.shape[:1] and not labels.is_floating_point():
            self.correct += int((logits.argmax(dim=1) == labels).sum())
            self.labelled += len(labels)

    def summary(self) -> dict[str, float]:
        """Return the figures by name."""
        mean = self.loss_sum / (self.tokens or self.samples)
        figures: dict[str, float] = {"loss": mean, "samples": self.samples}
        if self.tokens:
            perplexity = math.exp(mean) if mean < 700 else math.inf
            figures |= {"tokens": self.tokens, "nats_per_token": mean, "perplexity": perplexity}
        if self.labelled:
            low, high = wilson_interval(self.correct, self.labelled)
            share = self.correct / self.labelled
            figures |= {"accuracy": share, "accuracy_low": low, "accuracy_high": high}
        return figures
