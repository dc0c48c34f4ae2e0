"""The brief training of a rewritten network, on the same batches in the same order as all others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from shoal.architectures.initialisation import seeded
from shoal.calling import call, evaluating
from shoal.errors import DataError
from shoal.importance.prefixes import CutBatches
from shoal.measurement import Loss, sample_losses
from shoal.training import FitSettings
from shoal.training.distillation import output_gap
from shoal.training.optimisation import learning_rate, make_optimizer

__all__ = ["tune_"]


def tune_(
    network: nn.Module,
    batches: CutBatches,
    settings: FitSettings,
    *,
    loss: Loss | None = None,
    teacher: nn.Module | None = None,
    distil: float = 0.0,
) -> None:
    """Train the part of a network behind a cut, in place; without parameters that may be trained, not at all.

    Training is not `fit`'s: that is for one process, and a network that diverges is no error here.

    Args:
        network: The part behind the cut.
        batches: What goes into it, and labels.
        settings: How to train; `max_steps` of it are done.
        loss: As for `sample_losses`.
        teacher: The same part of the original.
        distil: Weight of the teacher's outputs; the task has the rest.

    Raises:
        DataError: If there is nothing to compute a loss from, or it is not finite.
    """
    steps = settings.max_steps or 0
    if not any(parameter.requires_grad for parameter in network.parameters()):
        return
    optimizer = make_optimizer(network, settings)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with seeded(network, settings.seed), evaluating(network, train=True), torch.enable_grad():
        for step, number in enumerate(_order(len(batches), steps, settings.seed)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, settings)
            value = _objective(network, teacher, batches[number], loss, distil)
            found = float(value.detach())
            if not math.isfinite(found):
                raise DataError(
                    f"asked to tune: at step {step} (from 0) the loss is {found} with learning rate "
                    f"{learning_rate(step, steps, settings):.3g}. A lower lr may work."
                )
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if settings.clip is not None:
                nn.utils.clip_grad_norm_(trained, settings.clip)
            optimizer.step()


def _objective(
    network: nn.Module, teacher: nn.Module | None, batch: tuple[Any, Any], loss: Loss | None, distil: float
) -> Tensor:
    values, labels = batch
    taught = None
    if teacher is not None and distil > 0:
        with evaluating(teacher), torch.no_grad():
            # Calls may overwrite what they are given.
            taught = call(teacher, tree_map(_copied, values))
    outputs = call(network, values)
    losses = sample_losses(outputs, values, labels, loss=loss)
    if losses is None:
        raise DataError(
            f"asked to tune on outputs of type {type(outputs).__name__}: there is nothing to compute a loss "
            "from. Labels, or `loss`, work."
        )
    if taught is None:
        return losses.mean()
    return (1 - distil) * losses.mean() + distil * output_gap(outputs, taught, values, labels)


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _order(batches: int, steps: int, seed: int) -> list[int]:
    """The batch of every step: all of them in an order that is drawn, then all again."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps:
        order += torch.randperm(batches, generator=generator).tolist()
    return order[:steps]
