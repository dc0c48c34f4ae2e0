"""Affine maps of feature maps: convolutions, norms, skips and concatenations that become one convolution.

Exact algebra on weights, for 1, 2 or 3 spatial axes; nothing here knows of a network or its graph.

Shapes: O = output channels, I = input channels, taps = numbers of taps, one an axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor, nn

from shoal.errors import SurgeryError, UnitError

__all__ = [
    "Affine",
    "add",
    "average",
    "channel_sums",
    "compose",
    "convolution",
    "fold_norm",
    "identity",
    "scaled",
    "stack",
    "to_convolution",
    "with_groups",
]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ZEROS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """y[o] = bias + Σ_a weight[:, :, a] · x[stride·o + offset + dilation·a], per axis, x being zero outside.

    Attributes:
        weight: `(O, I / groups, *taps)`.
        bias: `(O,)`.
        stride, dilation: One number an axis.
        offset: Where the first tap stands for the first output, a number an axis: minus the padding before.
        groups: Groups of channels that do not mix.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...]
    offset: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def in_channels(self) -> int:
        """Channels that it takes."""
        return self.weight.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        """Channels that it puts out."""
        return self.weight.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps, a number an axis."""
        return tuple(self.weight.shape[2:])


def identity(channels: int, axes: int, *, dtype: torch.dtype, device: torch.device) -> Affine:
    """Return the map that changes nothing: a depthwise convolution of one tap.

    Example:
        >>> identity(2, 1, dtype=torch.float32, device=torch.device("cpu")).weight.tolist()
        [[[1.0]], [[1.0]]]
    """
    return average(channels, (1,) * axes, (1,) * axes, (0,) * axes, dtype=dtype, device=device)


def average(
    channels: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Affine:
    """Return average pooling that counts its padding, as a depthwise convolution.

    Pooling that leaves padding out of the average, or whose last window overhangs, is no such map.

    Args:
        channels: Channels in and out.
        kernel, stride, padding: One number an axis.
        dtype, device: Those of the map.

    Raises:
        UnitError: If kernel, stride and padding are not of as many axes.
    """
    if not len(kernel) == len(stride) == len(padding):
        raise UnitError(
            f"asked for average pooling with kernel={tuple(kernel)}, stride={tuple(stride)} and "
            f"padding={tuple(padding)}: each needs one number an axis."
        )
    return Affine(
        weight=torch.full((channels, 1, *kernel), 1 / prod(kernel), dtype=dtype, device=device),
        bias=torch.zeros(channels, dtype=dtype, device=device),
        stride=tuple(stride),
        offset=tuple(-before for before in padding),
        dilation=(1,) * len(kernel),
        groups=channels,
    )


def convolution(
    module: nn.Module,
    padding_before: Sequence[int] | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Affine:
    """Return what a convolution computes, without gradients.

    Args:
        module: An `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` that pads with zeros or not at all.
        padding_before: Zeros before the input, a number an axis, instead of the module's own.
        dtype, device: Those of the map, the module's by default; on `meta` only shapes are found.

    Raises:
        UnitError: If the module is none of these, has a forward of its own, pads with something else
            than zeros, or has another number of axes than `padding_before`.

    Example:
        >>> convolution(nn.Conv2d(3, 8, (3, 5), stride=2, padding=1)).offset
        (-1, -1)
    """
    stock = [each.forward for each in _CONVOLUTIONS]
    if not isinstance(module, _CONVOLUTIONS) or getattr(module.forward, "__func__", None) not in stock:
        raise UnitError(
            f"asked for the map of a {type(module).__name__}: only nn.Conv1d, nn.Conv2d and nn.Conv3d with "
            "their own forwards are known to be such maps. Leave it out of what is merged."
        )
    own = _padding_before(module)
    before = own if padding_before is None else tuple(padding_before)
    if len(before) != len(own):
        raise UnitError(
            f"asked for a padding before of {before} for a {type(module).__name__}: it has {len(own)} axes, "
            "and needs one number for each."
        )
    weight = module.weight.detach().to(device or module.weight.device, dtype or module.weight.dtype)
    return Affine(
        weight=weight,
        bias=weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().to(weight),
        stride=tuple(module.stride),
        offset=tuple(-each for each in before),
        dilation=tuple(module.dilation),
        groups=module.groups,
    )


def _padding_before(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    if isinstance(module.padding, str):
        same = module.padding == "same"
        total = [same * d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    else:
        total = [2 * int(each) for each in module.padding]
    if any(total) and module.padding_mode != "zeros":
        raise UnitError(
            f"asked for the map of a {type(module).__name__} with padding={module.padding!r} and "
            f"padding_mode={module.padding_mode!r}: only zeros can be moved in front of other convolutions. "
            "Leave it out of what is merged."
        )
    return tuple(each // 2 for each in total)


def scaled(map: Affine, scale: Tensor, shift: Tensor) -> Affine:
    """Return the map whose output is multiplied and then shifted, channel by channel.

    Args:
        map: The map.
        scale, shift: `(O,)`.
    """
    weight = map.weight * scale.view(-1, 1, *(1 for _ in map.kernel))
    return replace(map, weight=weight, bias=map.bias * scale + shift)


def fold_norm(map: Affine, norm: nn.Module) -> Affine:
    """Return a map with the batch norm behind it, as it is in evaluation: γ (y − μ) / √(σ² + ε) + β.

    Computed in the dtype of the map. An activation that the norm's class applies besides is the caller's.

    Args:
        map: What the norm takes.
        norm: A norm with running statistics and an `eps`; its affine part may be missing.

    Raises:
        UnitError: If it keeps no running statistics, or those of another number of channels.
    """
    mean, variance = (getattr(norm, name, None) for name in ("running_mean", "running_var"))
    if mean is None or variance is None:
        raise UnitError(
            f"asked to fold a {type(norm).__name__} into a convolution: it keeps no running statistics, so "
            "what it does depends on its input. Leave it out of what is merged."
        )
    if len(mean) != map.out_channels:
        raise UnitError(
            f"asked to fold a {type(norm).__name__} into a map that puts out {map.out_channels} channels: it "
            f"has statistics of {len(mean)}. Fold the norm that follows the map."
        )
    gain, bias = (getattr(norm, name) for name in ("weight", "bias"))
    scale = (variance.to(map.bias) + norm.eps).rsqrt()
    scale = scale if gain is None else scale * gain.detach().to(scale)
    shift = -mean.to(scale) * scale
    return scaled(map, scale, shift if bias is None else shift + bias.detach().to(scale))


def with_groups(map: Affine, groups: int) -> Affine:
    """Return the same map with fewer groups, zeros standing where channels did not mix.

    Args:
        map: The map.
        groups: A divisor of the map's own groups; 1 gives the dense weight.

    Raises:
        UnitError: If it is no divisor.

    Example:
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
        >>> blur = convolution(nn.Conv1d(1, 1, 3, stride=2, padding=1))
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
        return cls(*zip(*(_line(axis) for axis in zip(*runs, strict=True)), strict=True))

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


def _line(runs: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return start, step and number of the fewest places that hold some runs, each (start, step, number)."""
    start = min(at for at, _, _ in runs)
    last = max(at + step * (number - 1) for at, step, number in runs)
    steps = [at - start for at, _, _ in runs] + [step for _, step, number in runs if number > 1]
    apart = gcd(*steps) or 1
    return start, apart, (last - start) // apart + 1


def to_convolution(
    map: Affine, *, padding: Sequence[tuple[int, int]], dtype: torch.dtype | None = None
) -> nn.Module:
    """Return an ordinary module that computes a map: new parameters, on the map's device.

    Args:
        map: The map.
        padding: Zeros before and after the input, a pair an axis: before, minus the map's offset; after,
            as many as the outputs ask for. Negative numbers crop.
        dtype: That of the parameters; the map's by default.

    Returns:
        An `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`; where the padding differs before and after, one that
        does not pad, behind an `nn.ZeroPad1d`, `nn.ZeroPad2d` or `nn.ZeroPad3d`.

    Raises:
        SurgeryError: If the padding before is not that of the map.

    Example:
        >>> to_convolution(convolution(nn.Conv1d(1, 1, 2)), padding=[(0, 1)])
        Sequential(
          (0): ZeroPad1d((0, 1))
          (1): Conv1d(1, 1, kernel_size=(2,), stride=(1,))
        )
    """
    before, wanted = tuple(zeros for zeros, _ in padding), tuple(-each for each in map.offset)
    if before != wanted:
        raise SurgeryError(
            f"asked for a convolution with padding={list(padding)}: the map has the offset {map.offset}. Pad "
            f"{wanted} before its input."
        )
    plain = all(zeros == after >= 0 for zeros, after in padding)
    kind: Any = _CONVOLUTIONS[len(wanted) - 1]
    # A module without memory is not initialised, which would draw random numbers.
    module: nn.Module = kind(
        map.in_channels,
        map.out_channels,
        map.kernel,
        stride=map.stride,
        padding=before if plain else 0,
        dilation=map.dilation,
        groups=map.groups,
        device="meta",
    )
    for name, value in (("weight", map.weight), ("bias", map.bias)):
        setattr(module, name, nn.Parameter(value.detach().to(dtype or value.dtype, copy=True)))
    if plain:
        return module
    zeros: Any = _ZEROS[len(wanted) - 1]
    return nn.Sequential(zeros(tuple(each for pair in reversed(padding) for each in pair)), module)
