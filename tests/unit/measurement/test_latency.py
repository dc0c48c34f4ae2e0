import gc
import time

import pytest
import torch
from torch import Tensor, nn

from shoal.measurement.latency import (
    LatencySettings,
    Timing,
    describe_device,
    measure_latency,
    time_calls,
    unit_latency,
)
from shoal.units import Chain, Unit

FEW = LatencySettings(warmup=1, min_repetitions=3, max_repetitions=3)


def test_functions_take_turns():
    calls: list[str] = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = time_calls(functions, settings=FEW)
    assert calls == ["a", "b"] * 4
    assert [timing.repetitions for timing in timings.values()] == [3, 3]


@pytest.mark.parametrize(("repetitions", "seconds"), [(1, 0.0), (2, 0.0), (5, 0.0)])
def test_the_least_number_of_repetitions_is_done_however_long_it_takes(repetitions, seconds):
    settings = LatencySettings(warmup=0, min_repetitions=repetitions, max_seconds=seconds)
    timing = time_calls({"nothing": lambda: time.sleep(0.001)}, settings=settings)["nothing"]
    assert timing.repetitions == repetitions


def test_repetitions_go_on_until_the_time_is_up():
    settings = LatencySettings(warmup=0, min_repetitions=1, max_seconds=0.05)
    timing = time_calls({"nap": lambda: time.sleep(0.005)}, settings=settings)["nap"]
    assert 1 < timing.repetitions <= 10
    assert timing.median >= 0.005


def test_no_function_gives_no_timing():
    assert time_calls({}, settings=FEW) == {}


def test_the_garbage_collector_rests_during_a_measurement_only():
    seen: list[bool] = []
    time_calls({"look": lambda: seen.append(gc.isenabled())}, settings=FEW)
    assert seen == [True, False, False, False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("seconds", "median", "spread"), [([2.0], 2.0, 0.0), ([1.0, 3.0], 2.0, 1.0), ([1, 2, 3, 4, 100], 3, 2)]
)
def test_a_timing_is_the_median_and_the_interquartile_range(seconds, median, spread):
    timing = Timing.of(seconds)
    assert (timing.median, timing.spread) == (median, spread)


@pytest.mark.parametrize(("least", "most"), [(0, 5), (6, 5)])
def test_impossible_repetitions_are_refused(least, most):
    with pytest.raises(ValueError, match=f"{least} to {most} repetitions"):
        LatencySettings(min_repetitions=least, max_repetitions=most)


class Nap(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.weight * x


def test_the_slower_network_takes_longer():
    models = {"fast": Nap(0.001), "slow": Nap(0.004)}
    timings = measure_latency(models, torch.ones(1), FEW)
    assert timings["fast"].median < timings["slow"].median
    assert all(model.training for model in models.values())


def chain_of(model: nn.Module, *units: tuple[str, ...]) -> Chain:
    made = [
        Unit(
            name=modules[0], index=i, modules=modules, container="", group="", kind="Nap", params=1, macs=0,
            removable=True,
        )
        for i, modules in enumerate(units)
    ]  # fmt: skip
    return Chain(units=tuple(made), model=type(model).__name__, params=0, macs=0)


def test_units_are_timed_in_place_and_fit_into_the_whole():
    net = nn.Sequential(Nap(0.002), Nap(0.004), Nap(0.002), nn.Identity())
    table = unit_latency(net, chain_of(net, ("0",), ("1", "2"), ("3",)), torch.ones(1), FEW)
    assert table.units[0] >= 0.002 * 0.9
    assert table.units[1] >= 0.006 * 0.9
    assert table.units[2] < 0.001
    assert sum(table.units) <= table.whole * (1 + 1e-9)
    assert table.device.startswith("cpu (")
    assert not any(module._forward_hooks for module in net.modules())


class Disturbed(nn.Module):
    """Every call is interrupted for long, each time at another place."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleList([Nap(0.001) for _ in range(3)])
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        for number, unit in enumerate(self.units):
            x = unit(x)
            if number == self.calls % 3:
                time.sleep(0.008)
        self.calls += 1
        return x


def test_what_interrupts_every_call_is_shared_among_the_units():
    often = LatencySettings(warmup=0, min_repetitions=12, max_repetitions=12)
    table = unit_latency(
        Disturbed(), chain_of(Disturbed(), *((f"units.{i}",) for i in range(3))), torch.ones(1), often
    )
    assert table.whole > 0.010
    assert sum(table.units) > 0.8 * table.whole


def test_a_unit_that_is_called_twice_takes_both_calls():
    nap = Nap(0.002)
    net = nn.Sequential(nap, nap)
    table = unit_latency(net, chain_of(net, ("0",)), torch.ones(1), FEW)
    assert table.units[0] >= 0.004 * 0.9


class Detour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = Nap(0.001), Nap(0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_unit_that_the_example_does_not_reach_takes_no_time():
    net = Detour()
    assert unit_latency(net, chain_of(net, ("used",), ("unused",)), torch.ones(1), FEW).units[1] == 0


def test_a_chain_without_units_has_a_latency_of_the_whole_alone():
    net = Nap(0.001)
    table = unit_latency(net, chain_of(net), torch.ones(1), FEW)
    assert table.units == ()
    assert table.whole >= 0.001


def test_the_device_is_named_with_its_threads():
    assert f"{torch.get_num_threads()} threads" in describe_device("cpu")
    assert describe_device("meta") == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_timed_by_its_own_events():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).cuda()
    table = unit_latency(net, chain_of(net, ("0",), ("1",)), torch.ones(8, 64), FEW)
    assert all(seconds > 0 for seconds in table.units)
    assert table.device.startswith("cuda (")
