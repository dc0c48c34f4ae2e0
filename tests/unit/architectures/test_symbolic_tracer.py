"""What the tracer writes beside the calls; that graphs answer as modules do is told of `symbolic`."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from shoal.architectures.symbolic_tracer import Tracer, is_proxy


class Net(nn.Module):
    def __init__(self, way) -> None:
        super().__init__()
        self.way, self.conv = way, nn.Conv2d(3, 3, 1)
        self.row = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.register_buffer("shift", torch.ones(3, 1, 1))

    def forward(self, x, *args, **kwargs):
        return self.way(self, x, *args, **kwargs)


def image(size=4):
    return torch.randn(2, 3, size, size)


def trace(way, *args, whole=(), **kwargs):
    net = Net(way).eval()
    tracer = Tracer(net, args or (image(),), kwargs, [net.get_submodule(path) for path in whole])
    with torch.no_grad():
        return tracer, {node.name: node for node in tracer.trace(net).nodes}


def test_every_node_knows_what_its_call_gave():
    given = image()
    tracer, nodes = trace(lambda net, x: net.conv(x).relu(), given)
    with torch.no_grad():
        expected = tracer.root.conv(given)
    assert nodes["x"].meta["value"] is given
    assert torch.equal(nodes["conv"].meta["value"], expected)
    assert torch.equal(nodes["relu"].meta["value"], expected.relu())


@pytest.mark.parametrize(
    ("way", "known"),
    [
        (lambda net, x: x.size(1), True),
        (lambda net, x: x.shape, True),
        (lambda net, x: x.shape[2] + 1, True),
        (lambda net, x: net.shift * 2, True),
        (lambda net, x: x * x.shape[2], False),
        (lambda net, x: x + net.shift, False),
        (lambda net, x: x.sum(), False),
    ],
    ids=["size", "shape", "of a size", "own", "scaled", "shifted", "sum"],
)
def test_what_follows_from_sizes_and_own_tensors_alone_is_known(way, known):
    _, nodes = trace(way)
    (result,) = nodes["output"].all_input_nodes
    assert result.meta["known"] is known


def test_parts_of_arguments_are_noted():
    _, nodes = trace(lambda net, pair: net.conv(pair[0]) + pair[1]["y"], (image(), {"y": image()}))
    given = [node for node in nodes.values() if node.meta.get("given")]
    # The pair's two, and of the second what it holds.
    assert len(given) == 3
    assert [node.op for node in given] == ["call_function"] * 3


@pytest.mark.parametrize(
    ("way", "overwritten"),
    [
        (lambda net, x: net.conv(x).relu_(), {"relu_": ["conv"]}),
        (lambda net, x: net.conv(x).relu(), {}),
        (lambda net, x: F.relu(net.conv(x).flatten(1), inplace=True), {"relu": ["conv", "flatten"]}),
    ],
    ids=["in place", "anew", "a view"],
)
def test_a_call_names_all_whose_values_it_has_changed(way, overwritten):
    _, nodes = trace(way)
    written = {name: node.meta.get("overwrites", ()) for name, node in nodes.items()}
    assert {name: [each.name for each in nodes] for name, nodes in written.items() if nodes} == overwritten


@pytest.mark.parametrize(("whole", "calls"), [((), ["row.0", "row.1"]), (("row",), ["row"])])
def test_modules_that_are_to_stay_whole_are_one_call(whole, calls):
    _, nodes = trace(lambda net, x: net.row(x), whole=whole)
    assert [node.target for node in nodes.values() if node.op == "call_module"] == calls


def test_what_stands_for_a_value_says_so_and_passes_for_a_tensor():
    seen = []
    trace(lambda net, x: seen.append(x) or net.conv(x))
    assert is_proxy(seen[0])
    assert isinstance(seen[0], Tensor)
    assert len(seen[0]) == 2
    assert not any(map(is_proxy, (image(), None, 3, fx.Proxy)))


@pytest.mark.parametrize(
    "way",
    [
        lambda net, x: x if x.sum() > 0 else -x,
        lambda net, x: x * int(x.max()),
        lambda net, x: x * float(x.max()),
        lambda net, x: [x, -x][x.argmax()],
    ],
    ids=["if", "int", "float", "index"],
)
def test_numbers_in_tensors_decide_nothing(way):
    with pytest.raises(fx.proxy.TraceError, match="inputs to control flow"):
        trace(way)


def test_the_innermost_module_is_the_one_at_fault():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            raise KeyError("scale")

    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(Inner()))
    tracer = Tracer(net, (image(),), {}, ())
    with pytest.raises(KeyError, match="scale"), torch.no_grad():
        tracer.trace(net)
    assert tracer.innermost == "1.0"
    done, _ = trace(lambda net, x: net.row(x))
    assert done.innermost == ""


def test_what_does_not_fit_the_forward_is_refused_at_once():
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        Tracer(Net(lambda net, x: x), (), {}, ())
