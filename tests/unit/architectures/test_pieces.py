import copy

import pytest
import torch
from torch import Tensor, nn

from convnets import FAMILIES, DiffusersBlock, DiffusionUNet, resnet, settled
from shoal.architectures.pieces import find_pieces
from shoal.errors import DataError


def image(batch: int = 1, size: int = 8, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size)


class Inner(nn.Module):
    """Two convolutions, called in some way."""

    def __init__(self, way) -> None:
        super().__init__()
        self.first, self.second, self.way = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), way

    def forward(self, *args, **kwargs):
        return self.way(self, *args, **kwargs)


def plain(self, x):
    return self.second(self.first(x).relu())


def dynamic(self, x):
    x = self.first(x)
    return self.second(x) if x.sum() < 1e9 else x


def by_batch(self, x):
    return self.second(self.first(x)).view(int(x.shape[0]), -1)


def parts(pieces):
    return [piece.path for piece in pieces.pieces]


def calls(piece):
    return [piece.name_of(node) for node in piece.traced.graph.nodes if node.op == "call_module"]


def test_a_network_whose_code_can_be_followed_is_one_piece():
    pieces = find_pieces(resnet((1, 1), width=4), image(size=32))
    assert parts(pieces) == [""]
    assert pieces.untraced == {}


def test_a_module_that_cannot_be_followed_is_left_alone_and_the_rest_is_one_piece():
    net = nn.Sequential(Inner(plain), nn.Sequential(nn.ReLU(), Inner(dynamic)), Inner(plain))
    pieces = find_pieces(net, image())
    assert parts(pieces) == ["", "1.1.first", "1.1.second"]
    assert calls(pieces.pieces[0]) == ["0.first", "0.second", "1.0", "1.1", "2.first", "2.second"]
    assert [calls(piece) for piece in pieces.pieces[1:]] == [["1.1.first"], ["1.1.second"]]
    assert list(pieces.untraced) == ["1.1"]
    assert "dynamic control flow" in pieces.untraced["1.1"]


def test_a_network_whose_own_code_cannot_be_followed_falls_into_its_parts():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Inner(plain) for _ in range(2))

        def forward(self, x):
            for block in self.blocks:
                x = block(x) if x.abs().max() < 1e9 else x
            return x

    pieces = find_pieces(Net(), image())
    assert parts(pieces) == ["blocks.0", "blocks.1"]
    assert list(pieces.untraced) == [""]


def test_pieces_come_in_the_order_in_which_they_run():
    def backwards(self, x):
        return self.first(self.second(x)) if x.sum() < 1e9 else x

    assert parts(find_pieces(Inner(backwards), image())) == ["second", "first"]


@pytest.mark.parametrize("batch", [1, 3])
def test_dependence_on_the_batch_size_is_found(batch):
    pieces = find_pieces(nn.Sequential(nn.Conv2d(3, 3, 1), Inner(by_batch)), image(batch))
    assert parts(pieces) == ["0", "1.first", "1.second"]
    assert "batch size" in pieces.untraced[""]


def test_chance_is_found():
    pieces = find_pieces(Inner(lambda self, x: plain(self, x) + torch.randn_like(x)), image())
    assert "or on chance" in pieces.untraced[""]


def test_a_network_for_one_batch_size_alone_is_followed_for_it():
    assert parts(find_pieces(Inner(lambda self, x: plain(self, x.view(1, 3, 8, 8))), image())) == [""]


def test_a_module_that_returns_what_cannot_be_written_down_is_refused():
    class Tuple(tuple):
        __slots__ = ()

    pieces = find_pieces(Inner(lambda self, x: Tuple([plain(self, x)])), image())
    assert pieces.untraced[""] == "what it returns (Tuple) cannot be written down"


def test_a_module_that_is_used_several_times_by_one_that_cannot_be_followed_is_left_alone():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.last = Inner(plain), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = self.block(x)
            return self.last(self.block(x)) if x.sum() < 1e9 else x

    pieces = find_pieces(Net(), image())
    assert parts(pieces) == ["last"]
    assert pieces.untraced["block"] == "it is used 2 times (shared weights)"


def test_wrappers_with_any_arguments_are_followed():
    pieces = find_pieces(nn.DataParallel(Inner(plain)), image())
    assert parts(pieces) == [""]
    assert calls(pieces.pieces[0]) == ["module.first", "module.second"]


def test_the_network_may_take_a_dict():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, batch):
            return {**batch, "map": self.conv(batch["image"])}

    pieces = find_pieces(Net(), ({"image": image(), "id": 3},))
    assert parts(pieces) == [""]


def test_networks_with_time_steps_are_one_piece():
    unet = DiffusionUNet(8, (1, 2), 1, attention=4, size=8)
    assert parts(find_pieces(unet, (image(), torch.zeros(1, dtype=torch.long)))) == [""]
    for temb in (torch.randn(1, 8), None):
        assert parts(find_pieces(DiffusersBlock(8, 16), (image(channels=8), temb))) == [""]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_precision_does_not_matter(dtype):
    for name in ("resnet", "mobilenet", "diffusers"):
        assert parts(find_pieces(settled(FAMILIES[name]()).to(dtype), image(size=16).to(dtype))) == [""]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_was(training):
    net = resnet((1, 1), width=4).train(training)
    net.fc.eval()
    net.fc.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    x = image(2, 32)
    random = torch.get_rng_state()
    pieces = find_pieces(net, x)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in (*net.modules(), *pieces.model.modules()))
    found = dict(pieces.pieces[0].traced.named_parameters())
    assert [name for name, value in found.items() if not value.requires_grad] == ["fc.weight"]
    assert all(value is not mine for value, mine in zip(found.values(), net.parameters(), strict=True))


def test_an_example_that_does_not_run_is_told():
    with pytest.raises(DataError, match="asked to run ResNet on the example"):
        find_pieces(resnet((1,), width=4), image(channels=4))


@pytest.mark.parametrize("name", FAMILIES)
def test_assembled_again_the_network_is_what_it_was(name):
    net, x = settled(FAMILIES[name]()), image(2, 16)
    whole = find_pieces(net, x).assemble()
    torch.testing.assert_close(whole(x), net(x))
    again = copy.deepcopy(whole)
    torch.testing.assert_close(again(x), net(x))


@pytest.mark.parametrize("middle", [plain, dynamic], ids=["whole", "in parts"])
def test_an_edit_of_any_piece_reaches_the_assembled_network(middle):
    class Net(nn.Module):
        def __init__(self, outer) -> None:
            super().__init__()
            self.stem, self.block, self.outer = nn.Conv2d(3, 3, 1), Inner(middle), outer

        def forward(self, x):
            return self.block(self.stem(x)) if not self.outer or x.sum() < 1e9 else x

    for outer in (False, True):
        net = Net(outer).eval()
        pieces = find_pieces(net, image())
        for piece in pieces.pieces:
            for node in piece.traced.graph.nodes:
                if node.op == "call_module" and "first" in piece.name_of(node):
                    piece.traced.set_submodule(str(node.target), nn.Identity())
        whole = pieces.assemble()
        net.block.first = nn.Identity()
        x = image()
        assert torch.equal(whole(x), net(x))


@pytest.mark.parametrize("middle", [plain, dynamic], ids=["whole", "in parts"])
def test_a_copy_shares_nothing_and_answers_alike(middle):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), Inner(middle), nn.BatchNorm2d(3)).eval()
    pieces = find_pieces(net, image())
    mine, nodes = pieces.copy()
    assert set(nodes) == {node for piece in pieces.pieces for node in piece.traced.graph.nodes}
    assert mine.state().keys() == pieces.state().keys()
    ours = {each.data_ptr() for each in pieces.state().values()}
    assert ours.isdisjoint(each.data_ptr() for each in mine.state().values())
    for piece, other in zip(pieces.pieces, mine.pieces, strict=True):
        for node, operation in piece.operations.items():
            copied = other.operations[nodes[node]]
            assert (copied.kind, copied.inputs) == (
                operation.kind,
                tuple(nodes[each] for each in operation.inputs),
            )
    with torch.no_grad():
        for value in mine.state().values():
            value.zero_()
    x = image()
    assert torch.equal(pieces.assemble()(x), net(x))
    assert not mine.assemble()(x).any()


@pytest.mark.parametrize("middle", [plain, dynamic], ids=["whole", "in parts"])
def test_the_state_has_the_names_of_the_assembled_network(middle):
    pieces = find_pieces(nn.Sequential(Inner(middle), nn.BatchNorm2d(3)), image())
    state = pieces.state()
    for name, value in pieces.assemble().state_dict(keep_vars=True).items():
        assert state[name] is value


def test_modules_that_were_taken_apart_keep_their_names():
    class NormAct(nn.BatchNorm2d):
        def forward(self, x):
            return self.act(super().forward(x))

    norm = NormAct(3)
    norm.act = nn.ReLU()
    (piece,) = find_pieces(settled(nn.Sequential(nn.Conv2d(3, 3, 1), norm)), image()).pieces
    assert calls(piece) == ["0", "1", "1.1"]


def test_every_node_has_an_operation():
    for piece in find_pieces(FAMILIES["dense"](), image(size=16)).pieces:
        assert piece.operations.keys() == set(piece.traced.graph.nodes)


# What is asked of modules besides that they are called.


class Guarded(nn.Module):
    """Control flow at the root, and a question about a module that it holds."""

    def __init__(self, asks) -> None:
        super().__init__()
        self.block, self.last, self.asks = Inner(plain), nn.Conv2d(3, 3, 1), asks
        self.block.scale = 2.0

    def forward(self, x):
        x = self.block(x)
        x = x * self.asks(self)
        return self.last(x) if x.sum() < 1e9 else x


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        (lambda net: net.block.scale, "AttributeError"),
        (lambda net: 2.0 if isinstance(net.block, Inner) else 1.0, "the network answers otherwise"),
    ],
)
def test_a_module_of_which_more_is_asked_than_its_calls_is_no_piece(asks, told):
    net, x = Guarded(asks).eval(), image()
    pieces = find_pieces(net, x)
    assert parts(pieces) == ["last"]
    assert "code around it asks for more than its calls" in pieces.untraced["block"]
    assert told in pieces.untraced["block"]
    assert torch.equal(pieces.assemble()(x), net(x))


def test_chance_outside_of_the_pieces_refuses_none():
    assert parts(find_pieces(Guarded(lambda net: torch.rand(())), image())) == ["block", "last"]


def test_what_fails_at_another_batch_size_prints_nothing(capfd):
    def by_number(self, x):
        return plain(self, x).view(int(x.shape[0]), 3, 8, 8)

    pieces = find_pieces(Inner(by_number), image(2))
    assert "depends on the batch size (shape" in pieces.untraced[""]
    assert capfd.readouterr().err == ""
