"""Affine maps that become one: in sequence, side by side as a sum, or joined along their channels.

Shapes: O = output channels, I = input channels, taps = numbers of taps, one an axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd
from typing import Any

import torch
from torch import Tensor

from shoal.errors import UnitError
from shoal.surgery.affine import Affine
from shoal.surgery.shapes import line

__all__ = ["add", "channel_sums", "compose", "stack", "with_groups"]


def with_groups(map: Affine, groups: int) -> Affine:
    """Return the same map with fewer groups, zeros standing where channels did not mix.

    Args:
        map: The map.
        groups: A divisor of the map's own groups; 1 gives the dense weight.

    Raises:
        UnitError: If it is no divisor.

    Example:
        >>> from shoal.surgery.affine import identity
        >>> delta = identity(2, 1, dtype=torch.float32, device=torch.device("cpu"))
        >>> with_groups(delta, 1).weight.squeeze(-1).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if groups < 1 or map.groups % groups:
        raise UnitError(
            f"asked for a map with {groups} groups: it has {map.groups}, and groups can only be joined. Ask "
            "for a divisor."
        )
    if groups == map.groups:
        return map
    blocks = map.weight.unflatten(0, (groups, map.groups // groups, -1))
    weight = torch.diag_embed(blocks.movedim(1, -1), dim1=1, dim2=3)
    shape = (map.out_channels, map.in_channels // groups, *map.kernel)
    return replace(map, weight=weight.reshape(shape), groups=groups)


def channel_sums(map: Affine) -> Tensor:
    """Return what a map makes of inputs that are constant over space, its bias aside.

    Returns:
        `(O, I)`: the dense weight summed over its taps.
    """
    summed = map.weight.flatten(2).sum(-1, keepdim=True)
    return with_groups(replace(map, weight=summed), 1).weight.squeeze(-1)


def compose(first: Affine, second: Affine) -> Affine:
    """Return the one map that two in sequence are, of any strides, dilations and groups.

    With weights W, biases b, strides s, dilations d and offsets f: the product W₂[e] W₁[a] belongs to the
    tap at f₁ + s₁ f₂ + s₁ d₂ e + d₁ a, the stride is s₁ s₂ and the bias b₂ + (Σ_e W₂[e]) b₁. The groups
    are the greatest common divisor of the two numbers of groups: all other channels mix.

    Beside the image, the second map reads what the first puts out there: its bias, and what it makes of
    the image's edge. A convolution behind a convolution reads zeros instead. The two agree once all
    padding stands before the first: this padding re-ordering is the one inexact step of merging.

    Args:
        first: The map that takes the input.
        second: The map that takes what the first puts out.

    Raises:
        UnitError: If the second takes another number of channels or axes than the first puts out.

    Example:
        >>> from shoal.surgery.affine import convolution
        >>> blur = convolution(torch.nn.Conv1d(1, 1, 3, stride=2, padding=1))
        >>> merged = compose(blur, blur)
        >>> merged.kernel, merged.stride, merged.offset
        ((7,), (4,), (-3,))

    Reference: Kim et al., 2024, LayerMerge, https://arxiv.org/abs/2406.12837.
    """
    given, taken = (first.out_channels, len(first.stride)), (second.in_channels, len(second.stride))
    if given != taken:
        raise UnitError(
            f"asked to merge two maps in sequence: the first puts out {given[0]} channels on {given[1]} "
            f"axes, the second takes {taken[0]} on {taken[1]}. Merge maps that follow each other."
        )
    groups = gcd(first.groups, second.groups)
    copies = [_under(tap, first, second) for tap in product(*(range(taps) for taps in second.kernel))]
    grid = _Grid.over(copies)
    weight = first.weight.new_zeros(second.out_channels, first.in_channels // groups, *grid.taps)
    for copy, term in zip(copies, _terms(first, second, groups), strict=True):
        weight[grid.places(copy)] += term
    return Affine(
        weight=weight,
        bias=second.bias + channel_sums(second) @ first.bias,
        stride=tuple(s * t for s, t in zip(first.stride, second.stride, strict=True)),
        offset=grid.offset,
        dilation=grid.dilation,
        groups=groups,
    )


def _under(tap: Sequence[int], first: Affine, second: Affine) -> Affine:
    """Return the first map as a tap of the second sees it."""
    at = [f + d * e for f, d, e in zip(second.offset, second.dilation, tap, strict=True)]
    offset = tuple(f + s * step for f, s, step in zip(first.offset, first.stride, at, strict=True))
    return replace(first, offset=offset)


def _terms(first: Affine, second: Affine, groups: int) -> Iterator[Tensor]:
    """Yield W₂[e] W₁ for every tap e of the second map, as `(O, I / groups, *taps of the first)`."""
    shape = (second.out_channels, first.in_channels // groups, *first.kernel)
    # The map of more groups keeps them, as p parts of each group of the result: few zeros are multiplied.
    parts = max(first.groups, second.groups) // groups
    if first.groups < second.groups:
        first, rule = with_groups(first, groups), "gpom,gpmi->gpoi"
        rows: tuple[int, ...] = (groups, parts, second.out_channels // groups // parts)
    else:
        second, rule = with_groups(second, groups), "gopm,gpmi->gopi"
        rows = (groups, second.out_channels // groups, parts)
    middle = first.out_channels // groups // parts
    inner = first.weight.reshape(groups, parts, middle, -1)
    for outer in second.weight.flatten(2).movedim(-1, 0):
        yield torch.einsum(rule, outer.reshape(*rows, middle), inner).reshape(shape)


def add(a: Affine, b: Affine) -> Affine:
    """Return the sum of two maps of the same input, such as a branch and its skip; exact everywhere.

    Args:
        a, b: Maps with the same stride; their taps need not stand in the same places.

    Returns:
        A map with as many groups as the greatest common divisor of both numbers.

    Raises:
        UnitError: If strides or numbers of channels differ.

    Example:
        >>> from shoal.surgery.affine import average, identity
        >>> delta = identity(1, 1, dtype=torch.float32, device=torch.device("cpu"))
        >>> add(delta, average(1, (3,), (1,), (1,), dtype=torch.float32, device=delta.bias.device)).weight
        tensor([[[0.3333, 1.3333, 0.3333]]])
    """
    _check_side_by_side([a, b])
    if a.out_channels != b.out_channels:
        raise UnitError(
            f"asked to add two maps: they put out {a.out_channels} and {b.out_channels} channels. Add maps "
            "that put out as many."
        )
    grid, groups = _Grid.over([a, b]), gcd(a.groups, b.groups)
    return Affine(
        weight=grid.filled(with_groups(a, groups)) + grid.filled(with_groups(b, groups)),
        bias=a.bias + b.bias,
        stride=a.stride,
        offset=grid.offset,
        dilation=grid.dilation,
        groups=groups,
    )


def stack(maps: Sequence[Affine]) -> Affine:
    """Return the concatenation along channels of what maps of the same input put out; exact everywhere.

    Several maps give a dense one: their outputs do not come in the order of the input's groups.

    Args:
        maps: One or more maps with the same stride.

    Raises:
        UnitError: If there are none, or strides or numbers of input channels differ.
    """
    if not maps:
        raise UnitError("asked to stack maps along their channels: there are no maps. Give one or more.")
    _check_side_by_side(maps)
    if len(maps) == 1:
        return maps[0]
    grid = _Grid.over(maps)
    return Affine(
        weight=torch.cat([grid.filled(with_groups(each, 1)) for each in maps]),
        bias=torch.cat([each.bias for each in maps]),
        stride=maps[0].stride,
        offset=grid.offset,
        dilation=grid.dilation,
    )


def _check_side_by_side(maps: Sequence[Affine]) -> None:
    strides, channels = [each.stride for each in maps], [each.in_channels for each in maps]
    if len(set(strides)) > 1 or len(set(channels)) > 1:
        raise UnitError(
            f"asked to merge {len(maps)} maps side by side: they have the strides {strides} and take "
            f"{channels} channels. Merge maps of the same input whose feature maps are of the same size."
        )


@dataclass(frozen=True)
class _Grid:
    """The fewest places, evenly apart on each axis, on which all taps of several maps stand."""

    offset: tuple[int, ...]
    dilation: tuple[int, ...]
    taps: tuple[int, ...]

    @classmethod
    def over(cls, maps: Sequence[Affine]) -> _Grid:
        """Return the grid of maps of as many axes."""
        runs = [zip(each.offset, each.dilation, each.kernel, strict=True) for each in maps]
        return cls(*zip(*(line(list(axis)) for axis in zip(*runs, strict=True)), strict=True))

    def places(self, map: Affine) -> tuple[Any, ...]:
        """Return the index of a map's taps in a weight on this grid."""
        spans = []
        for at, d, k, start, q in zip(
            map.offset, map.dilation, map.kernel, self.offset, self.dilation, strict=True
        ):
            first, step = (at - start) // q, max(d // q, 1)
            spans.append(slice(first, first + step * (k - 1) + 1, step))
        return (..., *spans)

    def filled(self, map: Affine) -> Tensor:
        """Return a map's weight on this grid, zeros standing elsewhere."""
        weight = map.weight.new_zeros(*map.weight.shape[:2], *self.taps)
        weight[self.places(map)] = map.weight
        return weight
