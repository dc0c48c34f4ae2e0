"""Linear layers and convolutions as affine maps: what they compute, how two become one, and layers again.

Linear layers are convolutions of one tap here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shoal.surgery.affine import Affine, convolution, exact_device, fold_norm, identity, to_convolution
from shoal.surgery.merge import add, compose
from shoal.surgery.shortcut_layers import LAYERS, ZEROS, all_pads

__all__ = ["LinearMap"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """A linear layer or convolution as an affine map.

    Attributes:
        affine: The map, in float64.
        after: Zeros behind the input, a number an axis; negative numbers crop.
        linear: Whether it is a linear layer.
        biased: Whether it has a bias.
        like: A weight whose dtype and device the layer has.
    """

    affine: Affine
    after: tuple[int, ...]
    linear: bool
    biased: bool
    like: torch.Tensor

    @classmethod
    def of(cls, modules: Sequence[nn.Module]) -> LinearMap:
        """Return the map of a layer, of the zeros that stand before it, and of the batch norm behind it."""
        pads = [module.padding for module in modules if isinstance(module, ZEROS)]
        norms = [module for module in modules if isinstance(module, _BatchNorm)]
        layer: Any = next(module for module in modules if isinstance(module, LAYERS))
        exact: Any = {"dtype": torch.float64, "device": exact_device(layer.weight.device)}
        linear = isinstance(layer, nn.Linear)
        affine = _of_linear(layer, **exact) if linear else convolution(layer, **exact)
        total = [0] if linear else all_pads(layer)
        after = tuple(both + before for both, before in zip(total, affine.offset, strict=True))
        for flat in pads:
            # The last axis comes first.
            before = tuple(reversed(flat[::2]))
            affine = replace(affine, offset=tuple(a - b for a, b in zip(affine.offset, before, strict=True)))
            after = tuple(a + b for a, b in zip(after, reversed(flat[1::2]), strict=True))
        for norm in norms:
            affine = fold_norm(affine, norm)
        biased = layer.bias is not None or bool(norms)
        return cls(affine=affine, after=after, linear=linear, biased=biased, like=layer.weight)

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after, a pair an axis."""
        return tuple((-before, after) for before, after in zip(self.affine.offset, self.after, strict=True))

    @property
    def weights(self) -> int:
        """How many numbers its weight has: what it costs at each place of its output."""
        return self.affine.weight.numel()

    def beside(self, around: LinearMap | None) -> LinearMap:
        """Return the sum of this map and what leads around it, the identity where that is None."""
        weight = self.affine.weight
        same = identity(self.affine.in_channels, len(self.after), dtype=weight.dtype, device=weight.device)
        # The shortcut's tap is one of the layer's, so that no padding changes.
        return replace(self, affine=add(self.affine, same if around is None else around.affine))

    def then(self, second: LinearMap) -> LinearMap | None:
        """Return one map in place of this and the one behind it; None where they differ at the border, or
        two cost less than one.
        """
        if self.linear != second.linear or len(self.after) != len(second.after):
            return None
        # Zeros in front of the second map stand for what the first makes of zeros, if it crops and adds
        # nothing.
        pointwise = set(self.affine.kernel) == {1} and not any(map(any, self.pads)) and not self.biased
        if not pointwise and any(zeros > 0 for pair in second.pads for zeros in pair):
            return None
        after = tuple(
            mine + step * theirs
            for mine, step, theirs in zip(self.after, self.affine.stride, second.after, strict=True)
        )
        affine = compose(self.affine, second.affine)
        merged = replace(second, affine=affine, after=after, biased=self.biased or second.biased)
        apart = self.weights * prod(second.affine.stride) + second.weights
        return merged if merged.weights <= apart else None

    def modules(self, *, training: bool) -> list[nn.Module]:
        """Return ordinary modules that compute it: a layer, behind padding where that differs before and
        after.
        """
        weight, bias = (
            each.to(self.like.dtype).to(self.like.device) for each in (self.affine.weight, self.affine.bias)
        )
        if self.linear:
            layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            layer.weight, layer.bias = nn.Parameter(weight.squeeze(-1)), nn.Parameter(bias)
            row: list[nn.Module] = [layer]
        else:
            made = to_convolution(replace(self.affine, weight=weight, bias=bias), padding=self.pads)
            row = list(made) if isinstance(made, nn.Sequential) else [made]
        if not self.biased:
            row[-1].bias = None  # type: ignore[assignment]
        return [module.train(training).requires_grad_(self.like.requires_grad) for module in row]


def _of_linear(layer: nn.Linear, *, dtype: torch.dtype, device: torch.device) -> Affine:
    """A linear layer as a convolution of one tap."""
    weight = layer.weight.detach().to(device).to(dtype)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(weight)
    return Affine(weight=weight.unsqueeze(-1), bias=bias, stride=(1,), offset=(0,), dilation=(1,))
