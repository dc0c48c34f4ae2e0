import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shoal.errors import ConfigError
from shoal.layers import ConvShape
from shoal.measurement.stand_ins import activation_module, has_activation, stand_in


def shape_of(**changes) -> ConvShape:
    axes = len(changes.get("kernel", (3, 3)))
    base = {
        "in_channels": 4,
        "out_channels": 6,
        "kernel": (3,) * axes,
        "stride": (1,) * axes,
        "dilation": (1,) * axes,
        "padding": ((1, 1),) * axes,
        "groups": 1,
        "in_size": (7, 8, 9)[:axes],
    }
    return ConvShape(**(base | changes))


SHAPES = {
    "plain": shape_of(),
    "strided": shape_of(stride=(2, 1)),
    "dilated": shape_of(dilation=(2, 3), padding=((2, 2), (3, 3))),
    "grouped": shape_of(groups=2),
    "depthwise": shape_of(out_channels=4, groups=4),
    "padded more behind": shape_of(padding=((0, 1), (1, 2))),
    "cropped": shape_of(padding=((-1, -1), (1, 0))),
    "even": shape_of(kernel=(2, 4), padding=((0, 1), (1, 2))),
    "one axis": shape_of(kernel=(5,), padding=((2, 2),)),
    "one axis, padded more before": shape_of(kernel=(4,), padding=((2, 1),)),
    "three axes": shape_of(kernel=(3, 1, 3), padding=((1, 1), (0, 0), (1, 1))),
    "three axes, padded unlike": shape_of(kernel=(3, 1, 2), padding=((1, 1), (0, 0), (0, 1))),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("activation", ["", "relu"])
def test_a_stand_in_has_the_size_and_the_parameters_of_its_shape(shape, activation):
    module = stand_in(ConvShape(**(vars(shape) | {"activation": activation})))
    y = module(torch.empty(2, shape.in_channels, *shape.in_size, device="meta"))
    assert y.shape == (2, shape.out_channels, *shape.out_size)
    assert sum(each.numel() for each in module.parameters()) == shape.params
    assert isinstance(module[-1], nn.ReLU) == (activation == "relu")


def test_padding_that_differs_is_put_around_each_axis_as_it_says():
    module = stand_in(shape_of(padding=((0, 1), (2, 3)))).to_empty(device="cpu")
    nn.init.normal_(module[-1].weight)
    nn.init.normal_(module[-1].bias)
    x = torch.randn(1, 4, 7, 8)
    assert torch.equal(module(x), F.conv2d(F.pad(x, (2, 3, 0, 1)), module[-1].weight, module[-1].bias))


def test_padding_that_is_alike_needs_no_module_of_its_own():
    assert len(stand_in(shape_of(padding=((2, 2), (0, 0))))) == 1


def test_a_stand_in_draws_no_random_numbers_and_takes_no_memory():
    before = torch.get_rng_state()
    module = stand_in(shape_of(activation="prelu"))
    assert torch.equal(before, torch.get_rng_state())
    assert all(each.is_meta for each in module.parameters())


@pytest.mark.parametrize(
    "name",
    ["relu", "relu6", "silu", "gelu", "hardswish", "leakyrelu", "elu", "mish", "tanh", "sigmoid", "prelu"],
)
def test_an_activation_is_named_as_its_class(name):
    module = activation_module(name)
    assert has_activation(name)
    assert type(module).__name__.lower() == name
    assert getattr(module, "inplace", True)
    assert module(torch.ones(2, 3)).shape == (2, 3)


def test_the_name_of_a_function_is_as_good_as_that_of_its_class():
    assert isinstance(activation_module("leaky_relu"), nn.LeakyReLU)


@pytest.mark.parametrize("name", ["", "clamp", "softmax", "glu", "multiheadattention", "conv2d"])
def test_what_is_no_activation_of_torch_is_refused(name):
    assert not has_activation(name)
    with pytest.raises(ConfigError, match=f"activation '{name}', which torch.nn does not have: .*relu6"):
        activation_module(name)


def test_an_unknown_activation_is_stood_in_for_by_another():
    assert isinstance(stand_in(shape_of(activation="ours"))[-1], nn.SiLU)


def test_the_macs_of_a_shape_are_those_of_its_stand_in():
    shape = SHAPES["dilated"]
    weight = stand_in(shape)[0].weight
    assert shape.macs == weight.numel() * math.prod(shape.out_size)
