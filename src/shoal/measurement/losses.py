"""The loss of every sample, from what a network puts out and what the labels are.

Shapes: N or B samples, C classes, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.calling import Inputs, sample_count
from shoal.errors import DataError

__all__ = [
    "IGNORED",
    "Loss",
    "batch_loss",
    "given_losses",
    "is_causal",
    "logits_of",
    "sample_losses",
    "sample_weights",
    "token_targets",
]

Loss = Callable[[Any, Any], Tensor]
IGNORED = -100
"""The label that means "does not count", as in torch and transformers."""


def logits_of(outputs: Any) -> Tensor | None:
    """Return the prediction in what a network returned, None where there is none.

    It is the tensor itself, `outputs.logits`, `outputs["logits"]`, or the first tensor of a tuple,
    of a mapping or of an output object of Hugging Face's.

    Example:
        >>> logits_of((torch.ones(2), "rest")).shape
        torch.Size([2])
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    if isinstance(outputs, (Mapping, tuple, list)):
        return next((part for part in parts if isinstance(part, Tensor)), None)
    return None


def is_causal(model: nn.Module) -> bool | None:
    """Return whether a network predicts the next token at every position; None if it does not say.

    Networks say so as Hugging Face's do, by `can_generate()` and `config.is_encoder_decoder` (which
    predict the token at the position itself).
    """
    can_generate = getattr(model, "can_generate", None)
    if not callable(can_generate):
        return None
    return bool(can_generate()) and not getattr(getattr(model, "config", None), "is_encoder_decoder", False)


def sample_losses(
    outputs: Any, inputs: Inputs, labels: Any, *, loss: Loss | None = None, causal: bool | None = None
) -> Tensor | None:
    """Return the loss of every sample, `(N,)`, in float32 or better, differentiable.

    - integer labels `(N,)` for logits `(N, C)`: cross-entropy;
    - integer labels `(N, …)` for logits `(N, C, …)`: its mean over the sample's labelled positions;
    - token logits `(B, T, V)`: its mean over the sample's predicted tokens, see `token_targets`;
    - floating labels of the outputs' shape: mean squared error.

    Args:
        outputs: What the network returned.
        inputs: What it was called with.
        labels: The labels, None where there are none (language models then predict their inputs).
        loss: Called as `loss(outputs, labels)` instead of all that; returns the mean over the
            samples, or one value a sample.
        causal: Whether token logits predict the next token; see `token_targets`.

    Returns:
        The losses; None where there is nothing to compute a loss from.

    Raises:
        DataError: If labels and outputs do not fit, labels are out of range, or no token counts.
    """
    if loss is not None:
        return given_losses(loss(outputs, labels), sample_count(inputs))
    logits = logits_of(outputs)
    if logits is None:
        return None
    tokens = token_targets(logits, inputs, labels, causal=causal)
    if tokens is not None:
        return _position_means(*tokens)
    if labels is None:
        return None
    if not isinstance(labels, Tensor):
        raise DataError(
            f"asked for a loss with labels of type {type(labels).__name__}: tensors work; pass `loss` "
            "for anything else."
        )
    if labels.is_floating_point():
        return _squared_errors(logits, labels)
    return _class_losses(logits, labels)


def batch_loss(
    outputs: Any, inputs: Inputs, labels: Any, *, loss: Loss | None = None, causal: bool | None = None
) -> Tensor | None:
    """Return the mean loss of a batch, over samples or predicted tokens, differentiable; None where there is
    nothing to compute one from.

    Args:
        outputs, inputs, labels, loss, causal: As for `sample_losses`.

    Raises:
        DataError: As `sample_losses`.
    """
    losses = sample_losses(outputs, inputs, labels, loss=loss, causal=causal)
    if losses is None:
        return None
    weights = sample_weights(outputs, inputs, labels, loss=loss, causal=causal).to(losses)
    # A dot product of floats may depend on where they lie in memory.
    return (losses * weights).sum() / weights.sum()


def given_losses(losses: Any, samples: int) -> Tensor:
    """Return what a loss of the user's returned as one value a sample, `(N,)`; a mean is repeated.

    Raises:
        DataError: If it is neither one value nor one a sample.

    Example:
        >>> given_losses(torch.tensor(0.5), samples=2)
        tensor([0.5000, 0.5000])
    """
    if isinstance(losses, Tensor) and losses.numel() == 1:
        return _full_precision(losses).reshape(1).expand(samples)
    if not isinstance(losses, Tensor) or losses.shape != (samples,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise DataError(
            f"asked to use the given loss on {samples} samples: it returned {found}. A tensor with "
            "one value, the mean, or one value a sample works."
        )
    return _full_precision(losses)


def sample_weights(
    outputs: Any, inputs: Inputs, labels: Any, *, loss: Loss | None = None, causal: bool | None = None
) -> Tensor:
    """Return how much each loss of `sample_losses` counts in a mean, `(N,)`: its predicted tokens for
    token predictions, otherwise 1.

    Args:
        outputs, inputs, labels, loss, causal: As for `sample_losses`.
    """
    logits = None if loss is not None else logits_of(outputs)
    tokens = None if logits is None else token_targets(logits, inputs, labels, causal=causal)
    return torch.ones(sample_count(inputs)) if tokens is None else (tokens[1] != IGNORED).sum(dim=1)


def token_targets(
    logits: Tensor, inputs: Inputs, labels: Any, *, causal: bool | None = None
) -> tuple[Tensor, Tensor] | None:
    """Return token logits `(B, T', V)` and what they should predict `(B, T')`, position by position.

    For a causal network position t predicts the token at t + 1, so T' = T - 1, and a token is left
    out when it or the one before it is padding by a 2-D `attention_mask`. Otherwise T' = T and the
    labels say what counts. Left-out targets are `IGNORED`.

    Args:
        logits: `(B, T, V)`; anything else is no token prediction.
        inputs: The token ids, alone, first of a tuple, or as `input_ids`.
        labels: `(B, T)`; None means the ids.
        causal: None decides by the labels: causal if they repeat the ids wherever they count.

    Returns:
        Logits and targets; None if these are no token predictions or there is nothing to predict.

    Raises:
        DataError: If a target is no token of the vocabulary.
    """
    if logits.dim() != 3:
        return None
    ids = _token_ids(inputs)
    if ids is not None and ids.shape != logits.shape[:2]:
        ids = None
    if labels is None:
        if ids is None or causal is False:
            return None
        labels, causal = ids, True
    elif not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != logits.shape[:2]:
        return None
    labels = labels.long()
    if causal is None:
        causal = ids is not None and bool(((labels == ids) | (labels == IGNORED)).all())
    if causal:
        real = _real_tokens(inputs, labels)
        labels = labels[:, 1:].masked_fill(~(real[:, 1:] & real[:, :-1]), IGNORED)
        logits = logits[:, :-1]
    _check_range(labels, logits.shape[-1], "tokens of the vocabulary")
    return logits, labels


def _token_ids(inputs: Inputs) -> Tensor | None:
    if isinstance(inputs, Mapping):
        ids = inputs.get("input_ids")
    else:
        ids = inputs[0] if isinstance(inputs, (tuple, list)) and inputs else inputs
    is_ids = isinstance(ids, Tensor) and ids.dim() == 2 and not ids.is_floating_point()
    return ids if is_ids else None


def _real_tokens(inputs: Inputs, labels: Tensor) -> Tensor:
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if isinstance(mask, Tensor) and mask.shape == labels.shape:
        return mask.bool()
    return torch.ones_like(labels, dtype=torch.bool)


def _position_means(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of `(N, P, C)` logits, a mean over the positions that count."""
    counted = (targets != IGNORED).sum(dim=1)
    if not counted.any():
        raise DataError(
            f"asked for a loss on labels {tuple(targets.shape)}: no position counts, all are padding "
            f"or {IGNORED}. Samples of two tokens or more, or labels that are not ignored, work."
        )
    return _cross_entropy(logits, targets).sum(dim=1) / counted.clamp(min=1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy at every position, 0 where it does not count."""
    flat = _full_precision(logits).reshape(-1, logits.shape[-1])
    losses = F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED, reduction="none")
    return losses.view(targets.shape)


def _class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.dim() > 1 and labels.shape == (len(logits), *logits.shape[2:]):
        logits = logits.movedim(1, -1)
    elif logits.dim() < 2 or labels.shape != logits.shape[:-1]:
        raise DataError(
            f"asked for a loss with integer labels {tuple(labels.shape)} and outputs "
            f"{tuple(logits.shape)}: labels (N,) for outputs (N, C) work, and (N, …) for (N, C, …); "
            "pass `loss` for anything else."
        )
    labels = labels.long()
    _check_range(labels, logits.shape[-1], "classes", ignored=labels.dim() > 1)
    if labels.dim() == 1:
        return _cross_entropy(logits, labels)
    return _position_means(logits.flatten(1, -2), labels.flatten(1))


def _squared_errors(outputs: Tensor, labels: Tensor) -> Tensor:
    if outputs.shape != labels.shape:
        raise DataError(
            f"asked for a loss with floating labels {tuple(labels.shape)} and outputs "
            f"{tuple(outputs.shape)}: the same shape works; pass `loss` for anything else."
        )
    errors = _full_precision(outputs) - _full_precision(labels)
    return errors.square().reshape(len(outputs), -1).mean(dim=1)


def _check_range(labels: Tensor, classes: int, what: str, *, ignored: bool = True) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if ignored:
        wrong &= labels != IGNORED
    if wrong.any():
        raise DataError(
            f"asked for a loss with the label {int(labels[wrong][0])}: labels are {what}, "
            f"0 to {classes - 1}" + (f", or {IGNORED} for what does not count." if ignored else ".")
        )


def _full_precision(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
