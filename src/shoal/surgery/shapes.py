"""The shape of the one convolution that several are: in sequence, as a sum, or joined along channels.

Arithmetic on numbers, without weights; `shoal.surgery.merge` finds the weights that belong to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd

from shoal.errors import UnitError
from shoal.layers import ConvShape

__all__ = ["Line", "in_sequence", "in_stack", "in_sum", "line"]

# Where the taps along one axis stand: the first place, how far they are apart, and how many there are.
Line = tuple[int, int, int]


def line(runs: Sequence[Line]) -> Line:
    """Return the fewest places, evenly apart, that hold the places of several runs.

    Example:
        >>> line([(0, 4, 2), (2, 1, 1)])
        (0, 2, 3)
    """
    start = min(at for at, _, _ in runs)
    last = max(at + step * (number - 1) for at, step, number in runs)
    steps = [at - start for at, _, _ in runs] + [step for _, step, number in runs if number > 1]
    apart = gcd(*steps) or 1
    return start, apart, (last - start) // apart + 1


def in_sequence(first: ConvShape, second: ConvShape) -> ConvShape:
    """Return the shape of two convolutions in sequence, all zeros put before the first.

    Example:
        >>> conv = ConvShape(in_channels=4, out_channels=4, kernel=(3,), stride=(2,), dilation=(1,),
        ...                  padding=((1, 1),), groups=2, in_size=(16,))
        >>> both = in_sequence(conv, conv)
        >>> both.kernel, both.stride, both.padding, both.out_size
        ((7,), (4,), ((3, 3),), (4,))
    """
    lines = []
    for taps, step, reach, more, wider in zip(
        first.kernel, first.stride, first.dilation, second.kernel, second.dilation, strict=True
    ):
        far = step * wider * (more - 1)
        lines.append(line([(0, reach, taps), (far, reach, taps), (0, step * wider, more)]))
    return replace(
        first,
        out_channels=second.out_channels,
        kernel=tuple(taps for _, _, taps in lines),
        stride=tuple(s * t for s, t in zip(first.stride, second.stride, strict=True)),
        dilation=tuple(apart for _, apart, _ in lines),
        padding=tuple(
            (before + s * more, after + s * further)
            for (before, after), s, (more, further) in zip(
                first.padding, first.stride, second.padding, strict=True
            )
        ),
        groups=gcd(first.groups, second.groups),
    )


def in_sum(first: ConvShape, second: ConvShape) -> ConvShape:
    """Return the shape of the sum of two convolutions of one input.

    Raises:
        UnitError: If they are of different strides.
    """
    return _side_by_side([first, second], first.out_channels, gcd(first.groups, second.groups))


def in_stack(shapes: Sequence[ConvShape]) -> ConvShape:
    """Return the shape of what convolutions of one input put out, joined along the channels.

    Raises:
        UnitError: If they are of different strides.
    """
    if len(shapes) == 1:
        return shapes[0]
    return _side_by_side(shapes, sum(each.out_channels for each in shapes), 1)


def _side_by_side(shapes: Sequence[ConvShape], out_channels: int, groups: int) -> ConvShape:
    first = shapes[0]
    if any(each.stride != first.stride for each in shapes):
        raise UnitError(
            f"asked to merge {len(shapes)} convolutions side by side: they have the strides "
            f"{[each.stride for each in shapes]}. Merge those whose maps are of the same size at any size."
        )
    lines = [
        line([(-each.padding[axis][0], each.dilation[axis], each.kernel[axis]) for each in shapes])
        for axis in range(len(first.kernel))
    ]
    padding = []
    for axis, (start, apart, taps) in enumerate(lines):
        before, after = first.padding[axis]
        last = first.dilation[axis] * (first.kernel[axis] - 1) - before
        padding.append((-start, after + start + apart * (taps - 1) - last))
    return replace(
        first,
        out_channels=out_channels,
        kernel=tuple(taps for _, _, taps in lines),
        dilation=tuple(apart for _, apart, _ in lines),
        padding=tuple(padding),
        groups=groups,
    )
