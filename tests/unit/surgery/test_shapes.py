"""Shapes are held against those of the maps that are merged with their weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maps import conv, geometry
from shoal.architectures.convolutions import shape_from
from shoal.errors import UnitError
from shoal.surgery.affine import convolution, identity
from shoal.surgery.merge import add, compose, stack
from shoal.surgery.shapes import in_sequence, in_stack, in_sum, line


def taken(map):
    return (map.kernel, map.stride, map.dilation, map.groups, map.offset, map.in_channels, map.out_channels)


def told(shape):
    offset = tuple(-before for before, _ in shape.padding)
    fields = (shape.kernel, shape.stride, shape.dilation, shape.groups, offset)
    return (*fields, shape.in_channels, shape.out_channels)


def both(module, size=(40, 41)):
    return convolution(module), shape_from(module, size)


@given(geometry(2), geometry(2), st.sampled_from([(1, 1), (2, 4), (12, 4), (12, 12), (3, 4)]))
@settings(max_examples=80, deadline=None)
def test_a_sequence_has_the_shape_of_the_composed_maps(first, second, groups):
    (a, shape), (b, behind) = (
        both(conv(12, 12, groups=count, **each)) for count, each in zip(groups, (first, second), strict=True)
    )
    found = in_sequence(shape, behind)
    assert told(found) == taken(compose(a, b))
    # Outputs are as many as those of the two, one after the other.
    assert found.out_size == in_sequence(shape, shape_from(conv(12, 12, **second), shape.out_size)).out_size
    rest = shape_from(conv(12, 12, **second), shape.out_size)
    assert found.out_size == rest.out_size


@given(geometry(2), geometry(2), st.sampled_from([(1, 1), (2, 4), (12, 4), (12, 12)]))
@settings(max_examples=80, deadline=None)
def test_sums_and_stacks_have_the_shapes_of_those_maps(first, second, groups):
    second = second | {"stride": first["stride"]}
    (a, shape), (b, beside) = (
        both(conv(12, 12, groups=count, **each)) for count, each in zip(groups, (first, second), strict=True)
    )
    assert told(in_sum(shape, beside)) == taken(add(a, b))
    assert told(in_stack([shape, beside])) == taken(stack([a, b]))
    assert in_stack([shape]) == shape
    # As many outputs as the first has.
    assert in_sum(shape, beside).out_size == shape.out_size


def test_a_skip_adds_nothing_to_a_branch():
    module = conv(4, 4, (3, 5), padding=(1, 2), groups=2)
    shape, delta = shape_from(module, (8, 9)), conv(4, 4, (1, 1), groups=4)
    assert in_sum(shape, shape_from(delta, (8, 9))) == shape
    kept = identity(4, 2, dtype=torch.float64, device=torch.device("cpu"))
    assert taken(add(convolution(module), kept))[:4] == told(shape)[:4]


def test_strides_that_differ_are_refused():
    shapes = [shape_from(conv(4, 4, (1, 1), stride=stride), (1, 1)) for stride in (1, 2)]
    with pytest.raises(
        UnitError, match=r"2 convolutions side by side: they have the strides \[\(1, 1\), \(2"
    ):
        in_sum(*shapes)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [([(0, 1, 1)], (0, 1, 1)), ([(-3, 5, 1)], (-3, 1, 1)), ([(-2, 2, 3)], (-2, 2, 3)),
     ([(0, 4, 2), (6, 1, 1)], (0, 2, 4)), ([(0, 2, 2), (1, 2, 2)], (0, 1, 4))],
)  # fmt: skip
def test_a_line_holds_all_runs_on_the_fewest_places(runs, expected):
    assert line(runs) == expected
