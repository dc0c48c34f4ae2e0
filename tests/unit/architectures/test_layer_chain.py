import pytest
import torch

from convnets import mobilenet_v2, resnet, vgg
from shoal import Plan, apply, find_units
from shoal.errors import UnknownArchitectureError
from shoal.measurement import count_macs, count_params


def test_layers_are_the_convolutions_in_the_order_in_which_they_run():
    net = resnet((2, 2), width=8)
    chain = find_units(net, torch.randn(1, 3, 32, 32), granularity="layer")
    assert [unit.name for unit in chain][:3] == ["conv1", "stages.0.0.conv1", "stages.0.0.conv2"]
    assert len(chain) == 9
    assert not any("downsample" in unit.name for unit in chain)
    assert chain[1].modules == ("stages.0.0.conv1", "stages.0.0.bn1")


def test_what_keeps_channels_and_size_is_removable_and_the_rest_says_why_not():
    chain = find_units(mobilenet_v2(scale=0.25, last=64), torch.randn(1, 3, 32, 32), granularity="layer")
    assert len(chain.removable) == 13
    assert chain[0].why == "it makes 8 channels of 3"
    assert chain.left_out["1"] == "AdaptiveAvgPool2d is not affine"


def test_the_chain_counts_parameters_and_macs_of_the_whole_network():
    net, x = vgg(), torch.randn(1, 3, 32, 32)
    chain = find_units(net, x, granularity="layer")
    assert (chain.params, chain.macs) == (count_params(net), count_macs(net, x).total)
    assert sum(unit.macs for unit in chain) < chain.macs


def test_a_network_without_convolutions_has_no_layers():
    with pytest.raises(UnknownArchitectureError, match="there are none whose calls can be followed"):
        find_units(torch.nn.Linear(4, 4), torch.randn(2, 4), granularity="layer")


def test_a_layer_left_out_by_hand_is_gone_and_a_block_without_layers_gives_what_it_was_given():
    net, x = resnet((2, 2), width=8).eval(), torch.randn(2, 3, 32, 32)
    chain = find_units(net, x, granularity="layer")
    block = net.stages[0][1]
    small = apply(net, Plan.removing(chain, ["stages.0.1.conv1", "stages.0.1.conv2"]))
    block.forward = lambda value: value
    torch.testing.assert_close(small(x), net(x), rtol=1e-4, atol=1e-5)
