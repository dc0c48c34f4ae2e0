"""The convolutions of a network and what runs of them may become, as plain data: no torch.

A `ConvShape` is all that decides how long one convolution takes; a `Layer` is a convolution of a
network with what belongs to it; a `MergeEntry` is one way to rewrite a segment of layers.

Layers are numbered from 0 in the order in which they run; segments are half-open. An axis is a
spatial one: convolutions have 1, 2 or 3 of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from shoal.units import Segment

__all__ = ["ConvShape", "Layer", "MergeEntry"]

Axes = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """All that decides how long a convolution takes, its batch and device aside.

    Attributes:
        in_channels, out_channels: Numbers of channels.
        kernel, stride, dilation: One number an axis.
        padding: Zeros before and after, a pair an axis.
        groups: Groups of channels that do not mix.
        in_size: Size of the input, a number an axis.
        activation: What follows it, such as `relu6`; empty for nothing.

    Example:
        >>> shape = ConvShape(in_channels=8, out_channels=8, kernel=(3, 3), stride=(1, 1), dilation=(1, 1),
        ...                   padding=((1, 1), (1, 1)), groups=8, in_size=(4, 4))
        >>> shape.out_size, shape.macs, shape.params
        ((4, 4), 1152, 80)
    """

    in_channels: int
    out_channels: int
    kernel: Axes
    stride: Axes
    dilation: Axes
    padding: Padding
    groups: int
    in_size: Axes
    activation: str = ""

    @property
    def out_size(self) -> Axes:
        """Size of the output, a number an axis."""
        return tuple(
            (size + before + after - reach * (taps - 1) - 1) // step + 1
            for size, (before, after), taps, step, reach in zip(
                self.in_size, self.padding, self.kernel, self.stride, self.dilation, strict=True
            )
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        taps = prod(self.kernel) * self.in_channels // self.groups
        return taps * self.out_channels * prod(self.out_size)

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.out_channels * (prod(self.kernel) * self.in_channels // self.groups + 1)

    @property
    def depthwise(self) -> bool:
        """Whether no two channels mix."""
        return self.groups == self.in_channels == self.out_channels


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution of a network, with the norm and the activation behind it.

    Attributes:
        index: Its number in forward order.
        name: Dotted path of the convolution.
        shape: The convolution as it stands in the network; its activation is the one behind it.
        norm: Dotted path of the batch norm that belongs to it; empty for none.
        fixed: Why it cannot be left out; empty where it can.
        apart: Why no segment of several layers holds it; empty where one may.
        after_resize: Whether what it takes was made larger by interpolation just before.
        magnitude: Sum of the absolute weights as they are (ℓ1).
        folded_magnitude: Mean absolute weight once its batch norm is folded.
    """

    index: int
    name: str
    shape: ConvShape
    norm: str = ""
    fixed: str = ""
    apart: str = ""
    after_resize: bool = False
    magnitude: float = 0.0
    folded_magnitude: float = 0.0

    @property
    def reducible(self) -> bool:
        """Whether the network runs without it: it keeps channels and size."""
        return not self.fixed


@dataclass(frozen=True, kw_only=True)
class MergeEntry:
    """One way to rewrite a segment of layers: activations inside go, and the layers that are not kept.

    Attributes:
        segment: The layers.
        kept: Those of them that stay, ascending; none where the segment becomes the identity.
        merged: The one convolution that they become; None where nothing stays, or where the layers
            cannot be merged.
        separate: What runs where they are not merged.
        beside: What runs besides in either form: projection shortcuts that stay.
        added: The activation that is put where none was, behind a merged segment; empty for none.
    """

    segment: Segment
    kept: tuple[int, ...]
    merged: ConvShape | None
    separate: tuple[ConvShape, ...]
    beside: tuple[ConvShape, ...] = ()
    added: str = ""

    @property
    def unchanged(self) -> bool:
        """Whether it is a single layer that stays as it is."""
        return len(self.segment) == 1 == len(self.kept)

    @property
    def empty(self) -> bool:
        """Whether the segment becomes the identity."""
        return self.merged is None and not self.separate
