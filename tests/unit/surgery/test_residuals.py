import pytest
import torch
import torch.nn.functional as F
from torch import nn

from merge_networks import Flow, conv
from shoal.architectures.pieces import find_pieces
from shoal.surgery.residuals import left_of_sum


def left(flow, gone):
    """What is left of the last sum once some convolutions have gone, by name; None where both terms are."""
    net = Flow(flow, stem=conv(4, 4), one=conv(4, 4), two=conv(4, 4), norm=nn.BatchNorm2d(4)).eval()
    (piece,) = find_pieces(net, torch.zeros(1, 4, 5, 5)).pieces
    operations = piece.operations
    through = {
        node: operations[node].inputs[0] for node in piece.traced.graph.nodes if str(node.target) in gone
    }
    assert len(through) == len(gone)
    sums = [node for node in operations if operations[node].kind == "add"]
    found = left_of_sum(piece, sums[-1], through)
    return None if found is None else found.name


def block(net, x):
    x = net.stem(x)
    return net.norm(net.two(F.relu(net.one(x)))) + x


@pytest.mark.parametrize(
    ("gone", "expected"),
    [((), None), (("one",), None), (("two",), None), (("stem",), None), (("one", "two"), "stem")],
)
def test_a_branch_goes_once_all_its_convolutions_have_gone(gone, expected):
    assert left(block, gone) == expected


@pytest.mark.parametrize("turned", [False, True])
def test_either_term_may_be_the_branch(turned):
    def flow(net, x):
        x = net.stem(x)
        terms = (net.one(x), x)
        return terms[turned] + terms[not turned]

    assert left(flow, ("one",)) == "stem"


@pytest.mark.parametrize(
    ("gone", "expected"),
    [(("one",), "two"), (("two",), "one"), (("stem",), None), (("stem", "one"), "two")],
)
def test_of_two_branches_the_one_is_left_that_has_a_convolution(gone, expected):
    def flow(net, x):
        x = net.stem(x)
        return net.one(x) + net.two(x)

    assert left(flow, gone) == expected


def test_what_has_gone_before_the_branches_part_takes_neither_with_it():
    def flow(net, x):
        x = net.stem(net.one(x))
        return net.norm(x) + F.relu(x)

    assert left(flow, ("one", "stem")) is None
