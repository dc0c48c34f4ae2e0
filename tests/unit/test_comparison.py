import json
from dataclasses import replace
from math import sqrt

import pytest

from shoal.comparison import Comparison, Failure, Row
from shoal.errors import DataError
from shoal.plan import Plan
from shoal.result import Measurement


@pytest.fixture
def make_row(make_chain):
    """Return a function that makes the row of a method whose network has these losses."""

    def make(method, losses, *, removed=(1,), budget="units=3", seed=0, latency=0.5):
        return Row(
            method=method,
            budget=budget,
            seed=seed,
            control=method == "random",
            plan=Plan.removing(make_chain(), removed, method=method),
            asked={"loss": 3},
            seconds=0.5,
            own_weights=False,
            measured=Measurement(
                params=10, macs=100, latency=latency, quality={"loss": sum(losses) / len(losses)}
            ),
            latency_whole=None if latency is None else 1.0,
            healed=None,
            losses=tuple(losses),
        )

    return make


@pytest.fixture
def make(make_row):
    """Return a function that makes a comparison of these rows."""

    def build(*rows, failures=()):
        whole = make_row("whole", [0.0, 0.0, 0.0], removed=(), budget="")
        return Comparison(
            whole=(whole,),
            rows=rows,
            failures=failures,
            weights=(1.0, 1.0, 1.0),
            settings={"seeds": [0], "heal_seeds": 1, "heal": None, "granularity": "block"},
        )

    return build


def test_methods_stand_in_the_order_of_their_mean_loss(make, make_row):
    comparison = make(
        make_row("bad", [3, 3, 3]),
        make_row("random", [1, 1, 1], seed=0),
        make_row("random", [3, 2, 1], seed=1),
        make_row("good", [1, 1, 1.3]),
        make_row("elsewhere", [0, 0, 0], budget="units=2"),
    )
    assert [each.method for each in comparison.standings("units=3")] == ["good", "random", "bad"]
    assert [each.method for each in comparison.standings("units=2")] == ["elsewhere"]
    assert comparison.budgets == ("units=3", "units=2")


def test_the_difference_to_the_best_is_taken_in_pairs(make, make_row):
    comparison = make(make_row("good", [1, 5, 9]), make_row("bad", [2, 7, 9]))
    good, bad = comparison.standings("units=3")
    assert (good.difference, good.error) == (0, 0)
    # The differences 1, 2, 0 have the mean 1 and the standard deviation 1.
    assert bad.difference == pytest.approx(1)
    assert bad.error == pytest.approx(1 / sqrt(3))


@pytest.mark.parametrize(
    ("losses", "near"), [([1, 5, 9], True), ([0, 6.5, 9.4], True), ([2, 6, 9], False), ([2, 6, 10], False)]
)
def test_what_lies_within_one_standard_error_of_the_best_is_near_it(make, make_row, losses, near):
    comparison = make(make_row("good", [1, 5, 9]), make_row("other", losses))
    assert [each.near_best for each in comparison.standings("units=3")] == [True, near]


def test_losses_of_seeds_are_averaged_before_they_are_compared(make, make_row):
    rows = [make_row("random", losses, seed=seed) for seed, losses in enumerate([[1, 2, 3], [3, 6, 3]])]
    best, standing = make(make_row("good", [1, 3, 2]), *rows).standings("units=3")
    assert best.method == "good"
    assert standing.mean("loss") == 3
    assert standing.spread("loss") == pytest.approx(sqrt(2))
    assert standing.difference == pytest.approx(1)
    assert standing.error == pytest.approx(0)
    assert best.spread("loss") is None


def test_samples_count_by_their_weight(make, make_row):
    comparison = make(make_row("good", [1, 1, 1]), make_row("bad", [1, 1, 5]))
    heavy = replace(comparison, weights=(1.0, 1.0, 2.0))
    assert comparison.standings("units=3")[1].difference == pytest.approx(4 / 3)
    assert heavy.standings("units=3")[1].difference == pytest.approx(2)


def test_quality_is_that_after_healing_where_there_was_some(make_row):
    row = make_row("good", [1, 2, 3])
    assert row.quality == {"loss": 2}
    assert replace(row, healed={"loss": 1.5}).quality == {"loss": 1.5}
    assert replace(row, healed={"loss": 1.5}).measured.quality == {"loss": 2}


def test_latency_is_a_share_of_the_whole_networks(make, make_row):
    comparison = make(make_row("good", [1, 1, 1]), make_row("untimed", [2, 2, 2], latency=None))
    assert [each.latency_ratio() for each in comparison.standings("units=3")] == [0.5, None]


@pytest.mark.parametrize("removed", [(), (2,), (0, 1, 2, 3)])
def test_a_row_knows_how_many_units_remain(make_row, removed):
    assert make_row("good", [1], removed=removed).units == 4 - len(removed)


def test_a_comparison_comes_back_from_json(make, make_row):
    failure = Failure(method="taylor", budget="units=1", seed=0, reason="no labels")
    comparison = make(make_row("good", [1, 2, 3], removed=(0, 2)), failures=(failure,))
    text = json.dumps(comparison.as_json())
    assert Comparison.from_json(json.loads(text)) == comparison
    assert json.loads(text)["standings"]["units=3"][0]["method"] == "good"
    assert json.loads(text)["standings"]["units=1"] == []


@pytest.mark.parametrize("fields", [{}, {"version": 99}])
def test_a_comparison_of_another_version_is_refused(fields):
    with pytest.raises(DataError, match=r"a comparison of version (None|99): this shoal reads version 1"):
        Comparison.from_json(fields)


def test_a_budget_that_was_not_compared_is_refused(make, make_row):
    with pytest.raises(DataError, match=r"the budget 'macs=0.5' of a comparison: it has units=3"):
        make(make_row("good", [1, 1, 1])).standings("macs=0.5")
