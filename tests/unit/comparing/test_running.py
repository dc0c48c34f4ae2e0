"""Methods side by side, on a network of six small blocks."""

from contextlib import contextmanager, nullcontext
from copy import deepcopy

import pytest
import torch

import shoal
from shoal import methods
from shoal.errors import BudgetError, ConfigError, DataError, ShoalWarning
from shoal.measurement import evaluate_quality, evaluate_samples
from shoal.progress import reporting
from shoal.training import HealSettings

HEAL = HealSettings(epochs=1, lr=0.01)


def test_every_method_and_control_has_its_row_or_its_reason(compare):
    comparison = compare()
    told = {row.method for row in comparison.rows} | {each.method for each in comparison.failures}
    assert told == set(methods.names())
    assert all(row.units <= 4 for row in comparison.rows)
    assert {row.method for row in comparison.rows if row.control} >= {"random", "last", "uniform"}


def test_rows_tell_what_each_stage_makes_by_itself(compare, network, data):
    comparison = compare(methods=["sglp", "last"], heal=HEAL, heal_batches=data.train)
    assert [row.method for row in comparison.rows] == ["sglp", "last"]
    for row in comparison.rows:
        plan = shoal.make_plan(network, data.batches, method=row.method, budget="units=4")
        small = shoal.apply(network, plan)
        healed = shoal.heal(small, data.train, teacher=network, plan=plan, settings=HEAL)
        assert row.plan == plan
        assert row.measured.quality == evaluate_quality(small, data.evaluation)
        assert row.healed == evaluate_quality(healed, data.evaluation)
        assert row.losses == pytest.approx(evaluate_samples(healed, data.evaluation).losses.tolist())
        assert row.unhealed_losses == pytest.approx(evaluate_samples(small, data.evaluation).losses.tolist())
        assert (row.measured.params, row.measured.macs) == (
            plan.predicted["params"],
            plan.predicted["macs"],
        )


def test_the_whole_network_is_healed_as_all_others_are(compare, network, data):
    (row,) = compare(methods=["last"], heal=HEAL, heal_batches=data.train).whole
    assert row.measured.quality == evaluate_quality(network, data.evaluation)
    healed = shoal.heal(network, data.train, teacher=network, settings=HEAL)
    assert row.healed == evaluate_quality(healed, data.evaluation)
    assert row.plan.removed == ()


def test_nothing_is_healed_where_that_is_not_asked_for(compare, calls):
    comparison = compare(methods=["last"])
    assert comparison.rows[0].unhealed_losses == ()
    assert comparison.rows[0].healed is comparison.whole[0].healed is None
    assert "heal" not in calls


def test_methods_that_draw_have_a_row_a_seed(compare, network, data):
    comparison = compare(methods=["random", "last"], seeds=(3, 5), heal=HEAL)
    drawn = [row for row in comparison.rows if row.method == "random"]
    assert [row.seed for row in drawn] == [3, 5]
    for row in drawn:
        settings = {"seed": row.seed}
        plan = shoal.make_plan(network, data.batches, method="random", budget="units=4", settings=settings)
        assert row.plan == plan
    assert [row.seed for row in comparison.rows if row.method == "last"] == [3]


def test_others_are_healed_with_as_many_seeds_as_are_asked_for(compare):
    comparison = compare(methods=["last"], heal=HEAL, heal_seeds=2, seeds=3)
    assert [row.seed for row in comparison.rows] == [row.seed for row in comparison.whole] == [0, 1]
    first, second = comparison.rows
    assert first.healed != second.healed
    assert first.measured == second.measured


def test_networks_with_weights_of_their_own_are_never_shared(compare, network):
    rows = compare(methods=["uniform", "scratch"]).rows
    uniform, *scratch = rows
    assert {row.plan.removed for row in rows} == {uniform.plan.removed}
    assert len({row.measured.quality["loss"] for row in rows}) == 3
    assert all(row.own_weights and not row.same_as for row in scratch)


def test_a_method_that_cannot_run_is_listed_and_does_not_stop_the_others(compare, network, data):
    comparison = shoal.compare(
        network,
        [inputs for inputs, _ in data.batches],
        budgets=["units=4", "units=5"],
        evaluation=data.evaluation,
        methods=["last", "sleb", "random"],
        seeds=1,
        latency=False,
    )
    assert [(row.method, row.budget) for row in comparison.rows] == [
        ("last", "units=4"),
        ("random", "units=4"),
        ("last", "units=5"),
        ("random", "units=5"),
    ]
    assert [(each.method, each.budget) for each in comparison.failures] == [
        ("sleb", "units=4"),
        ("sleb", "units=5"),
    ]
    assert "the batches have no labels" in comparison.failures[0].reason


def test_the_first_error_is_raised_where_no_method_can_run(compare):
    with pytest.raises(BudgetError, match=r"params=0\.01"):
        compare(budgets="params=0.01")


def test_each_method_counts_what_it_asked_for_even_if_it_was_known(compare):
    alone = {name: compare(methods=[name]).rows[0].asked for name in ("sglp", "greedy", "last")}
    together = {row.method: row.asked for row in compare(methods=["sglp", "greedy", "last"]).rows}
    assert together == alone
    assert alone["last"] == {}
    assert alone["greedy"]["loss"] > 6
    assert alone["sglp"]["pass"] == 1


def test_a_budget_of_latency_is_met_when_measured(compare, monkeypatch):
    from functools import partial

    from shoal.measurement import LatencySettings, measure_latency, unit_latency

    brief = LatencySettings(max_seconds=0.2)
    monkeypatch.setattr("shoal.methods.timing.measure_latency", partial(measure_latency, settings=brief))
    monkeypatch.setattr("shoal.methods.request.unit_latency", partial(unit_latency, settings=brief))
    row = compare(methods=["last"], budgets="latency=0.9").rows[0]
    facts = row.plan.predicted
    assert facts["latency_measured"] <= 0.9 * facts["latency_before_measured"]


def test_latency_is_measured_in_turns_with_the_whole_network_or_not_at_all(compare):
    row = compare(methods=["last"]).rows[0]
    assert row.latency_ratio == row.measured.latency / row.latency_whole
    assert compare(methods=["last"], latency=False).rows[0].latency_ratio is None


def test_a_budget_that_everything_meets_gives_the_whole_network(compare):
    comparison = compare(methods=["last"], budgets="units=6")
    assert comparison.rows[0].plan.removed == ()
    assert comparison.rows[0].same_as == str(comparison.whole[0]) == "whole, seed 0"


def test_text_is_judged_by_its_tokens(small_llama):
    text, judged = (
        [{"input_ids": torch.randint(0, 64, (2, count))} for count in counts] for counts in ((4, 6), (5, 9))
    )
    comparison = shoal.compare(
        small_llama, text, budgets="units=4", evaluation=judged, methods=["last"], seeds=1, latency=False
    )
    assert comparison.weights == (4, 4, 8, 8)
    (row,) = comparison.rows
    mean = sum(w * x for w, x in zip(comparison.weights, row.losses, strict=True)) / 24
    assert mean == pytest.approx(row.quality["loss"], rel=1e-5)
    assert "perplexity" in row.quality


@pytest.mark.parametrize(
    ("chosen", "trained", "seen"),
    [
        (False, False, None),
        (True, False, "to choose"),
        (False, True, "to heal"),
        (True, True, "to choose and"),
    ],
)
def test_judging_by_what_was_chosen_or_healed_on_is_warned_of(compare, data, chosen, trained, seen):
    def copied(batches):
        return [(inputs.clone(), labels.clone()) for inputs, labels in batches]

    if chosen:
        data.batches[:] = copied(data.evaluation)
    train = copied(data.evaluation) if trained else data.train
    fields = {"methods": ["last"], "heal": HEAL, "heal_batches": train}
    with nullcontext() if seen is None else pytest.warns(ShoalWarning, match=f"same batches as {seen}"):
        compare(**fields)


def test_data_that_nothing_is_healed_on_may_judge(compare, data):
    compare(methods=["last"], heal_batches=data.evaluation)


def test_the_model_and_the_random_state_are_left_as_they_were(compare, network):
    before, state = deepcopy(network.state_dict()), torch.get_rng_state()
    compare(heal=HEAL)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training


def test_progress_says_for_which_row_work_is_done(compare):
    class Reporter:
        def __init__(self):
            self.titles = []

        @contextmanager
        def task(self, title, total):
            self.titles.append(title)
            yield lambda steps: None

    reporter = Reporter()
    with reporting(reporter):
        compare(methods=["sleb"])
    assert reporter.titles[0] == "1 of 2, the whole network: evaluating"
    assert "2 of 2, sleb at units=4: measuring units" in reporter.titles


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"budgets": []}, ConfigError, "asked to compare under no budget"),
        ({"budgets": "layers=3"}, BudgetError, "asked for a budget of 'layers'"),
        ({"methods": ["sgpl"]}, ConfigError, "The nearest is 'sglp'"),
        ({"seeds": 0}, ConfigError, "asked for the seeds"),
        ({"evaluation": []}, DataError, "the data is empty"),
        ({"granularity": "half"}, ConfigError, "granularity 'half'"),
    ],
)
def test_a_wrong_request_is_refused(compare, fields, error, match):
    with pytest.raises(error, match=match):
        compare(**fields)
