"""The modules of a layer with a way around it, and the way itself.

S x + f(x): S is the identity where f keeps the shape; elsewhere a linear map without bias, a 1×1 convolution
at the centre of f's kernel or a linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shoal.surgery.affine import convolution

__all__ = ["LAYERS", "ZEROS", "Projected", "Shortcut", "all_pads", "projection"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ZEROS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)


class Shortcut(nn.Module):
    """A layer with a way around it: post(h + f(x)). Without it, h is left.

    Args:
        layer: f, with the batch norm behind it.
        activation: post; `nn.Identity` for none.
    """

    def __init__(self, layer: nn.Sequential, activation: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.activation = activation

    def forward(self, around: Tensor, x: Tensor | None = None) -> Tensor:
        """Return post(h + f(x)), h being `around`, and x too unless it is given."""
        activated: Tensor = self.activation(around + self.layer(around if x is None else x))
        return activated

    def alone(self, around: Tensor, x: Tensor | None = None) -> Tensor:
        """Return post(f(x)), what the plain layer computes."""
        activated: Tensor = self.activation(self.layer(around if x is None else x))
        return activated


class Projected(nn.Module):
    """A layer that changes the shape, with a linear way around it; the way stays when the layer goes.

    Args:
        around: S, linear and without a bias.
        shortcut: The layer; what stands in for it once it has gone returns its first argument.
    """

    def __init__(self, around: nn.Sequential, shortcut: Shortcut) -> None:
        super().__init__()
        self.around = around
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return post(S x + f(x))."""
        summed: Tensor = self.shortcut(self.around(x), x)
        return summed


def projection(layer: nn.Module) -> nn.Sequential | None:
    """Return a new linear map around a layer; None where the identity does."""
    like = next(layer.parameters())
    if isinstance(layer, nn.Linear):
        if layer.in_features == layer.out_features:
            return None
        return nn.Sequential(nn.Linear(layer.in_features, layer.out_features, bias=False).to(like))
    convolved: Any = layer
    pads = _pads_at_centre(convolved)
    if convolved.in_channels == convolved.out_channels and not any(pads) and set(convolved.stride) == {1}:
        return None
    kind: Any = type(layer)
    linear = kind(convolved.in_channels, convolved.out_channels, 1, stride=convolved.stride, bias=False).to(
        like
    )
    zeros: Any = ZEROS[len(convolved.stride) - 1]
    return nn.Sequential(*([zeros(pads)] if any(pads) else []), linear)


def _pads_at_centre(layer: Any) -> tuple[int, ...]:
    """The zeros before and after, the last axis first, that put one tap where the centre of a kernel stands;
    negative numbers crop.
    """
    offset, total = convolution(layer, device=torch.device("meta")).offset, all_pads(layer)
    pads: list[int] = []
    for axis, taps in enumerate(layer.kernel_size):
        centre = layer.dilation[axis] * ((taps - 1) // 2)
        beyond = layer.dilation[axis] * (taps - 1) - centre
        pads = [-offset[axis] - centre, total[axis] + offset[axis] - beyond, *pads]
    return tuple(pads)


def all_pads(layer: Any) -> list[int]:
    """Return the zeros before and after a convolution's input together, a number an axis."""
    if isinstance(layer.padding, str):
        same = layer.padding == "same"
        return [same * d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [2 * zeros for zeros in layer.padding]
