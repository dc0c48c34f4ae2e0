"""What the processes of a training run share: batches and so steps, gradients, statistics of batch norms.

A step takes one batch of each process. Where there is one process, nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shoal.calling import Batch
from shoal.errors import DataError
from shoal.processes import Processes
from shoal.training.optimisation import FitSettings

__all__ = ["own_batches", "share_gradients_", "share_statistics_", "total_steps"]


def total_steps(batches: Iterable[Batch], settings: FitSettings, processes: int = 1) -> int:
    """Return how many steps `fit` takes on these batches.

    Raises:
        DataError: If there are fewer batches than processes.
    """
    if settings.max_steps is not None:
        return settings.max_steps
    if settings.epochs == 0:
        return 0
    found = _length(batches)
    if found < processes:
        raise DataError(
            f"asked to train in {processes} processes on {found} batches: each takes one a step. Smaller "
            "batches, or fewer processes, work."
        )
    return settings.epochs * (found // processes)


def own_batches(batches: Iterator[Batch], processes: Processes) -> Iterator[Batch]:
    """Yield, of every batch for each process, the one for this one; those that are left over fall away."""
    while len(taken := list(islice(batches, processes.count))) == processes.count:
        yield taken[processes.number]


def share_gradients_(parameters: Sequence[nn.Parameter], processes: Processes) -> None:
    """Replace the gradients of the parameters by their means over all processes."""
    if processes.count == 1:
        return
    processes.add_gradients_(parameters)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= processes.count


def share_statistics_(model: nn.Module, processes: Processes) -> None:
    """Replace running statistics of batch norms by their means over all processes."""
    if processes.count == 1:
        return
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    buffers = [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]
    found = processes.exchange([buffer.to("cpu") for buffer in buffers])
    for buffer, values in zip(buffers, zip(*found, strict=True), strict=True):
        buffer.copy_(torch.stack(values).double().mean(dim=0))


def _length(batches: Iterable[Batch]) -> int:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        # A loader of an iterable data set has a length only in name.
        return sum(1 for _ in batches)
