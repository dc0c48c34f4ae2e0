"""Affine maps and convolutions for their tests, and what both compute by the book, in float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from shoal.surgery.affine import to_convolution

__all__ = [
    "CONVS",
    "F64",
    "assert_equal",
    "bare",
    "by_definition",
    "conv",
    "geometry",
    "normed",
    "padded",
    "reach",
    "run",
]

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
F64 = {"dtype": torch.float64, "device": torch.device("cpu")}


def conv(channels, out, kernel, **kwargs):
    return CONVS[len(kernel)](channels, out, tuple(kernel), **kwargs).double().requires_grad_(False)


def bare(module):
    """The same convolution without its padding."""
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[module.weight.ndim - 2]
    rest = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
    return lambda x: run(x, module.weight, module.bias, **rest)


def padded(x, padding):
    return F.pad(x, [each for pair in reversed(padding) for each in pair])


def reach(map):
    return [step * (taps - 1) + 1 for step, taps in zip(map.dilation, map.kernel, strict=True)]


def run(map, x, outputs):
    """The first so many outputs of a map on each axis."""
    after = [
        max(0, (out - 1) * stride + taps - size + offset)
        for out, stride, taps, size, offset in zip(
            outputs, map.stride, reach(map), x.shape[2:], map.offset, strict=True
        )
    ]
    padding = [(-offset, zeros) for offset, zeros in zip(map.offset, after, strict=True)]
    return to_convolution(map, padding=padding)(x).detach()[(..., *(slice(out) for out in outputs))]


def assert_equal(found, expected):
    assert found.shape == expected.shape
    # Rounding goes by the terms, which may cancel in a single output.
    assert (found - expected).abs().max() <= 1e-12 * max(expected.abs().max(), 0.1)


def by_definition(map, x, outputs):
    """The sum as it stands in the docstring of `Affine`, number by number."""
    out, width = map.weight.shape[:2]
    y = torch.empty(len(x), out, *outputs)
    for n, c, place in product(range(len(x)), range(out), np.ndindex(*outputs)):
        group = c // (out // map.groups)
        total = map.bias[c].clone()
        for i, tap in product(range(width), np.ndindex(*map.kernel)):
            at = [
                s * o + f + d * a
                for s, o, f, d, a in zip(map.stride, place, map.offset, map.dilation, tap, strict=True)
            ]
            if all(0 <= where < size for where, size in zip(at, x.shape[2:], strict=True)):
                total += map.weight[(c, i, *tap)] * x[(n, group * width + i, *at)]
        y[(n, c, *place)] = total
    return y


@st.composite
def geometry(draw, axes, most_kernel=5):
    def each(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    return {
        "kernel": each(1, most_kernel),
        "stride": each(1, 3),
        "dilation": each(1, 2),
        "padding": each(0, 3),
    }


def normed(channels, axes=2, **kwargs):
    norm = NORMS[axes](channels, **kwargs).eval().requires_grad_(False)
    norm.running_mean.normal_()
    norm.running_var.uniform_(1e-4, 2)
    if norm.affine:
        norm.weight.normal_()
        norm.bias.normal_()
    return norm
