"""Every map is held against what torch computes of the module, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maps import CONVS, F64, assert_equal, by_definition, conv, normed, run
from shoal.errors import SurgeryError, UnitError
from shoal.surgery.affine import Affine, average, convolution, fold_norm, identity, scaled, to_convolution


@pytest.fixture(autouse=True)
def float64_throughout():
    torch.set_default_dtype(torch.float64)


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


def test_zeros_that_differ_before_and_after_are_a_layer_of_their_own():
    map, x = convolution(conv(2, 3, (2, 3), padding=(1, 0))), torch.randn(1, 2, 4, 5)
    module = to_convolution(map, padding=[(1, 0), (0, 2)])
    assert [type(each) for each in module] == [nn.ZeroPad2d, nn.Conv2d]
    assert_equal(module(x), by_definition(map, x, (4, 5)))


def test_a_map_that_begins_inside_crops():
    map, x = convolution(conv(2, 3, (3,)), (-1,)), torch.randn(1, 2, 8)
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


@pytest.mark.parametrize("padding", [[(0, 1)], [(1, 1), (1, 1)], []])
def test_padding_that_does_not_fit_the_map_is_refused(padding):
    map = convolution(nn.Conv1d(2, 2, 3, padding=1))
    with pytest.raises(SurgeryError, match=r"offset \(-1,\). Pad \(1,\)"):
        to_convolution(map, padding=padding)
