"""Sizes that published compressions of VGG-16 on CIFAR-10 have: convolutions with biases and batch norm,
and a head of three linear layers.
"""

import pytest
import torch
from torch import nn

from shoal.measurement import count_macs, count_params

SIZES = {
    "whole": ("64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M", 15.254, 313.73),
    "four segments": ("64 64 M 128 128 M 256 M 512 512 M 512 M", 6.990, 181.61),
    "three segments": ("64 64 M 128 M 256 M 512 M 512 512 512 M", 9.203, 124.98),
}


def vgg(widths: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in widths.split():
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, int(width), 3, padding=1), nn.BatchNorm2d(int(width)), nn.ReLU()]
        channels = int(width)
    head = [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


@pytest.mark.parametrize("name", SIZES)
def test_vgg16_has_the_published_size(name):
    widths, millions, macs = SIZES[name]
    model = vgg(widths)
    assert count_params(model) / 1e6 == pytest.approx(millions, abs=1e-3)
    assert count_macs(model, torch.zeros(1, 3, 32, 32)).total / 1e6 == pytest.approx(macs, abs=1e-2)
