"""What a student is told beyond the labels: the teacher's outputs and its hidden states.

Shapes: N or B samples, C classes, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.architectures.hidden import hidden_output
from shoal.calling import Inputs
from shoal.errors import DataError
from shoal.measurement import IGNORED, logits_of, token_targets

__all__ = ["feature_gap", "hidden_states", "output_gap"]


def output_gap(
    student: Any,
    teacher: Any,
    inputs: Inputs,
    labels: Any = None,
    *,
    temperature: float = 2.0,
    causal: bool | None = None,
) -> Tensor:
    """Return how far the student's outputs are from the teacher's, a scalar, 0 where they agree.

    Class and token predictions: the Kullback-Leibler divergence of the tempered distributions,
    times the squared temperature (which keeps the size of its gradients), a mean over samples,
    labelled positions or predicted tokens. Other outputs (floating labels of the same shape, or
    images without labels): the mean squared difference.

    Args:
        student: What the student returned.
        teacher: What the teacher returned for the same inputs.
        inputs: What both were called with; padding of language models does not count.
        labels: The labels, if there are any.
        temperature: Above 1 the less likely classes weigh more.
        causal: Whether token predictions are of the next token.

    Raises:
        DataError: If the two returned no tensors of one shape.

    Reference: Hinton et al., 2015, https://arxiv.org/abs/1503.02531, section 2.
    """
    mine, theirs = logits_of(student), logits_of(teacher)
    if mine is None or theirs is None or mine.shape != theirs.shape:
        shapes = [None if part is None else tuple(part.shape) for part in (mine, theirs)]
        raise DataError(
            f"asked to distil: the student returned {shapes[0]} and the teacher {shapes[1]}. Networks "
            "with outputs of one shape work."
        )
    counted = _counted_positions(mine, inputs, labels, causal)
    if counted is None:
        return F.mse_loss(mine.float(), theirs.float())
    axis = -1 if counted.shape == mine.shape[:-1] else 1
    gaps = _divergence(mine.movedim(axis, -1), theirs.movedim(axis, -1), temperature)
    return (gaps * counted).sum() / counted.sum().clamp(min=1)


def _counted_positions(logits: Tensor, inputs: Inputs, labels: Any, causal: bool | None) -> Tensor | None:
    """Return which positions hold a prediction that counts; None if these are no class predictions."""
    if isinstance(labels, Tensor) and labels.is_floating_point():
        return None
    tokens = token_targets(logits, inputs, labels, causal=causal)
    if tokens is not None:
        counted = (tokens[1] != IGNORED).to(logits.device)
        # The last position of a causal network predicts what is not there.
        return F.pad(counted, (0, logits.shape[1] - counted.shape[1]))
    if logits.dim() == 2:
        return logits.new_ones(len(logits), dtype=torch.bool)
    if isinstance(labels, Tensor) and labels.shape in (logits.shape[:-1], (len(logits), *logits.shape[2:])):
        return (labels != IGNORED).to(logits.device)
    return None


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    mine = F.log_softmax(student.float() / temperature, dim=-1)
    theirs = F.log_softmax(teacher.float() / temperature, dim=-1)
    gaps = F.kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=-1)
    return gaps * temperature**2


def feature_gap(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], names: Mapping[str, str]
) -> Tensor:
    """Return how far hidden states are from the teacher's, a mean over units; 0 where they agree.

    A unit's gap is the squared difference over the squared size of the teacher's state, so that
    units of every width and scale weigh the same.

    Args:
        student: Hidden states of the student by module.
        teacher: Hidden states of the teacher by module.
        names: The teacher's module → the student's, for the units to compare.

    Raises:
        DataError: If there is nothing to compare, or shapes differ.
    """
    gaps = []
    for old, new in names.items():
        if old not in teacher or new not in student:
            continue
        mine, theirs = student[new].float(), teacher[old].float()
        if mine.shape != theirs.shape:
            raise DataError(
                f"asked to match {new!r} with the teacher's {old!r}: the shapes are {tuple(mine.shape)} "
                f"and {tuple(theirs.shape)}. Use the plan that made the student from this teacher."
            )
        gaps.append((mine - theirs).square().mean() / theirs.square().mean().clamp(min=1e-12))
    if not gaps:
        raise DataError("asked to match the outputs of kept units: no kept unit returned a hidden state.")
    return torch.stack(gaps).mean()


@contextmanager
def hidden_states(model: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the hidden state that each of these modules returns, until the `with` ends.

    A later call replaces the states of an earlier one.
    """
    states: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = hidden_output(output)
            if hidden is not None:
                states[name] = hidden

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in modules]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
