import math
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings, strategies

from shoal.budget import Budget
from shoal.errors import BudgetError, ConfigError
from shoal.tables import LatencyTable
from shoal.training.concurrent.price import Price
from shoal.training.concurrent.prices import UnitPrices
from shoal.units import Chain, Unit


def chain_of(stages, rest=0):
    """Stages of units of these MACs; negative ones cannot be removed."""
    units, index = [], 0
    for stage, sizes in enumerate(stages):
        for size in sizes:
            units.append(
                Unit(
                    name=f"s{stage}.{index}",
                    index=index,
                    modules=(f"s{stage}.{index}",),
                    container=f"s{stage}",
                    group=f"s{stage}",
                    kind="Block",
                    params=2 * abs(size),
                    macs=abs(size),
                    removable=size >= 0,
                )
            )
            index += 1
    macs = rest + sum(unit.macs for unit in units)
    return Chain(units=tuple(units), model="Net", params=2 * macs, macs=macs)


def prices_of(stages, budget, rest=0):
    return UnitPrices.of(chain_of(stages, rest), Budget.parse(budget))


SHARES = strategies.integers(5, 100).map(lambda percent: percent / 100)
STAGES = strategies.lists(
    strategies.lists(strategies.integers(-9, 9).filter(bool), min_size=1, max_size=4), min_size=1, max_size=3
).filter(lambda stages: any(size > 0 for sizes in stages for size in sizes))


def allowed(prices, removed):
    """Whether these can go together: removable, and one of each stage stays."""
    return set(removed) <= set(prices.chain.removable) and all(
        set(members) - set(removed) for members in prices.chain.groups.values()
    )


def sets_of(prices):
    free = prices.chain.removable
    return [set(s) for size in range(len(free) + 1) for s in combinations(free, size) if allowed(prices, s)]


@settings(deadline=None, max_examples=80)
@given(STAGES, SHARES, strategies.sampled_from(["units", "params", "macs"]))
def test_a_budget_is_refused_only_if_no_set_of_units_meets_it(stages, share, quantity):
    chain = chain_of(stages, rest=3)
    budget = Budget(quantity=quantity, limit=share, relative=True)
    open_to_all = UnitPrices.of(chain, Budget(quantity=quantity, limit=1.0, relative=True))
    least = min(open_to_all.requirement.remaining(removed) for removed in sets_of(open_to_all))
    if least <= share * open_to_all.requirement.whole + 1e-9:
        UnitPrices.of(chain, budget)
        return
    with pytest.raises(BudgetError, match="with one unit of every stage left") as raised:
        UnitPrices.of(chain, budget)
    nearest = str(raised.value).rpartition("the least that can be asked for is ")[2].rstrip(".")
    UnitPrices.of(chain, Budget.parse(nearest))


@settings(deadline=None, max_examples=150)
@given(
    STAGES,
    SHARES,
    strategies.sampled_from(["units", "params", "macs"]),
    strategies.randoms(use_true_random=False),
)
def test_a_budget_that_can_be_met_is_met_whatever_units_are_worth_and_whatever_left_before(
    stages, share, quantity, draw
):
    chain = chain_of(stages, rest=3)
    budget = Budget(quantity=quantity, limit=share, relative=True)
    try:
        prices = UnitPrices.of(chain, budget)
    except BudgetError:
        return
    gains = {index: draw.uniform(-0.1, 1.0) for index in chain.removable}
    removed = set()
    # Some leave in training, in any order.
    for index in draw.sample(chain.removable, draw.randint(0, len(chain.removable))):
        if not (prices.is_met(removed) or prices.is_needed(index, removed) or prices.is_last(index, removed)):
            removed.add(index)
    left = {index: gain for index, gain in gains.items() if index not in removed}
    going = prices.surplus(left, removed)
    after = removed | set(going)
    assert not set(going) & removed
    assert allowed(prices, after)
    assert prices.is_met(after)
    # None of them could have stayed.
    assert not any(prices.is_met(after - {index}) for index in going)


def test_those_go_that_are_worth_least_for_what_they_cost():
    prices = prices_of([[4, 4, 2, 2]], "macs=8")
    assert prices.surplus({0: 0.4, 1: 0.3, 2: 0.1, 3: 0.9}, ()) == (1,)
    assert prices.surplus({0: 0.4, 1: 0.3, 2: 0.1, 3: 0.02}, ()) == (2, 3)
    assert prices.surplus({0: 0.4, 2: 0.1, 3: 0.9}, (1,)) == ()


def test_a_cheap_unit_is_needed_where_only_a_dear_one_would_be_left():
    prices = prices_of([[10, 1]], "macs=3")
    assert prices.is_needed(1, ())
    assert not prices.is_needed(0, ())
    assert prices.surplus({0: 0.9, 1: 0.0}, ()) == (0,)


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_price_is_the_share_of_the_level_that_a_unit_costs(level):
    prices = prices_of([[6, 3], [-1]], "macs=1.0", rest=2)
    prices.level = level
    assert [prices.share(index) for index in range(3)] == pytest.approx([0.5, 0.25, 1 / 12])
    assert prices.price(0) == pytest.approx(level / 2)


def test_what_is_expected_is_the_mean_over_all_gates():
    prices = prices_of([[6, 3, 1], [2]], "macs=1.0", rest=4)
    theta, removed = {0: 0.9, 1: 0.25}, (2,)
    mean = sum(
        (theta[0] if on0 else 1 - theta[0])
        * (theta[1] if on1 else 1 - theta[1])
        * (6 * on0 + 3 * on1 + 2 + 4)
        for on0 in (0, 1)
        for on1 in (0, 1)
    )
    assert prices.expected(theta, removed) == pytest.approx(mean / 16)


@pytest.mark.parametrize(("budget", "goal"), [("macs=1.0", 1.0), ("macs=0.5", 0.5), ("units=2", 2 / 3)])
def test_the_goal_is_the_share_that_may_remain(budget, goal):
    assert prices_of([[4, 4, 4]], budget).goal == pytest.approx(goal)


@pytest.mark.parametrize(
    ("stages", "removed", "index", "last"),
    [
        ([[1]], (), 0, True),
        ([[1, 1]], (), 0, False),
        ([[1, 1]], (1,), 0, True),
        ([[1, -1]], (), 0, False),
        ([[1], [1, 1]], (1, 2), 0, True),
        ([[1, 1, 1]], (0, 1, 2), 1, True),
    ],
)
def test_the_last_of_a_stage_is_known(stages, removed, index, last):
    assert prices_of(stages, "macs=1.0").is_last(index, removed) == last


@pytest.mark.parametrize(
    ("gains", "level"),
    [
        ({0: 0.2, 1: 0.1, 2: 0.4}, 0.3),
        ({0: -0.2, 1: -0.1, 2: 0.4}, 0.012),
        ({0: 0.0, 1: 0.0, 2: 0.0}, 1e-6),
    ],
)
def test_the_level_begins_where_as_many_units_leave_as_have_to(gains, level):
    prices = prices_of([[1, 1, 1]], "units=2")
    prices.start(gains)
    assert prices.level == pytest.approx(level)
    going = [index for index in gains if max(gains[index], 0) <= prices.price(index) + 1e-12]
    assert set(going) >= set(prices.surplus(gains, ()))


@pytest.mark.parametrize(
    ("expected", "target", "factor"),
    [(0.8, 0.8, 1.0), (0.81, 0.8, math.exp(0.01)), (1.0, 0.2, math.exp(0.05)), (0.2, 1.0, 1.0)],
)
def test_the_level_rises_while_too_much_is_left_never_fast_and_never_falls(expected, target, factor):
    prices = prices_of([[1, 1]], "units=1")
    prices.level = 0.5
    prices.lead(expected, target, haste=1.0)
    assert prices.level == pytest.approx(0.5 * factor)


def unequal() -> Chain:
    """Units whose shares of parameters and MACs differ."""
    chain = chain_of([[10, 20, 30]], rest=40)
    units = tuple(replace(unit, params=100 - unit.macs) for unit in chain)
    return replace(chain, units=units, params=1000)


@pytest.mark.parametrize(
    ("gains", "removed", "level"),
    [
        ({0: 0.5, 1: 0.02, 2: 0.3}, {3}, 0.1),
        ({0: 0.5, 1: -0.02, 2: 0.3}, {3}, 0.0),
        ({0: 5.0, 1: 6.0, 2: 7.0}, {3}, 2.0),
        ({2: 0.01}, {0, 1, 3}, 2.0),
        ({}, (), 2.0),
    ],
)
def test_the_level_settles_where_all_that_could_leave_is_worth_its_price(gains, removed, level):
    prices = prices_of([[2, 2, 2, 2]], "units=3", rest=2)
    prices.requirement = replace(prices.requirement, savings=(0.4, 0.2, 0.2, 0.2), whole=1.0)
    prices.level = 2.0
    prices.settle(gains, removed)
    assert prices.level == pytest.approx(level)


def test_a_fixed_price_is_a_share_of_what_all_of_a_quantity_is_worth():
    chain = unequal()
    table = LatencyTable(units=(0.1, 0.2, 0.3), whole=2.0)
    shares = {
        "macs": (0.1, 0.2, 0.3),
        "params": (0.09, 0.08, 0.07),
        "latency": (0.05, 0.1, 0.15),
        "units": (1 / 3,) * 3,
    }
    for quantity, expected in shares.items():
        prices = UnitPrices.fixed(chain, Price.parse(f"{quantity}=0.5"), table)
        assert [prices.price(index) for index in range(3)] == pytest.approx([0.5 * each for each in expected])


def test_prices_of_several_quantities_add_up():
    chain = unequal()
    prices = UnitPrices.fixed(chain, Price.parse("macs=0.3,params=0.1"))
    expected = [0.3 * unit.macs / 100 + 0.1 * unit.params / 1000 for unit in chain]
    assert [prices.price(index) for index in range(3)] == pytest.approx(expected, rel=1e-12)
    assert prices.level == pytest.approx(0.4)
    assert prices.expected({0: 0.5}, [2]) == pytest.approx(1 - (expected[2] + expected[0] / 2) / 0.4)


def test_a_price_of_nothing_costs_nothing():
    prices = UnitPrices.fixed(unequal(), Price.parse("macs=0,params=0"))
    assert [prices.price(index) for index in range(3)] == [0, 0, 0]
    assert prices.expected({}, []) == 1


def test_what_a_network_has_none_of_has_no_price():
    free = replace(unequal(), macs=0)
    with pytest.raises(ConfigError, match=r"price of macs=0.1: Net has no macs; units=0.1 works"):
        UnitPrices.fixed(free, Price.parse(0.1))


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        (0, (("macs", 0.0),)),
        ("0.25", (("macs", 0.25),)),
        (" Params = 1e-3 , latency=2", (("params", 1e-3), ("latency", 2.0))),
        (Price((("units", 1.0),)), (("units", 1.0),)),
    ],
)
def test_prices_are_numbers_or_quantities(given, levels):
    assert Price.parse(given).levels == levels
    assert Price.parse(str(Price.parse(given))) == Price.parse(given)


@pytest.mark.parametrize(
    "given", [-1, "nan", "inf", "size=1", "macs=", "macs=1,macs=2", "", "a", True, None, [1]]
)
def test_what_is_no_price_is_said(given):
    with pytest.raises(ConfigError, match=r"asked for a price of .*params=0.3, latency=0.1"):
        Price.parse(given)


@pytest.mark.parametrize(
    "levels",
    [
        (),
        0.1,
        "macs=1",
        (("macs", -1.0),),
        (("macs", math.nan),),
        (("size", 1.0),),
        (("macs", "1"),),
        (("macs",),),
    ],
)
def test_a_price_is_one_however_it_is_made(levels):
    with pytest.raises(ConfigError, match=r"asked for a price of .*params=0.3, latency=0.1"):
        Price(levels)
    with pytest.raises(ConfigError, match="which names a quantity twice"):
        Price((("macs", 1.0), ("macs", 1.0)))


def test_prices_that_differ_in_the_last_digit_are_written_as_others():
    assert str(Price.parse("0.12345678")) != str(Price.parse("0.12345679"))
