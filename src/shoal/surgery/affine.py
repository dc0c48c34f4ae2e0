"""Affine maps of feature maps: what convolutions, batch norms and average pooling compute, as weights.

Exact algebra, for 1, 2 or 3 spatial axes; nothing here knows of a network or its graph.

Shapes: O = output channels, I = input channels, taps = numbers of taps, one an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from shoal.errors import SurgeryError, UnitError

__all__ = [
    "Affine",
    "average",
    "convolution",
    "exact_device",
    "fold_norm",
    "identity",
    "scaled",
    "to_convolution",
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
    # The device first: not all of them know the wider dtypes.
    weight = module.weight.detach().to(device or module.weight.device).to(dtype or module.weight.dtype)
    return Affine(
        weight=weight,
        bias=weight.new_zeros(len(weight)) if module.bias is None else _to(module.bias, weight),
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
    held: Any = norm
    gain, bias = held.weight, held.bias
    scale = (_to(variance, map.bias) + held.eps).rsqrt()
    scale = scale if gain is None else scale * _to(gain, scale)
    shift = -_to(mean, scale) * scale
    return scaled(map, scale, shift if bias is None else shift + _to(bias, scale))


def exact_device(device: torch.device) -> torch.device:
    """Return where float64 is computed with for weights on a device: there, or on the CPU if it knows none.

    Example:
        >>> exact_device(torch.device("mps")), exact_device(torch.device("cuda", 1))
        (device(type='cpu'), device(type='cuda', index=1))
    """
    return torch.device("cpu") if device.type == "mps" else device


def _to(value: Any, like: Tensor) -> Tensor:
    moved: Tensor = value.detach().to(like.device).to(like.dtype)
    return moved


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
