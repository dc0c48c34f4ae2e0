import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnets import FAMILIES, AveragedShortcut, DiffusersBlock, bottleneck_resnet, resnet, settled
from shoal.architectures.convolutions import find_convolutions


def projections(found) -> dict[str, str]:
    """Path of the convolution on a shortcut → the layer at whose end it is added."""
    piece = found.pieces.pieces[0]
    return {piece.name_of(node): found.layers[at].name for node, at in found.projections.items()}


class Block(nn.Module):
    """A sum of branches of `(B, 8, H, W)`."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.branches = list(branches)
        for name, module in branches.items():
            self.add_module(name, module)

    def forward(self, x):
        total = 0
        for name in self.branches:
            total = total + getattr(self, name)(x)
        return F.relu(total)


def conv(kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Conv2d(8, 8, kernel, stride, kernel // 2)


def of(**branches: nn.Module):
    return find_convolutions(settled(Block(**branches)), torch.randn(1, 8, 16, 16))


@pytest.mark.parametrize(
    ("net", "last"), [(resnet((1, 1), width=4), "conv2"), (bottleneck_resnet((1, 1), width=4), "conv3")]
)
def test_projections_of_residual_blocks_belong_to_their_last_layer(net, last):
    found = find_convolutions(net, torch.randn(1, 3, 32, 32))
    names = {at.rpartition(".")[2] for at in projections(found).values()}
    assert names == {last}
    assert all("downsample" in path for path in projections(found))
    assert not any("downsample" in layer.name for layer in found.layers)


@pytest.mark.parametrize("order", [("main", "down"), ("down", "main")])
def test_the_order_in_which_branch_and_shortcut_run_does_not_matter(order):
    branches = {
        "main": nn.Sequential(conv(), nn.ReLU(), conv(3, 2)),
        "down": nn.Sequential(conv(1, 2), nn.BatchNorm2d(8)),
    }
    found = of(**{name: branches[name] for name in order})
    assert projections(found) == {"down.0": "main.2"}
    assert [region.segment.stop for region in found.regions()] == [1, 2, 2]


def test_a_shortcut_may_be_averaged_or_padded_first():
    found = find_convolutions(AveragedShortcut(8, 12), torch.randn(1, 8, 16, 16))
    assert projections(found) == {"down.1": "main.6"}
    down = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 2))
    assert projections(of(main=nn.Sequential(conv(), nn.ReLU(), conv()), down=down)) == {"down.1": "main.2"}


def test_of_parallel_layers_the_smaller_one_stands_aside():
    assert projections(of(one=conv(1), three=conv(3))) == {"one": "three"}
    assert projections(of(three=conv(3), five=conv(5), one=conv(1))) == {"three": "five", "one": "five"}
    assert projections(of(three=conv(3), one=conv(1), same=nn.BatchNorm2d(8))) == {"one": "three"}


def test_parallel_layers_of_one_size_are_all_layers():
    found = of(first=conv(), second=conv(), third=conv(), one=conv(1))
    assert [layer.name for layer in found.layers] == ["first", "second", "third"]
    assert set(projections(found)) == {"one"}
    assert max(len(region.segment) for region in found.regions()) == 3


def test_a_layer_around_which_an_identity_leads_is_no_projection():
    assert projections(of(main=conv(), same=nn.Identity())) == {}
    assert projections(of(main=nn.Sequential(conv(), nn.ReLU(), conv()), same=nn.Identity())) == {}


def test_a_shortcut_with_an_activation_is_a_branch_like_others():
    found = of(main=nn.Sequential(conv(), nn.ReLU(), conv()), down=nn.Sequential(conv(1), nn.ReLU()))
    assert projections(found) == {}
    assert len(found.layers) == 3


def test_the_scale_of_squeeze_and_excite_is_no_end_of_a_branch():
    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = conv(), conv(3, 2), nn.Conv2d(8, 8, 1)
            self.down = conv(1, 2)

        def forward(self, x):
            h = self.conv2(F.relu(self.conv1(x)))
            return self.fc(h.mean((2, 3), keepdim=True)).sigmoid() * h + self.down(x)

    assert projections(find_convolutions(Excited(), torch.randn(1, 8, 16, 16))) == {"down": "conv2"}


def test_blocks_of_diffusion_networks_have_projections():
    found = find_convolutions(DiffusersBlock(8, 16), torch.randn(1, 8, 8, 8))
    assert projections(found) == {"conv_shortcut": "conv2"}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_projection_stands_at_a_layer(name):
    found = find_convolutions(FAMILIES[name](), torch.randn(1, 3, 16, 16))
    assert set(found.projections.values()) <= set(range(len(found.layers)))
    assert set(found.projections).isdisjoint(place.node for place in found.places)
    for piece in found.pieces.pieces:
        convolutions = {node for node, each in piece.operations.items() if each.kind == "convolution"}
        assert convolutions <= set(found.projections) | set(found.index)
