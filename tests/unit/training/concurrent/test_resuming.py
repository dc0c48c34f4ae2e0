import json
from dataclasses import replace

import pytest
import torch

from gated import Toy
from shoal import find_units
from shoal.budget import Budget
from shoal.errors import ConfigError
from shoal.training.concurrent.attraction import Attraction
from shoal.training.concurrent.decisions import Decisions
from shoal.training.concurrent.gates import Gates
from shoal.training.concurrent.prices import UnitPrices
from shoal.training.concurrent.resuming import check_agreed, restore_, state_of
from shoal.training.concurrent.settings import ConcurrentSettings


def decisions():
    net = Toy(4)
    chain = find_units(net, torch.zeros(2, 64))
    settings = ConcurrentSettings(condition="attracted")
    return Decisions(
        gates=Gates(net, chain, start=settings.start),
        prices=UnitPrices.of(chain, Budget.parse("units=2")),
        settings=settings,
        steps=100,
        led=True,
        optimizer=None,
        attraction=Attraction(net, chain, torch.zeros(2, 64)),
    )


def test_what_changed_is_named_and_the_rest_is_not():
    check_agreed({"steps": 5, "budget": "macs=0.5"}, {"steps": 5})
    with pytest.raises(ConfigError, match="other settings: steps 5 -> 6, seed None -> 1"):
        check_agreed({"steps": 5, "budget": "macs=0.5"}, {"steps": 6, "budget": "macs=0.5", "seed": 1})


def test_decisions_go_on_where_they_were():
    before, after = decisions(), decisions()
    for index, gain in before.gains.items():
        gain.add(0.1 * index)
        gain.add(0.3)
    before.attraction.influence[2] = 1.5
    before.gates.theta[3] = 0.25
    before.prices.level = 0.7
    before.gates.remove_(1, None)
    before.freeze()
    state = state_of(before)
    json.dumps({name: value for name, value in state.items() if name != "generator"})

    restore_(after, state)
    assert after.gates.theta == before.gates.theta
    assert after.gates.removed == before.gates.removed
    assert (after.gains, after.frozen) == (before.gains, True)
    assert after.attraction.influence == before.attraction.influence
    assert after.gates.settled_for_good
    assert after.prices.level == before.prices.level


def test_costs_that_were_measured_before_stay():
    before, after = decisions(), decisions()
    before.prices.requirement = replace(before.prices.requirement, savings=(2.0, 1.0, 1.0, 1.0), whole=5.0)
    restore_(after, state_of(before))
    assert after.prices.requirement.savings == (2.0, 1.0, 1.0, 1.0)
    assert after.prices.requirement.whole == 5.0
