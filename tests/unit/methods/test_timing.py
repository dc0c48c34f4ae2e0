from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from shoal import Budget, find_units
from shoal.errors import BudgetError
from shoal.measurement import LatencySettings, measure_latency, unit_latency
from shoal.methods import Request, get, timing
from shoal.methods.sglp import SGLPSettings
from shoal.methods.timing import choose_on_time
from shoal.tables import LatencyTable

QUICK = SGLPSettings(importance="block_influence", segments=1)


class Heavy(nn.Module):
    """A residual block of two wide layers, some of them wider."""

    def __init__(self, width):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(128, width), nn.ReLU(), nn.Linear(width, 128))

    def forward(self, x):
        return x + self.branch(x)


@pytest.fixture
def ask():
    model = nn.Sequential(
        *(Heavy(2048 if at % 3 == 0 else 1024) for at in range(9)), nn.Linear(128, 5)
    ).eval()
    example = torch.randn(64, 128)
    chain = find_units(model, example)
    batches = [(example[:16], torch.randint(0, 5, (16,)))]

    def make(budget):
        return Request(
            model=model, chain=chain, batches=batches, example=example, budget=Budget.parse(budget)
        )

    return make


@pytest.fixture
def clock(monkeypatch):
    """Seconds that units take by themselves, and what the whole takes when they are gone, by formula."""
    found = SimpleNamespace(alone=1.0, saved=1.0, rest=1.0)
    table = lambda *args: LatencyTable(units=(found.alone,) * 9, whole=10.0)  # noqa: E731
    monkeypatch.setattr("shoal.methods.request.unit_latency", table)
    monkeypatch.setattr(
        timing, "_timed", lambda request, plan: (10.0, 10.0 - found.saved * len(plan.removed))
    )
    return found


def test_the_measured_network_meets_the_budget(ask, monkeypatch):
    brief = LatencySettings(max_seconds=0.3)
    monkeypatch.setattr(timing, "measure_latency", partial(measure_latency, settings=brief))
    monkeypatch.setattr("shoal.methods.request.unit_latency", partial(unit_latency, settings=brief))
    request = ask("latency=0.7")
    plan = choose_on_time(request, get("sglp"), QUICK)
    assert plan.removed
    after, before = (plan.predicted[name] for name in ("latency_measured", "latency_before_measured"))
    assert after <= 0.7 * before


@pytest.mark.parametrize(("budget", "count"), [("latency=0.65", 4), ("latency=6.5s", 4), ("latency=0.5", 5)])
def test_where_units_save_what_they_take_the_first_plan_is_it(ask, clock, budget, count):
    plan = choose_on_time(ask(budget), get("sglp"), QUICK)
    assert len(plan.removed) == count
    assert plan.predicted["latency_measured"] == 10 - count
    assert plan.budget == Budget.parse(budget)


def test_where_units_save_less_than_they_take_more_go(ask, clock):
    clock.saved = 0.6
    assert len(choose_on_time(ask("latency=0.7"), get("sglp"), QUICK).removed) == 5


def test_where_units_save_more_than_they_take_fewer_go(ask, clock):
    clock.alone, clock.saved = 0.5, 1.0
    assert len(choose_on_time(ask("latency=0.7"), get("sglp"), QUICK).removed) == 3


def test_a_budget_that_the_network_meets_removes_nothing(ask, clock):
    assert choose_on_time(ask("latency=1.0"), get("sglp"), QUICK).removed == ()


def test_a_budget_beyond_all_units_is_refused(ask, clock):
    with pytest.raises(BudgetError, match="asked for latency=0.05: .* the least that can be asked for is"):
        choose_on_time(ask("latency=0.05"), get("sglp"), QUICK)


def test_a_budget_that_is_not_met_when_measured_is_refused_with_the_nearest(ask, clock):
    clock.saved = 0.3
    with pytest.raises(
        BudgetError, match="asked for latency=0.6: .* the least that can be asked for is latency=0.76"
    ):
        choose_on_time(ask("latency=0.6"), get("sglp"), QUICK)


def test_where_removal_saves_no_time_the_fastest_plan_is_named(ask, clock):
    clock.saved = 0.0
    with pytest.raises(BudgetError, match="latency=0.9: "):
        choose_on_time(ask("latency=0.9"), get("sglp"), QUICK)


@pytest.mark.parametrize(
    ("budget", "advised"), [("latency=0.95", "latency=0.989"), ("latency=9.5s", "9.89s")]
)
def test_a_plan_that_stays_too_slow_names_a_budget_that_it_meets(ask, clock, monkeypatch, budget, advised):
    # Whatever goes, as much is saved.
    monkeypatch.setattr(timing, "_timed", lambda request, plan: (10.0, 9.6))
    with pytest.raises(BudgetError, match=f"4 tried takes 0.960 of .* Ask for .*{advised} or more"):
        choose_on_time(ask(budget), get("sglp"), QUICK)
