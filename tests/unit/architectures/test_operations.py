import operator
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from shoal.architectures.operations import AFFINE, Operation, activation_name, classify
from shoal.architectures.symbolic import trace_module


class Net(nn.Module):
    """Calls one module, or does something else, in some way."""

    def __init__(self, way, module: nn.Module | None = None) -> None:
        super().__init__()
        self.way, self.part = way, module
        self.conv = nn.Conv2d(4, 4, 1)
        self.param = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x):
        return self.way(self, x)


def last(way, module=None, x=None):
    """The graph, the last call in it, and what is said of it."""
    x = torch.randn(2, 4, 6, 6) if x is None else x
    dtype = x.dtype if x.is_floating_point() else torch.float32
    traced = trace_module(Net(way, module).eval().to(dtype), (x,), {})
    node = list(traced.graph.nodes)[-2]
    return traced, node, classify(traced, node)


def operation(module: nn.Module, x: Tensor | None = None) -> Operation:
    return last(lambda self, x: self.part(x), module, x)[2]


def function(way, x: Tensor | None = None) -> Operation:
    return last(lambda self, x: way(x), None, x)[2]


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class DropPath(nn.Module):
    def forward(self, x):
        if self.training:
            return x * (torch.rand(len(x), 1, 1, 1) > 0.5)
        return x


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.by


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormAct(nn.GroupNorm):
    def forward(self, x):
        return F.relu(super().forward(x))


class Ceiling(nn.AvgPool2d):
    def forward(self, x):
        return F.avg_pool2d(x, self.kernel_size, self.stride, ceil_mode=True)


@pytest.mark.parametrize(
    "act",
    [
        nn.ReLU,
        nn.ReLU6,
        nn.SiLU,
        nn.GELU,
        nn.Hardswish,
        nn.Sigmoid,
        nn.Tanh,
        nn.ELU,
        nn.PReLU,
        nn.RReLU,
        Swish,
        nn.LeakyReLU,
        nn.Softplus,
        nn.Hardtanh,
        nn.Mish,
        lambda: nn.Hardtanh(-100, 100),
    ],
)
def test_what_treats_every_number_by_itself_is_an_activation(act):
    assert operation(act()).kind == "activation"


@pytest.mark.parametrize(
    "way",
    [
        F.relu,
        F.relu_,
        torch.relu,
        torch.sigmoid,
        lambda x: x.relu(),
        lambda x: x.clamp(0, 6),
        lambda x: F.leaky_relu(x, 0.2),
        lambda x: x**2,
        abs,
        lambda x: x.clamp(-1e3, 1e3),
        lambda x: x.relu_(),
    ],
)
def test_functions_and_methods_may_be_activations(way):
    assert function(way).kind == "activation"


@pytest.mark.parametrize("module", [nn.Identity(), nn.Dropout(0.5), nn.Dropout2d(0.5), DropPath()])
def test_what_does_nothing_in_evaluation_is_the_identity(module):
    assert operation(module).kind == "identity"


@pytest.mark.parametrize(
    "way",
    [
        lambda x: x.contiguous(),
        lambda x: x / 1.0,
        lambda x: 0 + x,
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: x.float(),
        lambda x: x.clamp(-torch.inf, torch.inf),
    ],
)
def test_functions_may_be_the_identity(way):
    assert function(way).kind == "identity"


@pytest.mark.parametrize(
    "way",
    [
        lambda x: x / 2,
        lambda x: x * 0.5,
        lambda x: -x,
        lambda x: x + 1,
        lambda x: x - 1,
        operator.neg,
        lambda x: x + x,
        # The number of channels is no constant.
        lambda x: x * x.shape[1],
        lambda x: x * x.shape[1] ** -0.5,
        lambda x: x.flip(-1),
        lambda x: x.roll(1, 1),
        lambda x: x.transpose(2, 3),
        lambda x: F.softmax(x, 1),
        lambda x: F.normalize(x),
        lambda x: x * x.sigmoid().mean(),
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.adaptive_avg_pool2d(x, 6),
        lambda x: x.cumsum(1),
        lambda x: x[:, :2],
        lambda x: x.view(2, 4, 36),
        lambda x: F.conv2d(x, torch.eye(4)[:, :, None, None]),
        lambda x: torch.cat([x, x], 2),
        lambda x: x.double(),
    ],
)
def test_all_else_ends_what_can_be_merged(way):
    found = function(way)
    assert found.kind == "other"
    assert found.why


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.MaxPool2d(2), "MaxPool2d is not affine"),
        (nn.AdaptiveAvgPool2d(1), "AdaptiveAvgPool2d is not affine"),
        (nn.ConvTranspose2d(4, 4, 3), r"it is a transposed convolution \(ConvTranspose2d\)"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "it pads by reflect, which cannot be moved"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "it pads by circular"),
        (parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), "its weights are parametrised"),
        (parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)), "its weights are parametrised"),
        (Scale(), "Scale is not affine"),
        (NormAct(1, 4), "NormAct has a forward of its own"),
        (Ceiling(2), "Ceiling has a forward of its own"),
        (nn.AvgPool2d(4, 4, ceil_mode=True), "it averages over fewer places at the border"),
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), "it averages over fewer places at the border"),
        (nn.AvgPool2d(2, divisor_override=3), "it averages over fewer places at the border"),
        (nn.ReflectionPad2d(1), "ReflectionPad2d is not affine"),
        (nn.ConstantPad2d(1, 2.0), "it pads, but not only space and not only with zeros"),
        (nn.ZeroPad2d(-1), "it pads, but not only space and not only with zeros"),
    ],
)
def test_modules_that_cannot_take_part_say_why(module, why):
    found = operation(module)
    assert found.kind == "other"
    assert re.search(why, found.why)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Conv2d(4, 4, 3), "convolution"),
        (nn.Conv2d(4, 8, 3, 2, "valid", 2, 4), "convolution"),
        (nn.BatchNorm2d(4), "norm"),
        (nn.BatchNorm2d(4, affine=False), "norm"),
        (nn.SyncBatchNorm(4), "norm"),
        (nn.BatchNorm2d(4, track_running_stats=False), "statistics"),
        (nn.GroupNorm(2, 4), "statistics"),
        (nn.InstanceNorm2d(4), "statistics"),
        (nn.LayerNorm([6, 6]), "statistics"),
        (ChannelsFirst(4), "statistics"),
        (nn.Upsample(scale_factor=2), "resize"),
        (nn.PixelShuffle(2), "resize"),
    ],
)
def test_layers_are_what_they_compute(module, kind):
    found = operation(module)
    assert found.kind == kind
    assert bool(found.why) is (kind not in AFFINE)


@pytest.mark.parametrize(
    ("module", "pads"),
    [
        (nn.ZeroPad2d((1, 2, 3, 4)), ((3, 4), (1, 2))),
        (nn.ZeroPad2d(1), ((1, 1), (1, 1))),
        (nn.ConstantPad2d((0, 1, 0, 0), 0.0), ((0, 0), (0, 1))),
    ],
)
def test_zeros_are_counted_before_and_behind_on_each_axis(module, pads):
    found = operation(module)
    assert (found.kind, found.pads) == ("pad", pads)
    out = torch.zeros(6, 6).shape
    expected = [size + sum(pair) for size, pair in zip(out, pads, strict=True)]
    assert list(module(torch.zeros(1, 4, 6, 6)).shape[2:]) == expected


@pytest.mark.parametrize(
    ("way", "pads"),
    [
        (lambda x: F.pad(x, (0, 1, 0, 1), mode="constant", value=0), ((0, 1), (0, 1))),
        (lambda x: F.pad(x, [1, 2]), ((0, 0), (1, 2))),
        (lambda x: F.pad(x, (1, 2, 3, 4, 0, 0)), None),
        (lambda x: F.pad(x, (1, 1), value=1.0), None),
        (lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), None),
        (lambda x: F.pad(x, (0, x.shape[2])), None),
    ],
)
def test_padding_may_be_a_function(way, pads):
    found = function(way)
    assert (found.kind, found.pads) == (("pad", pads) if pads else ("other", ()))


@pytest.mark.parametrize(
    ("module", "pads"),
    [
        (nn.AvgPool2d(2), ((0, 0), (0, 0))),
        (nn.AvgPool2d(3, 1, (1, 0)), ((1, 1), (0, 0))),
        # Nothing is cut off at the border of a map of this size.
        (nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False), ((0, 0), (0, 0))),
    ],
)
def test_averages_are_convolutions_of_a_kind(module, pads):
    found = operation(module)
    assert (found.kind, found.pads) == ("average", pads)


def test_a_sum_of_two_maps_takes_both():
    _, _node, found = last(lambda self, x: x + self.conv(x))
    assert found.kind == "add"
    assert [each.name for each in found.inputs] == ["x", "conv"]
    for way in (lambda self, x: torch.add(x, self.conv(x)), lambda self, x: self.conv(x).add_(x)):
        assert last(way)[2].kind == "add"


@pytest.mark.parametrize(
    "way",
    [
        lambda self, x: self.conv(x) + self.param,
        lambda self, x: self.param + self.conv(x),
        lambda self, x: self.conv(x) + x.mean((2, 3), keepdim=True),
        lambda self, x: self.conv(x).add(x.mean((2, 3))[:, :, None, None]),
    ],
)
def test_a_sum_with_what_is_the_same_everywhere_is_a_shift(way):
    _, _node, found = last(way)
    assert found.kind == "shift"
    assert [each.name for each in found.inputs] == ["conv"]


@pytest.mark.parametrize(
    "way",
    [
        lambda self, x: self.conv(x) + x.mean((1, 2, 3), keepdim=True),
        lambda self, x: self.conv(x) + x.mean(2, keepdim=True),
        lambda self, x: self.conv(x) + x[:, :, 0, 0].mean(),
        lambda self, x: torch.add(x, self.conv(x), alpha=2),
        lambda self, x: self.conv(x) - x,
        lambda self, x: self.conv(x) * x,
        lambda self, x: torch.maximum(self.conv(x), x),
        lambda self, x: x[:, :1] + self.param,
    ],
)
def test_other_ways_to_join_two_tensors_are_none(way):
    assert last(way)[2].kind == "other"


@pytest.mark.parametrize("axis", [1, -3])
def test_channels_may_be_joined(axis):
    _, _, found = last(lambda self, x: torch.cat([self.conv(x), x], dim=axis))
    assert (found.kind, [each.name for each in found.inputs]) == ("concat", ["conv", "x"])


@pytest.mark.parametrize("way", [lambda x: F.interpolate(x, scale_factor=2), lambda x: F.pixel_shuffle(x, 2)])
def test_resolution_may_grow(way):
    assert function(way).kind == "resize"


def test_hooks_keep_a_layer_out():
    for module in (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)):
        module.register_forward_pre_hook(lambda *_: None)
        assert operation(module).why == "hooks are attached to it"


def test_a_sample_without_a_batch_axis_is_no_map():
    assert operation(nn.Conv2d(4, 4, 1), torch.randn(4, 6, 6)).kind == "other"
    assert operation(nn.Linear(4, 4), torch.randn(2, 4)).why == "it is no feature map"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_kinds_do_not_depend_on_the_precision(dtype):
    x = torch.randn(2, 4, 6, 6, dtype=dtype)
    for way, kind in (
        (F.gelu, "activation"),
        (lambda x: x.contiguous(), "identity"),
        (lambda x: x / 3, "other"),
        (lambda x: x + 3, "other"),
        (lambda x: x.to(torch.float32), "identity" if dtype is torch.float32 else "other"),
    ):
        assert function(way, x).kind == kind, (way, kind)


@pytest.mark.parametrize(("axes", "act"), [(1, nn.ReLU()), (3, nn.SiLU())])
def test_maps_may_have_one_or_three_axes(axes, act):
    assert operation(act, torch.randn(2, 4, *[5] * axes)).kind == "activation"


def test_a_call_that_overwrites_what_is_used_again_takes_no_part():
    traced, _, _ = last(lambda self, x: (h := self.conv(x), self.part(h), h.exp())[2], nn.ReLU(inplace=True))
    nodes = {node.name: node for node in traced.graph.nodes}
    found = classify(traced, nodes["part"])
    assert (found.kind, found.overwrites) == ("other", (nodes["conv"],))
    assert found.why == "it overwrites a map that is used again behind it"


@pytest.mark.parametrize(
    ("way", "name"),
    [
        (lambda self, x: self.part(x), "relu6"),
        (lambda self, x: F.relu(x), "relu"),
        (lambda self, x: x.relu_(), "relu"),
        (lambda self, x: torch.sigmoid(x), "sigmoid"),
        (lambda self, x: x * torch.sigmoid(x), "silu"),
    ],
)
def test_activations_have_short_names(way, name):
    traced, node, _ = last(way, nn.ReLU6())
    assert activation_name(traced, node) == name


def test_a_copy_of_a_graph_has_operations_of_its_own():
    traced, _node, found = last(lambda self, x: x + self.conv(x))
    nodes = {each: object() for each in traced.graph.nodes}
    assert found.moved(nodes).inputs == tuple(nodes[each] for each in found.inputs)
