import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.budget import QUANTITIES, Budget
from shoal.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "quantity", "limit", "relative"),
    [
        ("units=20", "units", 20, False),
        ("units=0.5", "units", 0.5, True),
        ("params=0.7", "params", 0.7, True),
        ("params=1", "params", 1, False),
        ("params=1.0", "params", 1, True),
        ("macs=.5", "macs", 0.5, True),
        ("macs=5e-1", "macs", 0.5, True),
        ("macs=60M", "macs", 60e6, False),
        ("macs=1.5g", "macs", 1.5e9, False),
        ("params=12k", "params", 12e3, False),
        ("latency=0.6", "latency", 0.6, True),
        ("latency=1", "latency", 1, True),
        ("latency=12ms", "latency", 0.012, False),
        ("latency=1.5s", "latency", 1.5, False),
        ("latency=80us", "latency", 80e-6, False),
        ("  MACS = 0.5 ", "macs", 0.5, True),
        ("latency=12 ms", "latency", 0.012, False),
    ],
)
def test_what_users_write_is_understood(text, quantity, limit, relative):
    budget = Budget.parse(text)
    assert (budget.quantity, budget.relative) == (quantity, relative)
    assert budget.limit == pytest.approx(limit)


@given(st.sampled_from(QUANTITIES), st.floats(0, 1, exclude_min=True))
def test_a_share_is_written_as_it_is_read(quantity, share):
    budget = Budget(quantity=quantity, limit=share, relative=True)
    assert Budget.parse(str(budget)) == budget


@given(st.sampled_from(["units", "params", "macs"]), st.integers(1, 10**15))
def test_a_count_is_written_as_it_is_read(quantity, count):
    budget = Budget(quantity=quantity, limit=float(count), relative=False)
    assert Budget.parse(str(budget)) == budget


@given(st.floats(1e-7, 1e3))
def test_seconds_are_written_to_six_digits(seconds):
    budget = Budget(quantity="latency", limit=seconds, relative=False)
    assert Budget.parse(str(budget)).limit == pytest.approx(seconds, rel=1e-5)


def test_a_budget_is_taken_as_it_is():
    budget = Budget.parse("units=3")
    assert Budget.parse(budget) is budget


def test_a_share_is_of_the_original_and_a_count_is_not():
    assert Budget.parse("macs=0.25").allowance(400) == 100
    assert Budget.parse("macs=25").allowance(400) == 25


@pytest.mark.parametrize("text", ["", "macs", "0.6", "macs=", "macs=x", "macs=-1", "macs=1=2", 0.6, None])
def test_another_form_is_refused(text):
    with pytest.raises(BudgetError, match="forms that work are units=20, params=0.7"):
        Budget.parse(text)


def test_an_unknown_quantity_is_refused_with_the_nearest():
    with pytest.raises(BudgetError, match=r"a budget of 'param': .* the nearest is 'params'"):
        Budget.parse("param=0.5")
    with pytest.raises(BudgetError, match="a budget of 'flops': budgets are of units, params, macs, latency"):
        Budget(quantity="flops", limit=0.5, relative=True)


@pytest.mark.parametrize("text", ["macs=12ms", "latency=12M", "units=3x", "latency=2k"])
def test_a_suffix_of_another_quantity_is_refused(text):
    with pytest.raises(BudgetError, match="is no unit of"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["latency=12", "latency=0"])
def test_a_time_without_its_unit_is_refused(text):
    with pytest.raises(BudgetError, match=r"write a share \(latency=0.6\) or a time with its unit"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["macs=0.0", "macs=1.1", "latency=1.5", "params=1e3"])
def test_a_share_outside_its_range_is_refused(text):
    with pytest.raises(BudgetError, match="a share of the original lies above 0 and is at most 1"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["units=0", "macs=0M", "latency=0ms"])
def test_nothing_cannot_be_what_remains(text):
    with pytest.raises(BudgetError, match="must be more than nothing"):
        Budget.parse(text)


@pytest.mark.parametrize("budget", ["units=3", "macs=5", "params=0.4", "latency=0.4", "latency=1ms"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1234, 0.474, 0.99961, 1.0])
def test_the_nearest_budget_is_of_the_same_form_and_is_met(budget, share):
    asked, original = Budget.parse(budget), 2_000.0
    nearest = asked.nearest(share * original, original)
    assert (nearest.quantity, nearest.relative) == (asked.quantity, asked.relative)
    assert share * original <= nearest.allowance(original) * (1 + 1e-9)
    assert nearest.allowance(original) <= max(1.01 * share * original + 1, 0.001 * original)
