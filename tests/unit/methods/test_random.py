from collections import Counter

import pytest

from shoal.errors import BudgetError, ConfigError, UnitError
from shoal.methods.random import METHOD, RandomSettings, choose


def drawn(request, count):
    return [choose(request, RandomSettings(seed=seed)).removed for seed in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_as_many_units_go_as_are_asked_for(ask_chain, count):
    sets = drawn(ask_chain(f"units={5 - count}"), 10)
    assert {len(removed) for removed in sets} == {count}


def test_a_seed_decides_and_is_in_the_plan(ask_chain):
    request = ask_chain("units=4", params=[10] * 8)
    assert drawn(request, 5) == drawn(request, 5)
    assert len(set(drawn(request, 5))) > 1
    assert choose(request, RandomSettings(seed=3)).settings["seed"] == 3


def test_all_sets_of_the_units_that_can_go_are_as_likely(ask_chain):
    often = Counter(drawn(ask_chain(fixed=[0]), 600))
    assert len(often) == 6
    # Five standard deviations of the mean of 100.
    assert all(55 <= count <= 145 for count in often.values())
    assert all(0 not in removed for removed in often)


def test_a_budget_that_units_meet_alone_is_met_without_the_others(ask_chain):
    request = ask_chain("params=180", params=[5, 5, 5, 100])
    for removed in drawn(request, 20):
        assert removed == (3,)


def test_protected_units_stay(ask_chain):
    settings = RandomSettings(protect_first=1, protect_last=2)
    assert choose(ask_chain("units=3"), settings).removed == (1, 2)
    with pytest.raises(BudgetError, match="with only 2 of 5 units allowed to go"):
        choose(ask_chain("units=2"), settings)
    with pytest.raises(UnitError, match="Protect fewer"):
        choose(ask_chain(), RandomSettings(protect_first=5))
    with pytest.raises(ConfigError, match="protect_first=-1"):
        RandomSettings(protect_first=-1)


def test_it_is_a_control_that_draws():
    assert METHOD.control
    assert METHOD.draws
