"""Graphs of networks that ask for sizes are held against the networks at other sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merge_networks import Flow
from shoal.architectures.pieces import find_pieces
from shoal.architectures.replays import Call


def padded(net, x):
    """As TensorFlow pads: by what the size asks for."""
    pad = 2 if x.shape[-1] % 2 == 0 else 1
    return net.conv(F.pad(x, (0, pad, 0, pad)))


def net_of(flow) -> nn.Module:
    return Flow(flow, conv=nn.Conv2d(3, 4, 3, 1)).eval()


def image(size: int = 8, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size)


def assembled(flow, *args):
    return find_pieces(net_of(flow), args).assemble()


def test_a_graph_that_is_true_for_one_size_refuses_others():
    net = net_of(padded)
    whole = find_pieces(net, image()).assemble()
    for batch in (1, 3):
        x = image(batch=batch)
        torch.testing.assert_close(whole(x), net(x))
    for size in (9, 10):
        with pytest.raises(
            AssertionError, match=r"maps inputs\[0\] were of the size \(8, 8\) when this was traced"
        ):
            whole.forward(image(size))


@pytest.mark.parametrize("form", [list, tuple, dict])
def test_maps_inside_arguments_are_held_to_their_size_too(form):
    key = "map" if form is dict else 0
    given = (lambda x: {"map": x}) if form is dict else (lambda x: form([x]))
    whole = assembled(lambda net, held: padded(net, held[key]), given(image()))
    assert whole(given(image())).shape == (2, 4, 8, 8)
    with pytest.raises(AssertionError, match=r"of the size \(8, 8\)"):
        whole.forward(given(image(9)))


def only_one_size(net, x):
    return net.conv(x.view(-1, 3, 8, 8))


def sized_by_tensors(net, x):
    return F.interpolate(net.conv(x), size=x.shape[2:])


@pytest.mark.parametrize("flow", [only_one_size, sized_by_tensors])
def test_other_graphs_ask_for_no_size(flow):
    (piece,) = find_pieces(net_of(flow), image()).pieces
    checks = [node for node in piece.traced.graph.nodes if node.target is torch._assert]
    assert not [node for node in checks if "asks for sizes" in node.args[1]]


def test_graphs_that_are_true_at_other_sizes_take_them():
    net = net_of(sized_by_tensors)
    x = image(13)
    torch.testing.assert_close(find_pieces(net, image()).assemble()(x), net(x))


def test_only_maps_are_made_larger():
    call = Call(args=(image(4), torch.ones(2, 5), 3), kwargs={"pooled": torch.ones(2, 3, 1, 1)})
    larger = call.larger(3)
    assert [tuple(each.shape) for each in larger.args[:2]] == [(2, 3, 7, 7), (2, 5)]
    assert larger.args[2] == 3
    assert larger.kwargs["pooled"].shape == (2, 3, 1, 1)
    assert torch.equal(larger.args[0][..., 4:, :4], call.args[0][..., :3, :])
