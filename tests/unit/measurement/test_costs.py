import pytest
import torch
from torch import nn

from shoal.measurement.costs import measure, measure_pair
from shoal.measurement.latency import LatencySettings

FEW = LatencySettings(warmup=0, min_repetitions=2, max_repetitions=2)


def stack(depth: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(depth)])


def test_a_measurement_holds_all_costs():
    found = measure(stack(3), torch.zeros(4, 8), settings=FEW)
    assert (found.params, found.macs, found.memory) == (3 * 72, 3 * 4 * 64, 2 * 4 * 8 * 4)
    assert found.latency is not None
    assert found.latency > 0
    assert found.latency_spread is not None
    assert found.device.startswith("cpu (")


def test_latency_can_be_left_out():
    found = measure(stack(1), torch.zeros(4, 8), latency=False)
    assert (found.latency, found.latency_spread) == (None, None)
    assert found.macs == 256


@pytest.mark.parametrize("latency", [True, False])
def test_a_pair_is_measured_alike(latency):
    before, after = measure_pair(stack(3), stack(1), torch.zeros(4, 8), latency=latency, settings=FEW)
    assert (before.params, after.params) == (216, 72)
    assert (before.latency is not None) == (after.latency is not None) == latency


def test_an_example_may_be_a_dict_of_keywords():
    assert measure(nn.Linear(8, 8), {"input": torch.zeros(1, 8)}, latency=False).macs == 64


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8))
    state = torch.get_rng_state()
    measure(net, torch.zeros(1, 8), settings=FEW)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert net[1].weight.grad is None
