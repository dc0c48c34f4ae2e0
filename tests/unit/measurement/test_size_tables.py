"""Sizes of the networks on which layer pruning is published, and the part of them that one block is.

Parameters of batch norms count; MACs are those of convolutions and linear layers. ResNets: He et al., 2015,
https://arxiv.org/abs/1512.03385, those for CIFAR with shortcuts without weights, ResNet-50 with the stride in
the 3 × 3 convolutions; VGG-16: Simonyan & Zisserman, 2014, https://arxiv.org/abs/1409.1556, for CIFAR with
batch norm and one hidden layer of 512; LeNets: LeCun et al., 1998, https://doi.org/10.1109/5.726791,
in the widths that pruning uses.
"""

import pytest
import torch
from cifar_resnet import CifarResNet
from torch import nn

from convnets import bottleneck_resnet, vgg
from shoal import find_units
from shoal.measurement import count_macs, count_params


@pytest.mark.parametrize(
    ("depth", "macs", "params", "share", "shares"),
    [
        pytest.param(3, 40.55, 0.2697, 11.6, (1.7, 6.9, 27.4), id="ResNet-20"),
        pytest.param(5, 68.86, 0.4642, 6.9, (1.0, 4.0, 15.9), id="ResNet-32"),
        pytest.param(7, 97.17, 0.6586, 4.9, (0.7, 2.8, 11.2), id="ResNet-44"),
        pytest.param(9, 125.49, 0.8530, 3.76, (0.55, 2.2, 8.7), id="ResNet-56"),
        pytest.param(18, 252.89, 1.7280, 1.87, (0.27, 1.1, 4.3), id="ResNet-110"),
    ],
)
def test_blocks_of_cifar_resnets_are_the_known_part_of_them(depth, macs, params, share, shares):
    chain = find_units(CifarResNet([depth] * 3), torch.zeros(1, 3, 32, 32))
    assert round(chain.macs / 1e6, 2) == macs
    assert round(chain.params / 1e6, 4) == params
    narrowing = [(unit.macs, unit.params) for unit in chain if unit.index in (depth, 2 * depth)]
    assert narrowing == [(3_538_944, 13_952), (3_538_944, 55_552)]
    for stage, own in enumerate((4_672, 18_560, 73_984)):
        for unit in chain.units[stage * depth + 1 : (stage + 1) * depth]:
            assert (unit.macs, unit.params) == (4_718_592, own)
            assert 100 * unit.macs / chain.macs == pytest.approx(share, abs=0.05)
            assert 100 * unit.params / chain.params == pytest.approx(shares[stage], abs=0.05)


def test_blocks_of_resnet_50_are_the_known_part_of_it():
    net = bottleneck_resnet(classes=1000).to("meta")
    count = count_macs(net, torch.zeros(1, 3, 224, 224, device="meta"))
    assert round(count.total / 1e9, 3) == 4.089
    assert round(count_params(net) / 1e6, 3) == 25.557

    def millions(path):
        return round(count.by_module[path] / 1e6, 1), round(count_params(net.get_submodule(path)) / 1e6, 3)

    for stage, depth in enumerate((3, 4, 6, 3)):
        others = {millions(f"stages.{stage}.{number}") for number in range(1, depth)}
        assert others == {(218.4, (0.070, 0.280, 1.117, 4.463)[stage])}
        macs, params = millions(f"stages.{stage}.0")
        beside = millions(f"stages.{stage}.0.downsample")
        assert beside == ((51.4, 102.8, 102.8, 102.8)[stage], (0.017, 0.132, 0.526, 2.101)[stage])
        assert macs - beside[0] == pytest.approx((179.8, 269.7, 269.7, 269.7)[stage], abs=0.11)
        assert params - beside[1] == pytest.approx((0.058, 0.247, 0.986, 3.938)[stage], abs=0.0011)


def test_layers_of_vgg_16_are_the_known_part_of_it():
    net = vgg(((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3))
    net[-1] = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    count = count_macs(net, torch.zeros(1, 3, 32, 32))
    assert round(count.total / 1e6, 1) == 313.5
    assert round(count_params(net) / 1e6, 2) == 14.99
    convs = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    wider, same, last = 18.87, 37.75, 9.44
    found = [round(count.by_module[name] / 1e6, 2) for name in convs]
    assert found == [1.77, same, wider, same, wider, same, same, wider, same, same, last, last, last]
    assert [round(1e8 * each / count.total, 1) for each in (same, last)] == [12.0, 3.0]


def lenet_300_100():
    layers = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(*layers), torch.zeros(1, 784)


def lenet_5():
    features = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()]
    head = [nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)]
    return nn.Sequential(*features, *head), torch.zeros(1, 1, 28, 28)


@pytest.mark.parametrize(
    ("make", "macs", "params"), [(lenet_300_100, 266_200, 266_610), (lenet_5, 2_293_000, 431_080)]
)
def test_lenets_have_the_known_size(make, macs, params):
    net, example = make()
    assert count_macs(net, example).total == macs
    assert count_params(net) == params
