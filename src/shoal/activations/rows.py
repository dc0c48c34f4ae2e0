"""What counts as one observation: a sample, or a token of a text.

Shapes: B = batch, T = tokens, D = width, N = rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shoal.calling import Inputs

__all__ = ["Rows", "draw_of", "flattened", "lies_channels_last", "rows_of"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which tokens of a batch of text count.

    Attributes:
        real: Which tokens are no padding, `(B, T)`.
        last: Number of the last real token of every sample that has one, among the real ones.
    """

    real: Tensor
    last: Tensor

    def tokens(self, hidden: Tensor) -> Tensor:
        """Return the real tokens' states of `hidden` `(B, T, D)` as `(N, D)`."""
        return hidden.detach()[self.real]

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the numbers of up to `count` random real tokens, none of them a sample's first.

        The first token draws attention to itself whatever it is (an attention sink) and would
        dominate the comparison.
        """
        flat = self.real.flatten().nonzero().squeeze(1)
        # Padding may stand on the left.
        first = self.real.int().argmax(dim=1)
        usable = (flat % self.real.shape[1] != first[flat // self.real.shape[1]]).nonzero().squeeze(1)
        order = torch.randperm(len(usable), generator=generator)[:count].to(usable.device)
        return usable[order].sort().values


def draw_of(seed: int, number: int) -> torch.Generator:
    """Return the random source for the batch of this number: the same wherever and whenever it is met.

    Example:
        >>> first, again, other = (draw_of(0, number) for number in (1, 1, 2))
        >>> first.initial_seed() == again.initial_seed() != other.initial_seed()
        True
    """
    mixed = np.random.SeedSequence((seed % 2**64, number)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def rows_of(inputs: Inputs) -> Rows | None:
    """Return which tokens of a batch of text count; None for anything but text.

    Text is a dict with `input_ids` `(B, T)`, and `attention_mask` where some are padding; or a
    tensor of integers `(B, T)`.
    """
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        return None
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None or mask.dim() != 2 else mask.bool()
    positions = torch.arange(real.shape[1], device=real.device)
    place = torch.where(real, positions, -1).argmax(dim=1)
    numbers = real.flatten().cumsum(0) - 1
    at = torch.arange(len(real), device=real.device) * real.shape[1] + place
    return Rows(real=real, last=numbers[at][real.any(dim=1)])


def lies_channels_last(tensor: Tensor) -> bool:
    """Return whether a feature map `(B, C, H, W)` lies in memory with its channels last."""
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def flattened(tensor: Tensor, *, channels_last: bool) -> Tensor:
    """Return `(B, features)`, without a copy where the features lie in memory in the order asked for.

    The order of features is nothing to inner products, as long as both sides have the same.
    """
    return (tensor.movedim(1, -1) if channels_last and tensor.dim() == 4 else tensor).flatten(1)
