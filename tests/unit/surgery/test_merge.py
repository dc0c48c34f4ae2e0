"""Every merged map is held against what torch computes of the modules, one after the other, in float64."""

from __future__ import annotations

from math import gcd, lcm

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maps import F64, assert_equal, bare, conv, geometry, normed, padded, reach, run
from shoal.errors import UnitError
from shoal.surgery.affine import Affine, convolution, fold_norm, identity, to_convolution
from shoal.surgery.merge import add, channel_sums, compose, stack, with_groups


@pytest.fixture(autouse=True)
def float64_throughout():
    torch.set_default_dtype(torch.float64)


@st.composite
def pairs(draw, axes, most_kernel=5):
    """Two convolutions that fit each other, of any numbers of groups."""
    groups = draw(st.tuples(st.sampled_from([1, 2, 3, 4, 6]), st.sampled_from([1, 2, 3, 4, 6])))
    inputs, outputs = (count * draw(st.integers(1, 2)) for count in groups)
    middle = lcm(*groups) * draw(st.integers(1, 2))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    biases = [draw(st.booleans()) for _ in range(2)]
    first = conv(inputs, middle, groups=groups[0], bias=biases[0], **draw(geometry(axes, most_kernel)))
    second = conv(middle, outputs, groups=groups[1], bias=biases[1], **draw(geometry(axes, most_kernel)))
    return first, second


def check_pair(first, second, data):
    """The composition equals the two with all padding moved before the first, whatever is behind x."""
    map = compose(convolution(first), convolution(second))
    before = [p + s * q for p, s, q in zip(first.padding, first.stride, second.padding, strict=True)]
    assert map.offset == tuple(-each for each in before)
    assert map.stride == tuple(s * t for s, t in zip(first.stride, second.stride, strict=True))
    assert map.groups == gcd(first.groups, second.groups)
    sizes, pairs = [], []
    for first_zeros, taps in zip(before, reach(map), strict=True):
        after = data.draw(st.integers(0, 5))
        least = max(1, taps - first_zeros - after)
        sizes.append(data.draw(st.integers(least, least + 7)))
        pairs.append((first_zeros, after))
    x = torch.randn(2, first.in_channels, *sizes)
    assert_equal(to_convolution(map, padding=pairs)(x), bare(second)(bare(first)(padded(x, pairs))))


@given(pairs(1), st.data())
@settings(max_examples=250, deadline=None)
def test_a_composition_in_one_dimension_equals_the_two_in_sequence(pair, data):
    check_pair(*pair, data)


@given(pairs(2), st.data())
@settings(max_examples=300, deadline=None)
def test_a_composition_in_two_dimensions_equals_the_two_in_sequence(pair, data):
    check_pair(*pair, data)


@given(pairs(3, most_kernel=3), st.data())
@settings(max_examples=50, deadline=None)
def test_a_composition_in_three_dimensions_equals_the_two_in_sequence(pair, data):
    check_pair(*pair, data)


@given(pairs(2, most_kernel=3))
@settings(max_examples=25, deadline=None)
def test_composing_is_associative(pair):
    first, second = (convolution(each) for each in pair)
    torch.manual_seed(0)
    third = convolution(conv(pair[1].out_channels, 3, (2, 3), stride=(2, 1), dilation=(1, 2)))
    left, right = compose(compose(first, second), third), compose(first, compose(second, third))
    assert (left.stride, left.offset, left.dilation) == (right.stride, right.offset, right.dilation)
    assert_equal(with_groups(left, 1).weight, with_groups(right, 1).weight)
    assert_equal(left.bias, right.bias)


def test_without_memory_shapes_are_found_all_the_same():
    first, second, norm = conv(6, 6, (3, 3), groups=6), conv(6, 4, (3, 1), stride=2), normed(4)
    here, there = (
        add(
            fold_norm(compose(*(convolution(each, device=device) for each in (first, second))), norm),
            convolution(conv(6, 4, (1, 1), stride=2), device=device),
        )
        for device in (None, torch.device("meta"))
    )
    assert there.weight.is_meta
    assert there.bias.is_meta
    assert there.weight.shape == here.weight.shape
    assert (there.offset, there.dilation, there.groups) == (here.offset, here.dilation, here.groups)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((8, 8, 8), (8, 8, 8), 8), ((8, 8, 8), (8, 4, 2), 2), ((8, 8, 2), (8, 8, 8), 2),
     ((8, 8, 8), (8, 4, 1), 1), ((4, 8, 1), (8, 8, 8), 1), ((4, 4, 2), (4, 8, 4), 2),
     ((4, 12, 4), (12, 12, 6), 2), ((6, 6, 2), (6, 6, 3), 1), ((4, 8, 4), (8, 8, 8), 4)],
)  # fmt: skip
def test_merged_groups_are_the_greatest_common_divisor_and_lose_nothing(first, second, expected):
    one = convolution(conv(*first[:2], (3, 3), groups=first[2]))
    two = convolution(conv(*second[:2], (3, 3), groups=second[2]))
    map = compose(one, two)
    assert map.groups == expected
    dense = compose(with_groups(one, 1), with_groups(two, 1))
    assert dense.groups == 1
    assert_equal(with_groups(map, 1).weight, dense.weight)
    assert_equal(map.bias, dense.bias)


def test_depthwise_stays_depthwise():
    layers = [conv(6, 6, (3, 3), stride=stride, padding=1, groups=6) for stride in (1, 2)]
    map = compose(*(convolution(each) for each in layers))
    assert (map.groups, tuple(map.weight.shape)) == (6, (6, 1, 5, 5))


@pytest.mark.parametrize(
    ("kernels", "dilations", "strides", "dilation", "taps"),
    [((3, 3), (2, 2), (1, 1), 2, 5), ((3, 3), (2, 1), (2, 1), 2, 5), ((3, 3), (2, 1), (1, 1), 1, 7),
     ((1, 3), (1, 1), (2, 1), 2, 3), ((1, 3), (1, 2), (3, 1), 6, 3), ((3, 1), (2, 1), (1, 1), 2, 3),
     ((1, 1), (2, 2), (2, 2), 1, 1)],
)  # fmt: skip
def test_taps_are_as_far_apart_as_they_can_be(kernels, dilations, strides, dilation, taps):
    first, second = (
        convolution(conv(1, 1, (k,), dilation=d, stride=s))
        for k, d, s in zip(kernels, dilations, strides, strict=True)
    )
    map = compose(first, second)
    assert (map.dilation, map.kernel) == ((dilation,), (taps,))


def test_outer_taps_that_are_0_stay():
    edge = torch.tensor([[[0.0, 1.0, 0.0]]])
    map = Affine(weight=edge, bias=torch.zeros(1), stride=(1,), offset=(-1,), dilation=(1,))
    assert compose(map, map).weight.flatten().tolist() == [0, 0, 1, 0, 0]
    assert add(map, identity(1, 1, **F64)).weight.flatten().tolist() == [0, 2, 0]


@given(st.integers(1, 2), st.data())
@settings(max_examples=120, deadline=None)
def test_a_sum_equals_the_sum_of_what_the_two_put_out(axes, data):
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    stride = data.draw(geometry(axes))["stride"]
    maps = []
    for _ in range(2):
        groups = data.draw(st.sampled_from([1, 2, 3, 4, 6]))
        shape = data.draw(geometry(axes)) | {"stride": stride}
        maps.append(convolution(conv(12, 24, groups=groups, **shape)))
    x = torch.randn(2, 12, *(data.draw(st.integers(1, 9)) for _ in range(axes)))
    outputs = (3,) * axes
    total = add(*maps)
    assert total.groups == gcd(*(each.groups for each in maps))
    assert total.stride == stride
    assert_equal(run(total, x, outputs), run(maps[0], x, outputs) + run(maps[1], x, outputs))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_stack_equals_the_concatenation(data):
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    stride = data.draw(geometry(2))["stride"]
    maps = []
    for _ in range(data.draw(st.integers(1, 3))):
        groups = data.draw(st.sampled_from([1, 2, 4]))
        shape = data.draw(geometry(2)) | {"stride": stride}
        maps.append(convolution(conv(4, 4 * data.draw(st.integers(1, 2)), groups=groups, **shape)))
    x = torch.randn(2, 4, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
    whole = stack(maps)
    assert whole.groups == (maps[0].groups if len(maps) == 1 else 1)
    assert_equal(run(whole, x, (2, 3)), torch.cat([run(each, x, (2, 3)) for each in maps], dim=1))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_identity_changes_nothing(axes):
    x, delta = torch.randn(2, 3, *(5, 4, 3)[:axes]), identity(3, axes, **F64)
    assert delta.groups == 3
    assert torch.equal(run(delta, x, x.shape[2:]), x)
    map = convolution(conv(3, 3, (3,) * axes, stride=2, padding=1))
    for same in (compose(delta, map), compose(map, delta)):
        assert torch.equal(same.weight, map.weight)
        assert torch.equal(same.bias, map.bias)
        assert (same.offset, same.stride) == (map.offset, map.stride)


@pytest.mark.parametrize(("groups", "size"), [(1, 7), (2, 8), (4, 9)])
def test_a_skip_adds_to_the_middle_tap_and_keeps_the_groups(groups, size):
    module, x = conv(4, 4, (3, 5), padding=(1, 2), groups=groups), torch.randn(2, 4, size, size + 1)
    map = add(convolution(module), identity(4, 2, **F64))
    assert map.groups == groups
    merged = to_convolution(map, padding=[(1, 1), (2, 2)])
    assert isinstance(merged, nn.Conv2d)
    assert_equal(merged(x), x + module(x))


@pytest.mark.parametrize("size", [7, 8])
def test_a_strided_block_with_a_projection_becomes_one_convolution(size):
    first, second = conv(3, 5, (3, 3), stride=2, padding=1), conv(5, 6, (3, 3), padding=1)
    shortcut, norm = conv(3, 6, (1, 1), stride=2, bias=False), normed(6)
    map = add(compose(convolution(first), convolution(second)), fold_norm(convolution(shortcut), norm))
    x = torch.randn(2, 3, size, size)
    expected = bare(second)(bare(first)(padded(x, [(3, 3)] * 2))) + norm(shortcut(x))
    assert_equal(to_convolution(map, padding=[(3, 3)] * 2)(x), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_channel_sums_are_what_a_constant_turns_into(groups):
    module, level = conv(4, 8, (3, 2), dilation=2, groups=groups), torch.randn(4)
    sums = channel_sums(convolution(module))
    x = level.view(1, 4, 1, 1).expand(1, 4, 5, 3)
    assert tuple(sums.shape) == (8, 4)
    torch.testing.assert_close(sums @ level + module.bias, module(x).flatten())


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_fewer_groups_are_the_same_map(groups):
    map, x = convolution(conv(6, 12, (3,), groups=6)), torch.randn(1, 6, 5)
    assert with_groups(map, groups).groups == groups
    assert_equal(run(with_groups(map, groups), x, (3,)), run(map, x, (3,)))


def test_maps_that_do_not_fit_are_refused():
    a, b = convolution(nn.Conv1d(2, 3, 3)), convolution(nn.Conv1d(4, 3, 3))
    strided, flat = convolution(nn.Conv1d(2, 3, 3, stride=2)), convolution(nn.Conv2d(3, 3, 3))
    with pytest.raises(UnitError, match="3 channels on 1 axes.*takes 4 on 1"):
        compose(a, b)
    with pytest.raises(UnitError, match="3 channels on 1 axes.*takes 3 on 2"):
        compose(a, flat)
    for together in (add, lambda *maps: stack(maps)):
        with pytest.raises(UnitError, match=r"strides \[\(1,\), \(2,\)\]"):
            together(a, strided)
        with pytest.raises(UnitError, match=r"take \[2, 4\] channels"):
            together(a, b)
    with pytest.raises(UnitError, match="put out 3 and 5 channels"):
        add(a, convolution(nn.Conv1d(2, 5, 3)))
    with pytest.raises(UnitError, match="no maps"):
        stack([])
    with pytest.raises(UnitError, match="4 groups.*has 6"):
        with_groups(identity(6, 1, **F64), 4)
