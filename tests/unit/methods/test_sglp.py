from contextlib import suppress
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import nn

from shoal import Budget, Plan, apply, find_units
from shoal.errors import BudgetError, ConfigError, DataError
from shoal.importance import GraftSettings
from shoal.journal import Journal
from shoal.measurement import count_macs, count_params
from shoal.methods import Request
from shoal.methods.sglp import PAPER, SGLPSettings, choose
from shoal.planners import cheapest_removal
from shoal.tables import ImportanceTable
from shoal.units import Segment

EXAMPLE = torch.zeros(1, 3, 8, 8)
BUDGETS = ["units=6", "units=0.7", "params=0.8", "macs=0.6", "macs=1M"]
PER_SEGMENT = SGLPSettings(selection="per_segment", segments=2, importance="drop_estimate")


def text():
    return [{"input_ids": torch.randint(0, 64, (4, 12))} for _ in range(2)]


@pytest.fixture
def ask(small_resnet):
    chain = find_units(small_resnet, EXAMPLE)
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))) for _ in range(2)]

    def make(budget="units=6", **fields):
        known = {"model": small_resnet, "chain": chain, "batches": batches, "example": EXAMPLE}
        return Request(**(known | {"budget": Budget.parse(budget)} | fields))

    return make


@pytest.fixture
def ask_llama(small_llama):
    chain, batches = find_units(small_llama), text()

    def make(budget="units=3", **fields):
        known = {"model": small_llama, "chain": chain, "batches": batches, "example": batches[0]}
        return Request(**(known | {"budget": Budget.parse(budget)} | fields))

    return make


def spared(plan):
    """Whether every reported segment keeps a unit."""
    return all(set(range(*segment)) - set(plan.removed) for segment in plan.predicted["segments"])


def check_meets(request, plan):
    small = apply(request.model, plan)
    sizes = {
        "units": (len(request.chain), len(request.chain) - len(plan.removed)),
        "params": (count_params(request.model), count_params(small)),
        "macs": (request.chain.macs, count_macs(small, request.example).total),
    }
    before, after = sizes[request.budget.quantity]
    assert after <= request.budget.allowance(before)
    assert plan.predicted[request.budget.quantity] == after


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_default_meets_every_budget_and_keeps_a_unit_in_each_segment(ask, budget):
    request = ask(budget)
    plan = choose(request, SGLPSettings())
    check_meets(request, plan)
    assert spared(plan)
    segments = [Segment(*ends) for ends in plan.predicted["segments"]]
    assert tuple(segments) == request.evidence.segments(len(segments))
    assert len(plan.predicted["segmentation_losses"]) == len(request.chain)
    assert plan.method == "sglp"
    assert Plan.from_json(plan.to_json()) == plan


def test_the_default_is_as_good_as_every_plan_by_its_tables_and_divisions(ask):
    request = ask("units=5")
    plan = choose(request, SGLPSettings())
    goal, evidence, losses = request.savings(), request.collect(), request.losses
    opinions = ["drop_estimate", "block_influence", "mean_abs_saving"]
    scores = [losses.units(), *(evidence.importance[name].tolist() for name in opinions)]
    tables = [losses.runs(2), *(ImportanceTable.additive(each, request.chain.removable) for each in scores)]
    proposed = set()
    for table, k in product(tables, range(1, 7)):
        with suppress(BudgetError):
            proposed.add(cheapest_removal(table, *goal, length=9, segments=evidence.segments(k)).removed)
    assert plan.predicted["measured_candidates"] == len(proposed) > 3
    assert plan.predicted["loss_before_exchanges"] == min(losses.of(list(proposed)))
    assert plan.predicted["loss"] == losses(plan.removed) <= plan.predicted["loss_before_exchanges"]
    assert plan.predicted["loss_before"] == losses()


def test_exchanges_end_where_no_exchange_within_the_segments_is_better(ask):
    request = ask("units=6")
    plan = choose(request, SGLPSettings(exchanges=10_000))
    cuts = [set(range(*ends)) for ends in plan.predicted["segments"]]
    near = [
        units
        for units in combinations(request.chain.removable, len(plan.removed))
        if len(set(units) & set(plan.removed)) == len(plan.removed) - 1
        and all(cut - set(units) for cut in cuts)
    ]
    assert plan.predicted["loss"] <= min(request.losses.of(near))


def test_without_exchanges_none_are_measured(ask):
    plan = choose(ask(), SGLPSettings(exchanges=0))
    assert plan.predicted["measured_exchanges"] == 0
    assert plan.predicted["loss"] == plan.predicted["loss_before_exchanges"]


@pytest.mark.parametrize("segments", [1, 2, 4, "penalised", "bic", "released", "joint"])
@pytest.mark.parametrize("partition", ["matrix", "row_sums"])
@pytest.mark.parametrize("backtracking", ["exact", "released"])
def test_every_way_to_segment_gives_a_plan(ask, segments, partition, backtracking):
    settings = SGLPSettings(segments=segments, partition=partition, backtracking=backtracking, exchanges=4)
    request = ask()
    plan = choose(request, settings)
    check_meets(request, plan)
    assert spared(plan)
    if isinstance(segments, int):
        assert len(plan.predicted["segments"]) == segments


@pytest.mark.parametrize("importance", ["drop_estimate", "block_influence", "graft", "gradnorm"])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_runs_by_a_score_measure_no_losses(ask, importance, weight):
    request = ask()
    settings = SGLPSettings(importance=importance, similarity_weight=weight, graft=GraftSettings(batches=1))
    check_meets(request, choose(request, settings))
    assert request.losses.measured == 0


def test_the_weight_of_similarity_counts_for_each_run(ask):
    request = ask()
    plan = choose(request, SGLPSettings(importance="drop_estimate", segments=1, similarity_weight=1e6))
    evidence, length = request.collect(), len(request.chain)
    costs = {
        units: sum(1 - evidence.boundary_similarity[run.start, run.stop] for run in Segment.runs(units))
        for units in combinations(request.chain.removable, 3)
    }
    assert length == 9
    assert costs[plan.removed] == pytest.approx(min(costs.values()), abs=1e-4)


@pytest.mark.parametrize("importance", ["drop_estimate", "skip_loss", "block_influence", "graft"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_share_of_each_segment_is_kept_and_budgets_are_met(ask, importance, budget):
    request = ask(budget)
    plan = choose(request, replace(PER_SEGMENT, importance=importance, graft=GraftSettings(batches=1)))
    check_meets(request, plan)
    assert spared(plan)


def test_in_each_segment_the_units_of_highest_importance_stay(ask):
    request = ask("units=6")
    plan = choose(request, PER_SEGMENT)
    scores = request.collect().importance["drop_estimate"]
    for ends in plan.predicted["segments"]:
        free = [index for index in range(*ends) if index in request.chain.removable]
        gone = [scores[index] for index in free if index in plan.removed]
        kept = [scores[index] for index in free if index not in plan.removed]
        assert not gone or not kept or max(gone) <= min(kept)


def test_counts_by_hand_are_kept_to(ask):
    request = ask("units=5")
    first, second = request.collect().segments(2)
    counts = (len(first) - 2, len(second) - 2)
    settings = replace(PER_SEGMENT, segments="penalised", counts=counts)
    plan = choose(request, settings)
    assert [sum(index not in plan.removed for index in segment) for segment in (first, second)] == list(
        counts
    )
    with pytest.raises(BudgetError, match="kept in the 2 segments"):
        choose(ask("units=4"), settings)


def test_the_papers_preset_works_on_images(ask):
    request = ask("units=6")
    plan = choose(request, PAPER)
    check_meets(request, plan)
    assert spared(plan)
    assert plan.settings["importance"] == "graft"
    assert request.losses.measured == 0


@pytest.mark.parametrize("budget", ["units=4", "units=2", "params=0.7"])
def test_the_papers_preset_works_on_text(ask_llama, budget):
    request = ask_llama(budget)
    plan = choose(request, PAPER)
    check_meets(request, plan)
    assert spared(plan)


@pytest.mark.parametrize("settings", [PAPER, replace(PAPER, selection="runs"), SGLPSettings(segments="bic")])
def test_a_rule_makes_fewer_segments_where_the_budget_leaves_no_room_for_more(ask_llama, settings):
    plan = choose(ask_llama("units=1"), settings)
    assert len(plan.removed) == 4
    assert plan.predicted["segments"] == [[0, 5]]


@pytest.mark.parametrize("settings", [replace(PAPER, segments=2), SGLPSettings(segments=2)])
def test_a_number_of_segments_is_kept_to(ask_llama, settings):
    assert len(choose(ask_llama("units=2"), settings).predicted["segments"]) == 2
    with pytest.raises(BudgetError, match="kept in .* 2 segments"):
        choose(ask_llama("units=1"), settings)


@pytest.mark.parametrize("settings", [SGLPSettings(), PAPER])
@pytest.mark.parametrize("budget", ["units=5", "units=1.0", "macs=1.0"])
def test_a_budget_that_the_network_meets_removes_nothing(ask_llama, settings, budget):
    plan = choose(ask_llama(budget), settings)
    assert plan.removed == ()
    assert plan.predicted["segments"] == []


@pytest.mark.parametrize("settings", [SGLPSettings(), PAPER, PER_SEGMENT])
def test_a_budget_that_cannot_be_met_is_refused(ask, settings):
    with pytest.raises(BudgetError, match="the least that can be asked for is units=2"):
        choose(ask("units=1"), settings)


def test_more_segments_than_units_are_refused(ask):
    with pytest.raises(ConfigError, match="asked for 10 segments of 9 units"):
        choose(ask(), SGLPSettings(segments=10))


def test_a_score_that_is_not_there_is_refused(ask):
    with pytest.raises(DataError, match="by 'beauty': there are skip_loss, graft and, in the evidence"):
        choose(ask(), SGLPSettings(importance="beauty"))


def test_the_default_needs_a_loss(ask):
    with pytest.raises(DataError, match="no labels and the model is no language model"):
        choose(ask(batches=[torch.randn(8, 3, 8, 8)]), SGLPSettings())
    plan = choose(ask(batches=[torch.randn(8, 3, 8, 8)]), SGLPSettings(importance="block_influence"))
    assert len(plan.removed) == 3


@pytest.mark.parametrize("settings", [SGLPSettings(), PAPER])
def test_an_interrupted_choice_goes_on_without_measuring_again(tmp_path, ask, settings):
    path = tmp_path / "journal.jsonl"
    first = choose(ask(journal=Journal(path)), settings)
    size = path.stat().st_size
    again = ask(journal=Journal(path))
    assert choose(again, settings) == first
    assert again.losses.measured == 0
    assert path.stat().st_size == size


class Fragile(nn.Module):
    """Is no number outside of [-1, 1]; but for a first one, which brings everything inside."""

    def __init__(self, first):
        super().__init__()
        self.first, self.linear = first, nn.Linear(4, 4)

    def forward(self, x):
        return (self.linear(x) + (0 if self.first else torch.log1p(-x.abs()))).tanh() / 2


def test_a_unit_without_which_the_loss_is_no_number_stays():
    model = nn.Sequential(nn.Linear(3, 4), *(Fragile(at == 0) for at in range(4)), nn.Linear(4, 2)).eval()
    model[0].weight.data *= 100
    x = torch.randn(8, 3)
    chain = find_units(model, x[:1])
    request = Request(
        model=model,
        chain=chain,
        batches=[(x, torch.randint(0, 2, (8,)))],
        example=x[:1],
        budget=Budget.parse(f"units={len(chain) - 3}"),
    )
    vital = chain["1"].index
    assert [index for index in chain.removable if np.isinf(request.losses.units()[index])] == [vital]
    plan = choose(request, SGLPSettings())
    assert plan.removed == tuple(index for index in chain.removable if index != vital)


def test_a_budget_that_leaves_no_unit_is_refused_in_the_users_words_before_anything_is_measured(ask_llama):
    request = ask_llama("units=0.1")
    with pytest.raises(BudgetError, match=r"asked for units=0.1: with 1 of 5 units kept units=0.2 remain"):
        choose(request, SGLPSettings())
    assert request.evidence is None
