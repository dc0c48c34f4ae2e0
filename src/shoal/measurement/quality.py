"""How well a network does on data: loss, accuracy, perplexity, each with how sure it is.

Shapes: N samples, C classes, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
from shoal.measurement.intervals import MeanTally, wilson_interval
from shoal.measurement.losses import (
    Loss,
    given_losses,
    is_causal,
    logits_of,
    sample_losses,
    sample_weights,
)
from shoal.progress import track

__all__ = ["SampleLosses", "evaluate_quality", "evaluate_samples", "paired_difference"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleLosses:
    """The loss of a network on every sample.

    Attributes:
        losses: Mean loss of each sample, `(N,)`, float64 on the CPU.
        weights: How much each counts in the mean, `(N,)`: its predicted tokens for token
            predictions, else 1.
        quality: What `evaluate_quality` says of all of them.
    """

    losses: Tensor = field(hash=False)
    weights: Tensor = field(hash=False)
    quality: Mapping[str, float] = field(hash=False)


def evaluate_quality(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Return how well a network does on all batches, in evaluation mode without caches.

    Intervals are of 95 % and treat samples as drawn independently: for text these are the windows,
    so the tokens of one window may depend on each other.

    Args:
        model: Any network; left as it was found.
        batches: `(inputs, labels)`, a dict with `labels`, or the `input_ids` of a language model.
        loss: Called as `loss(outputs, labels)` in place of the usual losses.
        device: Where the network is and the batches go; found out where it is None.

    Returns:
        Always `loss` and `samples`, and for two samples or more `loss_se`, its standard error, with
        `loss_low` and `loss_high`. Classifiers: `accuracy`. Token predictions: `tokens`,
        `nats_per_token` (which is the loss; every token weighs the same) and `perplexity`. Accuracy
        and perplexity have a `_low` and a `_high` too. Where `loss` returns the mean of a batch, the
        batches are the samples of the interval.

    Raises:
        DataError: If there are no batches, nothing to compute a loss from, or a loss is not finite.
    """
    return _evaluate(model, batches, _Tally(causal=is_causal(model), loss=loss), device)


def evaluate_samples(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
) -> SampleLosses:
    """Return the loss of a network on every sample, so that networks can be compared pair by pair.

    Args:
        model: As for `evaluate_quality`.
        batches: As for `evaluate_quality`; in the same order for every network that is compared.
        loss: As for `evaluate_quality`; where it returns the mean of a batch, so does this.
        device: As for `evaluate_quality`.

    Raises:
        DataError: As `evaluate_quality`.

    Example:
        >>> batches = [(torch.zeros(2, 3), torch.tensor([0, 1])), (torch.ones(1, 3), torch.tensor([0]))]
        >>> evaluate_samples(nn.Linear(3, 2), batches).losses.shape
        torch.Size([3])
    """
    tally = _Tally(causal=is_causal(model), loss=loss, kept=[])
    quality = _evaluate(model, batches, tally, device)
    losses, weights = (torch.cat(parts) for parts in zip(*tally.kept or [], strict=True))
    return SampleLosses(losses=losses, weights=weights, quality=quality)


def paired_difference(first: SampleLosses, second: SampleLosses) -> tuple[float, float | None]:
    """Return by how much the first network's mean loss is higher, and the standard error of that.

    Samples that are hard are hard for both, so the difference is known better than either mean.

    Args:
        first: Losses of one network.
        second: Those of another on the same samples, in the same order.

    Returns:
        The difference, and its standard error; None in its place for fewer than two samples.

    Raises:
        DataError: If the samples are not the same.

    Example:
        >>> ones = torch.ones(2)
        >>> paired_difference(
        ...     SampleLosses(losses=torch.tensor([3.0, 9.0]), weights=ones, quality={}),
        ...     SampleLosses(losses=torch.tensor([1.0, 6.0]), weights=ones, quality={}),
        ... )
        (2.5, 0.5)
    """
    if not torch.equal(first.weights, second.weights):
        raise DataError(
            f"asked to compare losses sample by sample: one network has {len(first.weights):,} samples of "
            f"weight {first.weights.sum():,.0f}, the other {len(second.weights):,} of "
            f"{second.weights.sum():,.0f}. Evaluate both on the same batches in the same order."
        )
    tally = MeanTally()
    tally.add((first.losses - second.losses).double(), first.weights)
    return tally.mean, tally.error


def _evaluate(
    model: nn.Module, batches: Iterable[Batch], tally: _Tally, device: torch.device | str | None
) -> dict[str, float]:
    place = device_of(model) if device is None else torch.device(device)
    with evaluating(model), torch.no_grad():
        for number, batch in enumerate(track(check_batches(batches), "evaluating")):
            inputs, labels = to_device(split_batch(batch), place)
            found = tally.add(call(model, inputs), inputs, labels)
            if not math.isfinite(found):
                raise DataError(
                    f"asked to evaluate on batch {number} (from 0): its loss is {found}. "
                    "Look for NaN or infinity in the batch and in the weights."
                )
    return tally.summary()


@dataclass(kw_only=True)
class _Tally:
    """Sums over batches. Losses weigh by sample, or by token for token predictions."""

    causal: bool | None
    loss: Loss | None
    kept: list[tuple[Tensor, Tensor]] | None = None
    mean: MeanTally = field(default_factory=MeanTally)
    samples: int = 0
    tokens: int = 0
    correct: int = 0
    labelled: int = 0

    def add(self, outputs: Any, inputs: Inputs, labels: Any) -> float:
        """Add what one batch says, and return its loss added up."""
        self.samples += sample_count(inputs)
        if self.loss is None:
            losses, weights = self._usual(outputs, inputs, labels)
        else:
            losses, weights = self._given(self.loss(outputs, labels), inputs)
            self._add_accuracy(logits_of(outputs), labels)
        losses, weights = losses.cpu().double(), weights.cpu().double()
        self.mean.add(losses, weights)
        if self.kept is not None:
            self.kept.append((losses, weights))
        return float((losses * weights).sum())

    def _usual(self, outputs: Any, inputs: Inputs, labels: Any) -> tuple[Tensor, Tensor]:
        losses = sample_losses(outputs, inputs, labels, causal=self.causal)
        if losses is None:
            raise DataError(
                f"asked to evaluate outputs of type {type(outputs).__name__} "
                f"{'without' if labels is None else 'with'} labels: there is nothing to compute a loss "
                "from. Batches with labels, or `loss`, work; input_ids alone for causal language models "
                "only: a masked one needs labels."
            )
        weights = sample_weights(outputs, inputs, labels, causal=self.causal)
        if weights.is_floating_point():
            self._add_accuracy(logits_of(outputs), labels)
        else:
            self.tokens += int(weights.sum())
        return losses, weights

    def _given(self, value: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
        losses = given_losses(value, sample_count(inputs))
        weights = torch.ones_like(losses)
        if value.numel() == 1:
            # A mean says nothing of the spread inside its batch: the batch is the sample.
            return losses[:1], weights.sum()[None]
        return losses, weights

    def _add_accuracy(self, logits: Tensor | None, labels: Any) -> None:
        if logits is None or logits.dim() != 2 or not isinstance(labels, Tensor):
            return
        if labels.shape == logits.shape[:1] and not labels.is_floating_point():
            self.correct += int((logits.argmax(dim=1) == labels).sum())
            self.labelled += len(labels)

    def summary(self) -> dict[str, float]:
        """Return the figures by name."""
        figures: dict[str, float] = {"loss": self.mean.mean}
        ends = self.mean.interval
        if ends is not None and self.mean.error is not None:
            figures |= {"loss_se": self.mean.error, "loss_low": ends[0], "loss_high": ends[1]}
        figures["samples"] = self.samples
        if self.tokens:
            figures |= {"tokens": self.tokens, "nats_per_token": figures["loss"]}
            figures["perplexity"] = _perplexity(figures["loss"])
            if ends is not None:
                figures |= {"perplexity_low": _perplexity(ends[0]), "perplexity_high": _perplexity(ends[1])}
        if self.labelled:
            low, high = wilson_interval(self.correct, self.labelled)
            share = self.correct / self.labelled
            figures |= {"accuracy": share, "accuracy_low": low, "accuracy_high": high}
        return figures


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
