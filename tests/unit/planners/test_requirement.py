import pytest

from shoal.budget import Budget
from shoal.errors import BudgetError
from shoal.planners import Requirement, savings_for
from shoal.tables import LatencyTable

LATENCY = LatencyTable(units=(0.001, 0.002, 0.003, 0.004), whole=0.012, device="CPU, 2 threads")


def test_units_save_one_each_of_the_chain(make_chain):
    assert savings_for(make_chain(), Budget.parse("units=3")) == ((1.0,) * 4, 1.0)


@pytest.mark.parametrize(("quantity", "unit"), [("params", 1), ("macs", 10)])
def test_sizes_are_of_the_whole_network(make_chain, quantity, unit):
    savings, need = savings_for(make_chain(rest=100), Budget.parse(f"{quantity}=0.75"))
    assert savings == (10.0 * unit, 20.0 * unit, 30.0 * unit, 40.0 * unit)
    assert need == 50.0 * unit


def test_latency_is_that_of_the_table(make_chain):
    savings, need = savings_for(make_chain(), Budget.parse("latency=9ms"), LATENCY)
    assert savings == LATENCY.units
    assert need == pytest.approx(0.003)


@pytest.mark.parametrize("budget", ["units=4", "units=1.0", "params=1.0", "macs=1G"])
def test_a_budget_that_the_whole_network_meets_needs_nothing(make_chain, budget):
    assert savings_for(make_chain(), Budget.parse(budget))[1] <= 0


@pytest.mark.parametrize(
    ("budget", "nearest"),
    [
        ("units=1", "units=2"),
        ("units=0.3", "units=0.5"),
        ("params=0.1", "params=0.65"),
        ("macs=0.05", "macs=0.65"),
        ("macs=1k", "macs=1300"),
        ("latency=0.1", "latency=0.584"),
        ("latency=2ms", "latency=0.007s"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_with_the_nearest_that_can(make_chain, budget, nearest):
    chain, asked = make_chain(fixed=[0, 3], rest=100), Budget.parse(budget)
    chain = make_chain(fixed=[0, 1], rest=100) if "latency" not in budget else chain
    with pytest.raises(BudgetError) as caught:
        savings_for(chain, asked, LATENCY)
    assert str(caught.value) == (
        f"asked for {asked}: with every removable unit gone {nearest} remain; "
        f"the least that can be asked for is {nearest}."
    )
    savings_for(chain, Budget.parse(nearest), LATENCY)


@pytest.mark.parametrize("quantity", ["units", "params", "macs", "latency"])
@pytest.mark.parametrize("removed", [(), (0,), (1, 3)])
def test_the_nearest_budget_is_met_by_what_was_saved(make_chain, quantity, removed):
    for form in ("{}=0.001", "{}=1us" if quantity == "latency" else "{}=1"):
        requirement = Requirement.of(make_chain(), Budget.parse(form.format(quantity)), LATENCY)
        saved = requirement.whole - requirement.remaining(removed)
        nearest = requirement.nearest(saved)
        assert nearest.allowance(requirement.whole) >= requirement.remaining(removed) - 1e-12
        Requirement.of(make_chain(), nearest, LATENCY).check(saved)


def test_the_nearest_budget_is_above_zero_even_if_all_can_go(make_chain):
    requirement = Requirement.of(make_chain(rest=0), Budget.parse("params=0.5"))
    assert requirement.nearest(requirement.whole).limit == 0.001


def test_the_circumstance_is_named(make_chain):
    requirement = Requirement.of(make_chain(), Budget.parse("units=1"))
    requirement.check(3)
    with pytest.raises(BudgetError, match="with a unit kept in each segment units=2 remain"):
        requirement.check(2, "with a unit kept in each segment")


def test_a_chain_without_units_meets_any_budget_of_units(make_chain):
    assert savings_for(make_chain(()), Budget.parse("units=1")) == ((), -1.0)


def test_a_latency_that_was_not_measured_is_refused(make_chain):
    with pytest.raises(BudgetError, match="asked for latency=0.5: the latency of the units was not measured"):
        savings_for(make_chain(), Budget.parse("latency=0.5"))


def test_the_latency_of_other_units_is_refused(make_chain):
    with pytest.raises(BudgetError, match="latency was measured of 4 units, and Net has 2"):
        savings_for(make_chain((1, 2)), Budget.parse("latency=0.5"), LATENCY)


@pytest.mark.parametrize(("budget", "said"), [("macs=1", True), ("macs=2", False), ("macs=0.1", False)])
def test_who_asks_for_one_of_millions_is_told_how_shares_are_written(budget, said):
    requirement = Requirement(budget=Budget.parse(budget), savings=(1.0,), whole=9.0)
    with pytest.raises(BudgetError, match="the least that can be asked for") as raised:
        requirement.check(1.0, "with every unit gone")
    assert ("macs=1.0 is the whole network" in str(raised.value)) is said
