"""What a network takes before it is run on anything: parameters, bytes of its file and its cache, MACs.

Shapes and dtypes say all of it, so that a network built without weights will do, as long as it runs
(`shoal.architectures.weightless`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from shoal.calling import Inputs
from shoal.measurement.cache import CacheSize, cache_size
from shoal.measurement.counting import count_macs, count_params

__all__ = ["Footprint", "footprint", "weight_bytes"]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a network takes.

    Attributes:
        params: Parameters (numbers, not bytes).
        weights: Bytes of its weights in a file: parameters and saved buffers, shared ones once.
        macs: Multiply-accumulates of one forward call with the example; FLOPs are twice that.
        uncounted: Operations that the MACs leave out, with how often each was met.
        cache: The size of its cache; None where it hands none out.
    """

    params: int
    weights: int
    macs: int
    uncounted: Mapping[str, int] = field(default_factory=dict, hash=False)
    cache: CacheSize | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the footprint as JSON values."""
        return asdict(self)


def footprint(model: nn.Module, example: Inputs) -> Footprint:
    """Return what a network takes, in the dtypes in which it was built.

    Args:
        model: Any network that runs; left as it was found.
        example: What its forward takes: a tensor, a tuple or a dict of keywords.

    Example:
        >>> import torch
        >>> found = footprint(nn.Linear(3, 2), torch.zeros(5, 3))
        >>> found.params, found.weights, found.macs, found.cache
        (8, 32, 30, None)
    """
    macs = count_macs(model, example)
    return Footprint(
        params=count_params(model),
        weights=weight_bytes(model),
        macs=macs.total,
        uncounted=macs.uncounted,
        cache=cache_size(model, example),
    )


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's parameters and saved buffers, shared ones once.

    Example:
        >>> weight_bytes(nn.BatchNorm1d(4).bfloat16())
        40
    """
    saved = model.state_dict(keep_vars=True).values()
    unique = {id(tensor): tensor for tensor in saved if isinstance(tensor, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in unique.values())
