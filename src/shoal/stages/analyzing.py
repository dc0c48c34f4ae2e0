"""`analyze`: what one pass over the data says of a network's units."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from shoal.architectures import find_units
from shoal.calling import Batch, Inputs
from shoal.errors import ConfigError
from shoal.importance import EvidenceSettings, StreamSettings, collect_evidence, stream_evidence
from shoal.measurement import Loss
from shoal.processes import together
from shoal.result import Evidence
from shoal.stages.asking import example_of
from shoal.units import Granularity

__all__ = ["analyze"]


def analyze(
    model: nn.Module | Path | str,
    batches: Iterable[Batch],
    *,
    example: Inputs | None = None,
    loss: Loss | None = None,
    settings: EvidenceSettings | None = None,
    granularity: Granularity = "block",
    stream: StreamSettings | None = None,
) -> Evidence:
    """Return what one pass over the batches says of the model's units.

    In a program that `accelerate launch` or torchrun has started several times, the processes share the
    batches, and each returns what all of them say. Every one has to call this, with the same model and
    the same batches.

    Args:
        model: Any network; it is left as it was found. Or a Hugging Face folder with safetensors, which
            is read one layer at a time and may be larger than memory.
        batches: Re-iterable batches the network was **not** trained on: inputs, `(inputs, labels)`,
            or dicts such as `{"input_ids": …}`. Scores by loss mean little on memorised data.
        example: What the model's forward takes; the first sample of the batches where it is None.
        loss: `loss(outputs, labels)` for data that is neither labelled nor text.
        settings: How the pass is made.
        granularity: What a unit is, as for `find_units`.
        stream: Where hidden states are kept while a folder is read.

    Raises:
        ConfigError: If the folder cannot be read one layer at a time.
        UnknownArchitectureError: If the network has no units.
        DataError: If the batches cannot be used; says why.

    Example:
        >>> import torch
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)])
        >>> analyze(net, [torch.randn(16, 8)]).similarity.shape
        (4, 4)
    """
    if not isinstance(model, nn.Module):
        return stream_evidence(
            model,
            batches,
            example=example,
            granularity=granularity,
            loss=loss,
            settings=settings,
            stream=stream,
        )
    if stream is not None:
        raise ConfigError(
            f"asked to keep hidden states of {type(model).__name__} as stream= says: that is for a folder "
            "that is read layer by layer, and this network is loaded. Pass the folder, or leave stream= out."
        )
    with together():
        chain = find_units(model, example_of(batches, example), granularity=granularity)
        return collect_evidence(model, chain, batches, loss=loss, settings=settings)
