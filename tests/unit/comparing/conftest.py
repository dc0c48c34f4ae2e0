"""A small network whose units differ, data for it, and quick ways to compare on it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from shoal.comparing import bench
from shoal.measurement import LatencySettings

QUICK = LatencySettings(warmup=0, min_repetitions=1, max_repetitions=1)


class Block(nn.Module):
    """A residual block that changes more, the larger its scale."""

    def __init__(self, scale):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        nn.init.normal_(self.linear.weight, std=scale)
        self.activation = nn.ReLU()

    def forward(self, x):
        return x + self.activation(self.linear(x))


@pytest.fixture
def network():
    """Six residual blocks between two linear layers, for `(B, 4)` and three classes."""
    torch.manual_seed(0)
    blocks = [Block(scale) for scale in (0.5, 0.1, 0.7, 0.2, 0.6, 0.3)]
    return nn.Sequential(nn.Linear(4, 8), *blocks, nn.Linear(8, 3)).eval()


@pytest.fixture
def data(network):
    """Batches to choose on, to heal on and to judge by; labels are what the network says, mostly."""

    def batches(seed, count):
        inputs = torch.randn(count, 12, 4, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            labels = network(3 * inputs).argmax(dim=-1)
        return list(zip(3 * inputs, labels, strict=True))

    return SimpleNamespace(batches=batches(1, 2), train=batches(2, 2), evaluation=batches(3, 2))


@pytest.fixture
def compare(network, data):
    """Return `shoal.compare` on that network and data, under `units=4` where nothing else is said."""
    import shoal

    def run(**fields):
        known = {"budgets": "units=4", "evaluation": data.evaluation, "latency": QUICK, "seeds": 2}
        return shoal.compare(network, data.batches, **known | fields)

    return run


@pytest.fixture
def calls(monkeypatch):
    """How often networks were chosen, healed, measured and judged."""
    made = {}

    def counted(name):
        original = getattr(bench, name)

        def call(*args, **fields):
            made[name] = made.get(name, 0) + 1
            return original(*args, **fields)

        return call

    for name in ("choose_plan", "heal", "measure_pair", "evaluate_samples"):
        monkeypatch.setattr(bench, name, counted(name))
    return made
