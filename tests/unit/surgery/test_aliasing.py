from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from shoal.surgery.aliasing import keep_input_, overwrites

CALLS = {
    "module": nn.ReLU6(inplace=True),
    "named function": torch.tanh_,
    "function": lambda x: F.leaky_relu(x, 0.3, True),
    "keyword": lambda x: F.elu(x, inplace=True),
    "method": lambda x: x.clamp_(0, 1),
}
CLEAN = {"module": nn.SiLU(), "function": F.silu, "method": lambda x: x.clamp(0, 1), "sum": lambda x: x + 1}


def traced(call):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.call = call

        def forward(self, x):
            return self.call(x)

    net = fx.symbolic_trace(Net())
    return net, next(node for node in net.graph.nodes if node.op not in ("placeholder", "output"))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_that_overwrites_its_input_can_do_without(call):
    net, node = traced(call)
    x = torch.randn(20)
    assert overwrites(net, node)
    expected = net(x.clone())
    keep_input_(net, node)
    net.recompile()
    before = x.clone()
    assert torch.equal(net(x), expected)
    assert torch.equal(x, before)
    assert not overwrites(net, node)


@pytest.mark.parametrize("call", CLEAN.values(), ids=CLEAN)
def test_other_calls_stay(call):
    net, node = traced(call)
    assert not overwrites(net, node)
    target = node.target
    keep_input_(net, node)
    assert node.target == target
