import json
from dataclasses import replace
from math import sqrt

import pytest

from shoal.comparison import Comparison, Failure
from shoal.errors import DataError


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


def test_methods_stand_before_healing_as_they_stand_after_it(make, make_row):
    comparison = make(
        make_row("slow", [1, 1, 1], before=[5, 9, 10]),
        make_row("near", [2, 2, 2], before=[4, 5, 9]),
        make_row("quick", [3, 3, 3], before=[1, 6, 8]),
    )
    after, before = (comparison.standings("units=3", healed=healed) for healed in (True, False))
    assert [(each.method, each.mean("loss")) for each in after] == [("slow", 1), ("near", 2), ("quick", 3)]
    assert [(each.method, each.mean("loss")) for each in before] == [("quick", 5), ("near", 6), ("slow", 8)]
    assert [each.near_best for each in after] == [True, False, False]
    assert [each.near_best for each in before] == [True, True, False]
    # The differences 3, -1, 1 have the mean 1 and the standard deviation 2.
    assert before[1].difference == pytest.approx(1)
    assert before[1].error == pytest.approx(2 / sqrt(3))


def test_where_nothing_was_healed_both_are_the_same(make, make_row):
    comparison = make(make_row("good", [1, 5, 9]), make_row("bad", [2, 7, 9]))
    ends, begins = (comparison.standings("units=3", healed=healed) for healed in (True, False))
    assert [each.as_json() for each in ends] == [each.as_json() for each in begins]


def test_the_spread_before_healing_is_its_own(make, make_row):
    rows = [make_row("random", [2, 2], seed=seed, before=[seed, seed + 2]) for seed in (1, 3)]
    comparison = replace(make(*rows), weights=(1.0, 1.0))
    (after,), (before,) = (comparison.standings("units=3", healed=healed) for healed in (True, False))
    assert (after.spread("loss"), before.spread("loss")) == (0, pytest.approx(sqrt(2)))


@pytest.mark.parametrize(
    ("method", "own_weights", "trained"),
    [("cka", True, True), ("cka", False, False), ("random", True, False)],
)
def test_a_method_with_training_of_its_own_is_told_from_a_control(
    make, make_row, method, own_weights, trained
):
    comparison = make(replace(make_row(method, [1, 1, 1]), own_weights=own_weights))
    (standing,) = comparison.standings("units=3")
    assert standing.own_training is trained
    assert standing.as_json()["own_training"] is trained


def test_samples_count_by_their_weight(make, make_row):
    comparison = make(make_row("good", [1, 1, 1]), make_row("bad", [1, 1, 5]))
    heavy = replace(comparison, weights=(1.0, 1.0, 2.0))
    assert comparison.standings("units=3")[1].difference == pytest.approx(4 / 3)
    assert heavy.standings("units=3")[1].difference == pytest.approx(2)


def test_latency_is_a_share_of_the_whole_networks(make, make_row):
    comparison = make(make_row("good", [1, 1, 1]), make_row("untimed", [2, 2, 2], latency=None))
    assert [each.latency_ratio() for each in comparison.standings("units=3")] == [0.5, None]


def test_a_comparison_comes_back_from_json(make, make_row):
    failure = Failure(method="taylor", budget="units=1", seed=0, reason="no labels")
    healed = make_row("good", [1, 2, 3], before=[5, 6, 7], removed=(0, 2))
    comparison = make(healed, make_row("bad", [1, 2, 5], before=[4, 3, 2]), failures=(failure,))
    text = json.dumps(comparison.as_json())
    assert Comparison.from_json(json.loads(text)) == comparison
    assert json.loads(text)["standings"]["units=3"][0]["method"] == "good"
    assert json.loads(text)["standings_before_healing"]["units=3"][0]["method"] == "bad"
    assert json.loads(text)["standings"]["units=1"] == []


def test_a_file_that_holds_the_losses_after_healing_alone_is_still_read(make, make_row):
    comparison = make(
        make_row("good", [1, 2, 3], before=[5, 6, 7]), make_row("bad", [2, 3, 5], before=[7, 8, 9])
    )
    fields = json.loads(json.dumps(comparison.as_json()))
    for row in fields["rows"]:
        del row["unhealed_losses"]
    found = Comparison.from_json(fields)
    assert found.standings("units=3") == tuple(
        replace(each, rows=tuple(replace(row, unhealed_losses=()) for row in each.rows))
        for each in comparison.standings("units=3")
    )
    bad = found.standings("units=3", healed=False)[1]
    assert (bad.difference, bad.error) == (2, None)


@pytest.mark.parametrize("fields", [{}, {"version": 99}])
def test_a_comparison_of_another_version_is_refused(fields):
    with pytest.raises(DataError, match=r"a comparison of version (None|99): this shoal reads version 1"):
        Comparison.from_json(fields)


def test_a_budget_that_was_not_compared_is_refused(make, make_row):
    with pytest.raises(DataError, match=r"the budget 'macs=0.5' of a comparison: it has units=3"):
        make(make_row("good", [1, 1, 1])).standings("macs=0.5")
