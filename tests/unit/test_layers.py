from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from shoal.layers import ConvShape, Layer, MergeEntry
from shoal.units import Segment

SHAPE = ConvShape(
    in_channels=8,
    out_channels=12,
    kernel=(3, 3),
    stride=(1, 1),
    dilation=(1, 1),
    padding=((1, 1), (1, 1)),
    groups=1,
    in_size=(7, 9),
)


def conv_of(shape: ConvShape) -> nn.Module:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape.kernel) - 1]
    return kind(
        shape.in_channels,
        shape.out_channels,
        shape.kernel,
        shape.stride,
        tuple(before for before, _ in shape.padding),
        shape.dilation,
        shape.groups,
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding", "groups"),
    list(product((1, 2, 3, 5), (1, 2, 3), (1, 2), (0, 1, 2), (1, 4))),
)
def test_size_params_and_macs_are_those_of_the_convolution(kernel, stride, dilation, padding, groups):
    shape = replace(
        SHAPE,
        kernel=(kernel, 3),
        stride=(stride, 1),
        dilation=(1, dilation),
        padding=((padding, padding), (1, 1)),
        groups=groups,
    )
    conv = conv_of(shape)
    out = conv(torch.zeros(1, 8, *shape.in_size))
    assert shape.out_size == out.shape[2:]
    assert shape.params == sum(parameter.numel() for parameter in conv.parameters())
    assert shape.macs == out[0].numel() * conv.weight[0].numel()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_any_number_of_axes_works(axes):
    shape = ConvShape(
        in_channels=2,
        out_channels=2,
        kernel=(3,) * axes,
        stride=(2,) * axes,
        dilation=(1,) * axes,
        padding=((1, 1),) * axes,
        groups=2,
        in_size=(5,) * axes,
    )
    assert shape.out_size == conv_of(shape)(torch.zeros(1, 2, *shape.in_size)).shape[2:]
    assert shape.depthwise


def test_padding_may_differ_before_and_after():
    shape = replace(SHAPE, padding=((0, 1), (2, 0)), stride=(2, 1))
    x = nn.functional.pad(torch.zeros(1, 8, 7, 9), (2, 0, 0, 1))
    assert shape.out_size == nn.functional.conv2d(x, torch.zeros(12, 8, 3, 3), stride=(2, 1)).shape[2:]


@pytest.mark.parametrize(
    ("before", "after", "groups", "expected"), [(8, 8, 8, True), (8, 16, 8, False), (8, 8, 4, False)]
)
def test_depthwise_mixes_no_channels(before, after, groups, expected):
    shape = replace(SHAPE, in_channels=before, out_channels=after, groups=groups)
    assert shape.depthwise is expected


def test_shapes_that_differ_in_the_activation_alone_are_two():
    assert replace(SHAPE, activation="relu") != SHAPE
    assert len({SHAPE, replace(SHAPE), replace(SHAPE, activation="relu")}) == 2


def test_a_layer_is_reducible_unless_it_is_fixed():
    assert Layer(index=0, name="conv", shape=SHAPE).reducible
    assert not Layer(index=0, name="conv", shape=SHAPE, fixed="it has stride 2").reducible


@pytest.mark.parametrize(
    ("segment", "kept", "merged", "separate", "unchanged", "empty"),
    [
        (Segment(0, 1), (0,), SHAPE, (SHAPE,), True, False),
        (Segment(0, 1), (), None, (), False, True),
        (Segment(0, 3), (), None, (), False, True),
        (Segment(0, 3), (1,), SHAPE, (SHAPE,), False, False),
        # It cannot be merged, and runs one after the other.
        (Segment(0, 2), (0, 1), None, (SHAPE, SHAPE), False, False),
    ],
)
def test_an_entry_knows_whether_it_changes_anything(segment, kept, merged, separate, unchanged, empty):
    entry = MergeEntry(segment=segment, kept=kept, merged=merged, separate=separate)
    assert (entry.unchanged, entry.empty) == (unchanged, empty)
