"""What is left of a segment, step by step, and the shape of what it becomes."""

from __future__ import annotations

import random

import pytest
import torch

from merge_networks import NETWORKS, small
from shoal.architectures.convolutions import find_convolutions
from shoal.surgery.affine import to_convolution
from shoal.surgery.collapsing import as_affine
from shoal.surgery.rewriting import ENTRY, margins, merged_shape, rewrite
from shoal.units import Segment

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shape_is_that_of_the_merged_convolution(name):
    net, example = small(name)
    found, rng = find_convolutions(net, example), random.Random(0)
    regions = [region for region in found.regions() if len(region.segment) <= 6]
    for region in rng.sample(regions, min(15, len(regions))):
        free = [index for index in region.segment if found.layers[index].reducible]
        kept = set(region.segment) - set(rng.sample(free, rng.randint(0, len(free))))
        left = rewrite(found, region, kept)
        shape = merged_shape(left)
        if shape is None:
            assert left.result == ENTRY
            continue
        map = as_affine(left).affine
        assert (shape.kernel, shape.stride, shape.dilation) == (map.kernel, map.stride, map.dilation)
        assert (shape.in_channels, shape.out_channels, shape.groups) == (
            map.in_channels, map.out_channels, map.groups
        )  # fmt: skip
        module = to_convolution(map, padding=shape.padding)
        y = module(torch.zeros(1, shape.in_channels, *shape.in_size, dtype=torch.float64))
        assert tuple(y.shape[2:]) == shape.out_size == tuple(region.exit.meta["shape"][2:])


@pytest.fixture
def resnet():
    net, example = small("resnet")
    return find_convolutions(net, example)


def kinds(found):
    return [step.kind for step in found.steps]


@pytest.mark.parametrize(
    ("segment", "kept", "expected"),
    [
        (Segment(1, 3), (1, 2), ["convolution", "norm", "convolution", "norm", "add"]),
        (Segment(1, 3), (2,), ["convolution", "norm", "add"]),
        (Segment(1, 3), (), []),
        (Segment(1, 5), (), []),
        (Segment(1, 5), (4,), ["convolution", "norm", "add"]),
        (Segment(1, 2), (1,), ["convolution", "norm"]),
        (Segment(1, 2), (), []),
        (Segment(5, 7), (5, 6), ["convolution", "norm"] * 3 + ["add"]),
        (Segment(5, 7), (5,), ["convolution", "norm"] * 2 + ["add"]),
    ],
)
def test_what_is_left_of_residual_blocks(resnet, segment, kept, expected):
    region = resnet.region(segment)
    found = rewrite(resnet, region, kept)
    assert kinds(found) == expected
    assert (found.result == ENTRY) == (not expected)
    assert found.kept == kept
    assert len(found.convolutions) == expected.count("convolution")


def test_margins_are_what_is_lost_without_zeros_inside(resnet):
    found = rewrite(resnet, resnet.region(Segment(1, 5)), range(1, 5))
    names = {number: (step.node.name, margin[0]) for number, step in enumerate(found.steps)
             for margin in [margins(found)[number]]}  # fmt: skip
    # Four kernels of three taps, read from behind.
    by_name = dict(names.values())
    assert by_name["stages_0_1_bn2"] == (0, 0)
    assert by_name["stages_0_1_conv1"] == (1, 1)
    assert by_name["stages_0_0_bn2"] == (2, 2)
    assert by_name["stages_0_0_bn1"] == (3, 3)


def test_what_is_added_inside_goes_with_all_layers_of_the_segment():
    net, example = small("timed")
    found = find_convolutions(net, example)
    region = found.region(Segment(0, 3))
    assert len(rewrite(found, region, [0, 1, 2]).terms) == 3
    assert found.layers[2].fixed
    assert rewrite(found, region, [2]).terms == rewrite(found, region, [0, 1, 2]).terms
    net, example = small("unet")
    found = find_convolutions(net, example)
    assert rewrite(found, found.region(Segment(1, 3)), []).terms == ()
