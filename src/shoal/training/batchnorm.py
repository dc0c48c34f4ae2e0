"""What networks note while they train: batch-norm statistics estimated anew after surgery has changed what
flows into the layers, or kept out of calls that should leave no trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shoal.calling import Batch, call, check_batches, device_of, evaluating, split_batch, to_device
from shoal.errors import DataError
from shoal.progress import track

__all__ = [
    "Buffers",
    "holding",
    "other_buffers",
    "recalibrate_",
    "single_values_explained",
    "untouched_statistics",
]

Buffers = list[tuple[nn.Module, str, Tensor]]
"""Modules, and copies of buffers of theirs by name."""


def recalibrate_(model: nn.Module, batches: Iterable[Batch], *, most_batches: int = 100) -> int:
    """Replace the running statistics of all batch norms by those of the data, and return the batches used.

    Mean and variance become the plain averages over the batches, each batch weighing the same. Only
    batch norms run in training mode; everything else of the model stays as it was found, and so do
    batch norms that no batch reaches.

    Args:
        model: The network; only the running statistics change.
        batches: Data like that of training; labels are not used.
        most_batches: After how many batches to stop; 100 settle the statistics of common networks.

    Returns:
        The number of batches used; 0 if the network has no batch norms with running statistics.

    Raises:
        DataError: If there are no batches, too few values to take a variance of, or statistics that
            are not finite. The model then keeps the statistics that it had.

    Reference: Li et al., 2016, Adaptive Batch Normalization, https://arxiv.org/abs/1603.04779.
    """
    norms = [module for module in model.modules() if _keeps_statistics(module)]
    if not norms or most_batches < 1:
        return 0
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        used = _estimate_(model, norms, batches, most_batches)
        _check_finite(norms)
        for norm, buffers in zip(norms, before, strict=True):
            # Nothing came by: a part that only runs in training.
            if not norm.num_batches_tracked:
                norm.load_state_dict(buffers, strict=False)
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return used


@contextmanager
def single_values_explained(asked: str) -> Iterator[None]:
    """Say in words, inside the `with`, that a batch norm got one value per channel.

    Args:
        asked: What was asked, for the message.

    Raises:
        DataError: If one did.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise DataError(
            f"asked to {asked}: it has one value per channel, and a variance needs two ({error}). Batches of "
            "two samples or more work. Where one sample is left over for the last batch, another batch size "
            "(--batch-size) works, or data of another length (--num-samples; drop_last=True of a DataLoader)."
        ) from error


@contextmanager
def untouched_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode take the statistics of their batch, and leave the running ones as they
    are, inside the `with`.
    """
    norms = [module for module in model.modules() if _keeps_statistics(module) and module.training]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def other_buffers(model: nn.Module) -> Buffers:
    """Copies of what calls in training may write into, as power iterations do; but for batch norms."""
    modules = (module for module in model.modules() if module.training and not isinstance(module, _BatchNorm))
    owned = ((module, name, buffer) for module in modules for name, buffer in module._buffers.items())
    return [(module, name, buffer.detach().clone()) for module, name, buffer in owned if buffer is not None]


@contextmanager
def holding(buffers: Buffers) -> Iterator[None]:
    """Let modules hold copies of these buffers inside the `with`."""
    own = [(module, name, module._buffers[name]) for module, name, _ in buffers]
    try:
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.clone()
        yield
    finally:
        for module, name, live in own:
            module._buffers[name] = live


def _keeps_statistics(module: nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _estimate_(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Batch], most_batches: int) -> int:
    device = device_of(model)
    used = 0
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            # None stands for the cumulative average.
            norm.momentum = None
            norm.train()
        for batch in track(islice(check_batches(batches), most_batches), "recalibrating batch norms", None):
            with single_values_explained(f"recalibrate batch norms on batch {used} (from 0)"):
                call(model, to_device(split_batch(batch)[0], device))
            used += 1
    return used


def _check_finite(norms: list[_BatchNorm]) -> None:
    for norm in norms:
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            continue
        if not (torch.isfinite(mean).all() and torch.isfinite(variance).all()):
            raise DataError(
                f"asked to recalibrate a batch norm of {norm.num_features} channels: its statistics are "
                "not finite. Look for NaN or infinity in the batches."
            )
