import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnets import FAMILIES, settled
from shoal.architectures.convolutions import find_convolutions
from shoal.architectures.places import activation_behind, boundary_of, is_pooled, shape_from


def image(channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.randn(1, channels, size, size)


def layers_of(*modules: nn.Module):
    return find_convolutions(settled(nn.Sequential(*modules)), image(8)).layers


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("module", "padding"),
    [
        (nn.Conv2d(2, 2, 3), ((0, 0), (0, 0))),
        (nn.Conv2d(2, 2, 3, padding=(1, 2)), ((1, 1), (2, 2))),
        (nn.Conv2d(2, 2, (3, 4), padding="same", dilation=(2, 1)), ((2, 2), (1, 2))),
        (nn.Conv2d(2, 2, 3, padding="valid"), ((0, 0), (0, 0))),
        (nn.Conv1d(2, 2, 2, padding="same"), ((0, 1),)),
        (nn.Conv3d(2, 4, 3, 2, 1, groups=2), ((1, 1),) * 3),
    ],
)
def test_shapes_are_those_of_the_convolution(module, padding):
    size = (9,) * (module.weight.dim() - 2)
    shape = shape_from(module, size, "relu")
    assert shape.padding == padding
    assert shape.out_size == module(torch.zeros(1, 2, *size)).shape[2:]
    assert shape.params == sum(each.numel() for each in module.parameters())
    assert shape.activation == "relu"


@pytest.mark.parametrize(
    ("conv", "fixed"),
    [
        (nn.Conv2d(8, 8, 3, padding=1), ""),
        (nn.Conv2d(8, 8, 5, padding="same", groups=8), ""),
        (nn.Conv2d(8, 16, 1), "it makes 16 channels of 8"),
        (nn.Conv2d(8, 8, 3, 2, 1), "it has stride 2"),
        (nn.Conv2d(8, 8, 3), "it changes the size of the map from (16, 16) to (14, 14)"),
        (
            nn.Conv2d(8, 8, 3, padding=1, dilation=2),
            "it changes the size of the map from (16, 16) to (14, 14)",
        ),
    ],
)
def test_what_changes_channels_or_size_cannot_be_left_out(conv, fixed):
    (layer,) = layers_of(conv)
    assert layer.fixed == fixed


def test_weights_are_weighed_as_they_are_and_with_their_norm_folded():
    conv, norm = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, eps=0.1)
    norm.weight.data.uniform_(-2, 2)
    (layer,) = layers_of(conv, norm)
    assert layer.magnitude == pytest.approx(conv.weight.abs().sum().item(), rel=1e-5)
    folded = norm(conv(torch.zeros(1, 8, 3, 3)))
    taps = [norm(conv(each)) - folded for each in torch.eye(72).reshape(72, 1, 8, 3, 3)]
    assert layer.folded_magnitude == pytest.approx(torch.cat(taps).abs().mean().item(), rel=1e-4)


def test_without_a_norm_both_weigh_the_same_weights():
    conv = nn.Conv2d(8, 4, 3)
    (layer,) = layers_of(conv, nn.ReLU())
    assert layer.norm == ""
    assert layer.magnitude / conv.weight.numel() == pytest.approx(layer.folded_magnitude, rel=1e-5)


@pytest.mark.parametrize(
    ("behind", "activation"),
    [
        ((), ""),
        ((nn.ReLU6(),), "relu6"),
        ((nn.BatchNorm2d(8), nn.SiLU()), "silu"),
        ((nn.BatchNorm2d(8), nn.Dropout(), nn.GELU()), "gelu"),
        ((nn.GroupNorm(2, 8), nn.ReLU()), "relu"),
        ((nn.MaxPool2d(2), nn.ReLU()), ""),
    ],
)
def test_the_activation_behind_a_layer_is_named(behind, activation):
    assert layers_of(nn.Conv2d(8, 8, 3), *behind)[0].shape.activation == activation


def test_the_activation_behind_a_block_belongs_to_its_last_layer():
    found = find_convolutions(FAMILIES["resnet"](), image())
    place = found.places[2]
    boundary = boundary_of(place.piece, place.exit)
    assert place.piece.operations[boundary].kind == "add"
    assert place.piece.operations[activation_behind(place.piece, boundary)].kind == "activation"


def test_what_is_taken_twice_has_no_activation_of_its_own():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            h = self.conv(x)
            return F.relu(h) * h

    found = find_convolutions(Net(), image(8))
    assert found.layers[0].shape.activation == ""


@pytest.mark.parametrize(
    ("before", "pooled"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1)), True),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.ReLU()), True),
        (nn.Sequential(nn.AvgPool2d(16)), True),
        (nn.Sequential(nn.Conv2d(8, 8, 16), nn.ReLU()), False),
        (nn.Sequential(nn.AvgPool2d(8)), False),
    ],
)
def test_pooled_maps_are_told_from_small_ones(before, pooled):
    found = find_convolutions(nn.Sequential(before, nn.Conv2d(8, 8, 1)), image(8))
    place = found.places[-1]
    assert is_pooled(place.piece, place.node) is pooled
    assert bool(found.layers[-1].apart) is pooled


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (nn.Upsample(scale_factor=2), True),
        (nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(2, 8, 1)), False),
        (nn.Sequential(nn.Upsample(scale_factor=2), nn.Dropout()), True),
        (nn.Identity(), False),
    ],
)
def test_layers_behind_an_upsampling_are_marked(before, expected):
    assert layers_of(before, nn.Conv2d(8, 8, 3, padding=1))[-1].after_resize is expected


class Tied(nn.Module):
    def __init__(self, way) -> None:
        super().__init__()
        self.way, self.conv, self.last = way, nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.last(self.way(self, x))


@pytest.mark.parametrize(
    ("way", "why"),
    [
        (
            lambda net, x: F.conv_transpose2d(F.relu(net.conv(x)), net.conv.weight),
            "weights are read elsewhere",
        ),
        (lambda net, x: net.conv(F.relu(net.conv(x))), "it is used 2 times"),
        (lambda net, x: net.conv(x.to(net.conv.weight.dtype)), ""),
    ],
)
def test_a_convolution_whose_weights_others_use_stands_apart(way, why):
    layers = find_convolutions(Tied(way), image(8)).layers
    assert why in layers[0].apart
    assert bool(layers[0].apart) is bool(why)
    assert layers[-1].apart == ""


def test_a_method_of_the_name_of_a_module_is_no_use_of_it():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.relu(x).relu()

    assert find_convolutions(Named(), image(8)).layers[0].apart == ""
