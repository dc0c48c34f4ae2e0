import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


class Twice(nn.Module):
    """A convolution of four taps behind zeros that keep the size, beside what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 4)
        self.third = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        h = F.relu(self.first(x))
        return self.third(torch.cat([h, self.second(F.pad(h, (1, 2, 1, 2)))], dim=1))


def test_a_group_is_the_size_of_the_map_that_comes_out():
    chain = find_units(Twice(), torch.randn(1, 3, 10, 10), granularity="layer")
    assert [unit.group for unit in chain] == ["8×8 px"] * 3
    assert [unit.out_shape[2:] for unit in chain] == [(8, 8)] * 3


def test_what_apply_would_refuse_to_leave_out_is_not_removable():
    class Overwritten(nn.Module):
        """What the second convolution takes is overwritten after it was made."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            h = self.one(x)
            doubled = h.mul_(2)
            return self.two(h) * doubled

    chain = find_units(Overwritten(), torch.randn(1, 4, 6, 6), granularity="layer")
    assert [unit.name for unit in chain if unit.removable] == ["one"]
    assert chain[1].why == "what goes into it is overwritten, or what is inside it is taken elsewhere"


def test_a_merged_network_can_be_pickled():
    net, x = resnet((2, 2), width=8).eval(), torch.randn(2, 3, 32, 32)
    chain = find_units(net, x, granularity="layer")
    small = apply(net, Plan.removing(chain, ["stages.0.1.conv1", "stages.0.1.conv2"]))
    assert torch.equal(pickle.loads(pickle.dumps(small))(x), small(x))
