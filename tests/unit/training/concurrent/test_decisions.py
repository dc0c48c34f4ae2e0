import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from gated import Toy
from networks import NETWORKS, Residual
from shoal import find_units
from shoal.budget import Budget
from shoal.planners import Requirement
from shoal.training.concurrent.attraction import Attraction
from shoal.training.concurrent.decisions import Decisions
from shoal.training.concurrent.gates import Gates
from shoal.training.concurrent.prices import UnitPrices
from shoal.training.concurrent.rules import Gain
from shoal.training.concurrent.settings import ConcurrentSettings

WHOLE = Budget(quantity="units", limit=1.0, relative=True)


def decisions_on(net, x, *, price=None, budget=None, steps=100, optimizer=None, **settings):
    """Decisions on a network, by a price of every unit or a budget."""
    chain = find_units(net, x)
    if budget is None:
        prices = UnitPrices(chain, Requirement.of(chain, WHOLE), level=price * len(chain))
    else:
        prices = UnitPrices.of(chain, Budget.parse(budget))
    slow = {"warmup": 0.1, "window": 0.5, "haste": 1.0, "memory": 0.98}
    chosen = ConcurrentSettings(**slow | settings)
    return Decisions(
        gates=Gates(net, chain, start=chosen.start),
        prices=prices,
        settings=chosen,
        steps=steps,
        led=budget is not None,
        optimizer=optimizer,
        attraction=Attraction(net, chain, x) if chosen.condition == "attracted" else None,
    )


def toy_decisions(depth=4, **settings):
    return decisions_on(Toy(depth), torch.zeros(2, 64), **settings)


@pytest.mark.parametrize(
    ("steps", "warmup", "window", "first", "last"),
    [
        (100, 0.1, 0.5, 10, 50),
        (100, 0.0, 0.5, 0, 50),
        (100, 0.0, 1.0, 0, 100),
        (1, 0.1, 0.5, 1, 1),
        (2, 0.1, 0.5, 1, 2),
        (3, 0.0, 0.1, 0, 1),
    ],
)
def test_gates_move_between_warm_up_and_window(steps, warmup, window, first, last):
    decisions = toy_decisions(price=0.1, steps=steps, warmup=warmup, window=window)
    assert (decisions.first, decisions.last) == (first, last)
    before = dict(decisions.gates.theta)
    for step in range(1, last + 1):
        decisions.after(step, {index: 0.5 * (index < 3) for index in decisions.gates.theta})
        if step <= first and step < last:
            assert decisions.gates.theta == before
    assert decisions.frozen
    assert set(decisions.gates.theta.values()) == {1.0}
    assert decisions.gates.removed == [3]


def test_gates_take_the_step_of_projected_descent():
    decisions = toy_decisions(price=0.1, start=0.9, warmup=0.0, haste=0.5, probes=2)
    for index, gain in ((0, 0.08), (2, 0.3)):
        decisions.gains[index].add(gain)
    decisions.after(1, {0: 0.08, 2: 0.3})
    # A worthless unit would need a fifth of all steps at haste 1; two of four units were asked.
    rate = 0.5 * 0.9 / (0.1 * 0.2 * 100) * 2
    assert decisions.gates.theta == pytest.approx(
        {0: 0.9 + rate * (0.08 - 0.1), 1: 0.9, 2: 0.9 + rate * 0.2, 3: 0.9}
    )


def test_what_is_worth_nothing_leaves_in_the_same_time_dear_or_cheap():
    decisions = toy_decisions(price=0.1, start=0.9, warmup=0.0, probes=4)
    prices = decisions.prices
    prices.requirement = replace(prices.requirement, savings=(0.1, 1.0, 3.0, 0.0))
    decisions.gains |= {index: Gain(total=0.0, count=9) for index in range(4)}
    decisions.after(1, dict.fromkeys(range(4), 0.0))
    once = 0.9 - 0.9 / (0.2 * 100)
    assert decisions.gates.theta == pytest.approx({0: once, 1: once, 2: once, 3: 0.9})


def test_a_step_is_no_longer_than_single_batches_allow():
    decisions = toy_decisions(price=0.1, start=0.9, warmup=0.0, probes=4, steps=4)
    for value in (-1.0, 1.0):
        decisions.gains[0].add(value)
    decisions.after(1, {0: -0.1})
    assert decisions.gates.theta[0] == pytest.approx(0.9 - 0.02 / decisions.gains[0].deviation * 0.2)


def test_a_worthless_unit_leaves_after_a_fifth_of_all_steps():
    decisions = toy_decisions(price=0.1, steps=1000, probes=4)
    left = next(
        step for step in range(1, 500) if 1 in decisions.after(step, {0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0})
    )
    assert left - decisions.first == pytest.approx(200, rel=0.05)
    assert decisions.gates.removed == [1]
    assert sorted(decisions.gates.theta) == [0, 2, 3]


def test_a_unit_that_may_be_worth_its_price_is_put_back():
    decisions = toy_decisions(price=0.1, warmup=0.0, floor=0.25)
    for value in (0.0, 0.18) * 20:
        decisions.gains[1].add(value)
    decisions.gates.theta[1] = 0.0
    assert decisions.gains[1].mean < 0.1
    assert decisions.gains[1].mean + 2 * decisions.gains[1].error > 0.1
    assert decisions.after(2, {1: 0.0}) == []
    assert decisions.gates.theta[1] == 0.25
    assert decisions.gates.removed == []


def test_two_standard_errors_are_asked_for():
    for confidence, gone in ((0.0, [1]), (50.0, [])):
        decisions = toy_decisions(price=0.1, warmup=0.0, confidence=confidence)
        for value in (0.0, 0.18) * 20:
            decisions.gains[1].add(value)
        decisions.gates.theta[1] = 0.0
        assert decisions.after(2, {1: 0.0}) == gone


def test_the_end_goes_by_gains_and_not_by_gates():
    decisions = toy_decisions(price=0.1)
    decisions.gates.theta.update({0: 0.01, 1: 0.99, 2: 0.3, 3: 0.7})
    for index, gain in {0: 0.2, 1: 0.05, 2: 0.1, 3: 0.0}.items():
        for _ in range(5):
            decisions.gains[index].add(gain)
    assert sorted(decisions.freeze()) == [1, 3]
    assert decisions.gates.theta == {0: 1.0, 2: 1.0}


def test_units_of_which_nothing_is_known_stay_at_a_price():
    decisions = toy_decisions(price=0.1)
    decisions.gains[2].add(0.0)
    assert decisions.freeze() == [2]


def test_at_too_high_a_price_one_unit_of_every_stage_stays_with_a_warning():
    net, x = NETWORKS["convnext"]()
    decisions = decisions_on(net, x, price=9.0, steps=40)

    def to_the_end():
        for step in range(1, 21):
            decisions.after(step, {index: 0.1 + 0.01 * index for index in decisions.gates.theta})

    with pytest.warns(UserWarning, match=r"unit \d \(stages.\d.blocks.\d\) stays .* last of its") as told:
        to_the_end()
    assert len(told) == 2
    assert len({decisions.gates.chain[index].group for index in decisions.gates.theta}) == 2
    assert len(decisions.gates.theta) == 2
    assert decisions.frozen


@pytest.mark.parametrize("budget", ["units=1", "units=2", "units=3", "units=4"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
@pytest.mark.parametrize("worth", [0.0, 0.3, -0.2])
def test_a_budget_is_met_exactly_and_keeps_what_is_worth_most(budget, warmup, worth):
    decisions = toy_decisions(budget=budget, steps=200, warmup=warmup, probes=4)
    gains = {index: worth * (1 + index) for index in range(4)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(1, 101):
            decisions.after(step, {index: gains[index] for index in decisions.gates.theta})
    count = int(budget[-1])
    assert decisions.frozen
    assert len(decisions.gates.theta) == count
    assert set(decisions.gates.theta.values()) == {1.0}
    if worth > 0:
        assert sorted(decisions.gates.theta) == list(range(4))[-count:]


def test_prices_rise_from_the_first_step_where_there_is_no_warm_up():
    decisions = toy_decisions(budget="units=2", steps=200, warmup=0.0, probes=4)
    gone = []
    for step in range(1, 100):
        gone += decisions.after(step, {index: 0.1 * (1 + index) for index in decisions.gates.theta})
    # Not only by the reckoning at the end.
    assert gone[:1] == [0]


def test_the_price_follows_what_units_come_to_be_worth_until_gates_shut():
    decisions = toy_decisions(budget="units=2", steps=1000, warmup=0.01, memory=0.5)
    for step, worth in ((10, 1e-4), (11, 1.0)):
        decisions.gates.theta = dict.fromkeys(range(4), 0.98)
        decisions.after(step, {index: worth * (1 + index) for index in range(4)})
        # Two of four units are to go, and the second is worth so much of a quarter of the cost.
        assert decisions.prices.level == pytest.approx(4 * decisions.means[1], rel=0.06)
    level = decisions.prices.level
    decisions.gates.theta[0] = 0.5
    decisions.after(12, dict.fromkeys(range(4), 50.0))
    assert decisions.prices.level == pytest.approx(level, rel=0.06)


def test_a_cheap_worthless_unit_stays_where_only_a_dear_one_would_be_left():
    wide, narrow = (nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, 8)) for n in (64, 4))
    net = nn.Sequential(Residual(wide), Residual(narrow), nn.Linear(8, 2))
    decisions = decisions_on(net, torch.zeros(2, 8), budget="macs=0.2", steps=200, warmup=0.0, probes=2)
    for step in range(1, 101):
        decisions.gates.theta[1] = 0.0
        decisions.after(step, {index: (0.5, 0.0)[index] for index in decisions.gates.theta})
        if decisions.frozen:
            break
    assert decisions.gates.removed == [0]


def test_for_a_budget_those_leave_that_are_worth_least():
    decisions = toy_decisions(budget="units=3", steps=1000, warmup=0.0)
    decisions.prices.level = 4.0
    for index, gain in enumerate((0.05, 0.01, 0.3, 0.3)):
        for _ in range(10):
            decisions.gains[index].add(gain)
        decisions.gates.theta[index] = 0.0
    # All are below their price of 1; the budget takes one.
    assert decisions._leaving(dict.fromkeys(range(4), 0.0)) == [1]
    assert [decisions.gates.theta[index] for index in (0, 2, 3)] == [decisions.settings.floor] * 3


def test_a_budget_that_is_met_already_settles_all_at_once():
    decisions = toy_decisions(budget="units=4")
    assert decisions.after(1, {0: 0.0}) == []
    assert decisions.frozen
    assert decisions.gates.removed == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("budget", [None, "units=3"])
def test_a_batch_that_overflows_with_a_gate_turned_says_nothing(value, budget):
    decisions = toy_decisions(steps=60, warmup=0.0, **({"budget": budget} if budget else {"price": 0.1}))
    for step in range(1, 31):
        gains = {0: 1.0, 1: 0.0, 2: 1.0, 3: value if step % 3 else 1.0}
        decisions.after(step, {index: gains[index] for index in decisions.gates.theta})
        if decisions.frozen:
            break
    assert decisions.gates.removed == [1]
    assert all(math.isfinite(gain) for gain in decisions.means.values())


def attracted_decisions(scale, decay=5e-4, **settings):
    net = Toy(4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=decay)
    with torch.no_grad():
        net.blocks[1].second.weight.mul_(scale)
    return decisions_on(
        net, torch.zeros(2, 64), price=0.1, warmup=0.0, optimizer=optimizer, condition="attracted", **settings
    )


@pytest.mark.parametrize(("scale", "gain", "gone"), [(1e-3, 1e-6, [1]), (1.0, 0.3, []), (0.0, 0.0, [1])])
def test_a_unit_is_attracted_by_its_gate_and_its_last_weights(scale, gain, gone):
    decisions = attracted_decisions(scale)
    decisions.gates.theta[1] = 0.0
    for _ in range(10):
        decisions.gains[1].add(gain)
        decisions.attraction.note(1, gain)
    assert decisions._leaving({1: gain}) == gone
    assert gone or decisions.gates.theta[1] == decisions.settings.floor


def test_a_last_stage_without_weights_of_its_own_is_no_error():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)), nn.Linear(4, 2))
    decisions = decisions_on(net, torch.zeros(2, 4), price=0.1, condition="attracted", warmup=0.0)
    decisions.gates.theta[1] = 0.0
    for _ in range(10):
        decisions.gains[1].add(0.0)
    assert decisions._leaving({1: 0.0}) == [1]
