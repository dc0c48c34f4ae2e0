"""Every map is held against what torch computes of the modules, one after the other, in float64."""

from __future__ import annotations

from itertools import product
from math import gcd, lcm

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from shoal.errors import SurgeryError, UnitError
from shoal.surgery.merge import (
    Affine,
    add,
    average,
    channel_sums,
    compose,
    convolution,
    fold_norm,
    identity,
    scaled,
    stack,
    to_convolution,
    with_groups,
)

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
F64 = {"dtype": torch.float64, "device": torch.device("cpu")}


@pytest.fixture(autouse=True)
def float64_throughout():
    torch.set_default_dtype(torch.float64)


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


@pytest.mark.parametrize("groups", [1, 2])
def test_a_map_is_what_its_definition_says(groups):
    map = Affine(
        weight=torch.randn(4, 2 // groups, 2, 3),
        bias=torch.randn(4),
        stride=(2, 1),
        offset=(-1, -2),
        dilation=(1, 2),
        groups=groups,
    )
    x = torch.randn(1, 2, 5, 4)
    assert_equal(run(map, x, (3, 4)), by_definition(map, x, (3, 4)))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_convolution_and_back_is_the_same_convolution(axes):
    module = conv(4, 6, (3, 2, 5)[:axes], stride=(2, 1, 3)[:axes], padding=(1, 0, 2)[:axes], groups=2)
    again = to_convolution(convolution(module), padding=[(p, p) for p in module.padding])
    assert type(again) is CONVS[axes]
    x = torch.randn(2, 4, 7, 8, 5)[(..., *[slice(None)] * axes, *[0] * (3 - axes))]
    assert torch.equal(again(x), module(x))


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


def normed(channels, axes=2, **kwargs):
    norm = NORMS[axes](channels, **kwargs).eval().requires_grad_(False)
    norm.running_mean.normal_()
    norm.running_var.uniform_(1e-4, 2)
    if norm.affine:
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kwargs", [{}, {"eps": 1e-3}, {"affine": False}, {"affine": False, "eps": 1e-3}])
def test_a_folded_batch_norm_equals_the_two_in_sequence(axes, kwargs):
    module, norm = conv(4, 6, (3,) * axes, padding=1, groups=2), normed(6, axes, **kwargs)
    x = torch.randn(2, 4, *(5, 4, 3)[:axes])
    folded = fold_norm(convolution(module), norm)
    assert_equal(to_convolution(folded, padding=[(1, 1)] * axes)(x), norm(module(x)))


def test_folding_computes_in_the_dtype_of_the_map():
    module, norm = nn.Conv2d(3, 4, 3).float(), normed(4, eps=1e-3).float()
    assert fold_norm(convolution(module), norm).weight.dtype == torch.float32
    folded = fold_norm(convolution(module, dtype=torch.float64), norm)
    x = torch.randn(1, 3, 5, 5)
    assert_equal(run(folded, x, (3, 3)), norm.double()(module.double()(x)).detach())


def test_a_scaled_map_multiplies_and_then_shifts():
    module, x = conv(2, 4, (3,), groups=2), torch.randn(1, 2, 6)
    scale, shift = torch.randn(4), torch.randn(4)
    map = scaled(convolution(module), scale, shift)
    assert map.groups == 2
    assert_equal(run(map, x, (4,)), module(x) * scale[:, None] + shift[:, None])


@pytest.mark.parametrize(("pool", "axes"), [(nn.AvgPool1d, 1), (nn.AvgPool2d, 2), (nn.AvgPool3d, 3)])
def test_average_pooling_that_counts_its_padding_is_a_depthwise_convolution(pool, axes):
    kernel, stride, padding = (3, 2, 3)[:axes], (2, 1, 3)[:axes], (1, 1, 0)[:axes]
    map = average(4, kernel, stride, padding, **F64)
    x = torch.randn(2, 4, *(7, 6, 5)[:axes])
    assert map.groups == 4
    expected = pool(kernel, stride, padding)(x)
    assert_equal(to_convolution(map, padding=[(p, p) for p in padding])(x), expected)


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


def test_zeros_that_differ_before_and_after_are_a_layer_of_their_own():
    map, x = convolution(conv(2, 3, (2, 3), padding=(1, 0))), torch.randn(1, 2, 4, 5)
    module = to_convolution(map, padding=[(1, 0), (0, 2)])
    assert [type(each) for each in module] == [nn.ZeroPad2d, nn.Conv2d]
    assert_equal(module(x), by_definition(map, x, (4, 5)))


def test_a_map_that_begins_inside_crops():
    map, x = compose(convolution(conv(2, 3, (3,)), (-1,)), identity(3, 1, **F64)), torch.randn(1, 2, 8)
    assert map.offset == (1,)
    assert_equal(to_convolution(map, padding=[(-1, -1)])(x), F.conv1d(x[..., 1:-1], map.weight, map.bias))


@pytest.mark.parametrize(
    ("kernel", "dilation", "before"), [(3, 1, 1), (2, 1, 0), (4, 1, 1), (4, 2, 3), (1, 1, 0)]
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_padding_by_name_is_resolved_to_numbers(kernel, dilation, before):
    same = nn.Conv1d(2, 2, kernel, padding="same", dilation=dilation)
    assert convolution(same).offset == (-before,)
    assert convolution(nn.Conv1d(2, 2, kernel, padding="valid", dilation=dilation)).offset == (0,)
    x, total = torch.randn(1, 2, 9), dilation * (kernel - 1)
    merged = to_convolution(convolution(same), padding=[(before, total - before)])
    assert_equal(merged(x), same(x))


def test_padding_may_be_said_by_the_caller():
    assert convolution(nn.Conv2d(2, 2, 3, padding=1), (2, 0)).offset == (-2, 0)


def test_what_is_made_is_new_and_takes_no_random_numbers():
    module = nn.Conv2d(3, 3, 3).float()
    before, state = module.weight.clone(), torch.get_rng_state()
    map = convolution(module)
    made = to_convolution(map, padding=[(0, 0)] * 2)
    half = to_convolution(map, padding=[(0, 0)] * 2, dtype=torch.float16)
    assert torch.equal(torch.get_rng_state(), state)
    assert (made.weight.dtype, half.weight.dtype) == (torch.float32, torch.float16)
    assert all(parameter.requires_grad for parameter in made.parameters())
    with torch.no_grad():
        made.weight.zero_()
    assert torch.equal(module.weight, before)


def test_a_parametrised_weight_is_what_the_forward_uses():
    module, x = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3)), torch.randn(1, 2, 5)
    assert_equal(run(convolution(module), x, (3,)), module(x).detach())


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean())


def replaced():
    module = nn.Conv1d(2, 2, 3)
    module.forward = torch.zeros_like
    return module


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.ConvTranspose2d(2, 2, 3), "map of a ConvTranspose2d: only"),
        (nn.Linear(2, 2), "Linear"),
        (Standardised(2, 2, 3), "Standardised"),
        (replaced(), "map of a Conv1d: only"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.Conv2d(2, 2, 3, padding="same", padding_mode="circular"), "padding_mode='circular'"),
    ],
)
def test_what_is_no_affine_map_is_refused_by_name(module, why):
    with pytest.raises(UnitError, match=why):
        convolution(module)


def test_a_padding_mode_without_padding_says_nothing():
    module, x = conv(2, 3, (3, 3), padding_mode="reflect"), torch.randn(1, 2, 5, 5)
    assert_equal(run(convolution(module), x, (3, 3)), module(x))


def test_padding_needs_a_number_an_axis():
    with pytest.raises(UnitError, match=r"a padding before of \(1,\).*2 axes"):
        convolution(nn.Conv2d(2, 2, 3), (1,))
    with pytest.raises(UnitError, match=r"kernel=\(2, 2\), stride=\(2,\)"):
        average(4, (2, 2), (2,), (0, 0), **F64)


@pytest.mark.parametrize(
    ("norm", "why"),
    [
        (nn.BatchNorm2d(4, track_running_stats=False), "BatchNorm2d.*no running statistics"),
        (nn.GroupNorm(2, 4), "GroupNorm.*no running statistics"),
        (nn.BatchNorm2d(3), "4 channels.*3"),
    ],
)
def test_a_norm_that_depends_on_its_input_or_does_not_fit_is_refused(norm, why):
    with pytest.raises(UnitError, match=why):
        fold_norm(convolution(nn.Conv2d(2, 4, 1)), norm)


class Frozen(nn.Module):
    eps, weight, bias = 0.25, None, None
    running_mean, running_var = torch.ones(1), torch.zeros(1)


def test_an_eps_of_its_own_is_used_whatever_the_class_of_the_norm():
    folded = fold_norm(identity(1, 1, **F64), Frozen())
    assert (folded.weight.item(), folded.bias.item()) == (2, -2)


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


@pytest.mark.parametrize("padding", [[(0, 1)], [(1, 1), (1, 1)], []])
def test_padding_that_does_not_fit_the_map_is_refused(padding):
    map = convolution(nn.Conv1d(2, 2, 3, padding=1))
    with pytest.raises(SurgeryError, match=r"offset \(-1,\). Pad \(1,\)"):
        to_convolution(map, padding=padding)
