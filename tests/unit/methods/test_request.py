from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from networks import NETWORKS
from shoal import Budget, find_units
from shoal.errors import BudgetError, DataError
from shoal.importance import EvidenceSettings, GraftSettings
from shoal.importance import evidence as passes
from shoal.journal import Journal
from shoal.methods import Request
from shoal.similarity import SimilaritySettings


@pytest.fixture
def ask(small_resnet):
    chain = find_units(small_resnet, torch.zeros(1, 3, 8, 8))
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,)))]

    def make(budget="units=7", **fields):
        known = {
            "model": small_resnet,
            "chain": chain,
            "batches": batches,
            "example": torch.zeros(1, 3, 8, 8),
        }
        return Request(**(known | {"budget": Budget.parse(budget)} | fields))

    return make


@pytest.fixture
def collected(monkeypatch):
    """How often a pass was begun."""
    begun, begin = [], passes.EvidenceSums

    def counted(*args):
        begun.append(1)
        return begin(*args)

    monkeypatch.setattr(passes, "EvidenceSums", counted)
    return begun


def test_evidence_is_collected_once_and_again_only_for_other_settings(ask, collected):
    request = ask()
    first = request.collect()
    assert request.collect() is first
    assert request.collect(EvidenceSettings(gradients=False)) is first
    biased = EvidenceSettings(similarity=SimilaritySettings(estimator="biased"), gradients=False)
    second = request.collect(biased)
    assert second is not first
    assert request.collect(biased) is second
    assert len(collected) == 2
    assert "drop_estimate" in request.collect(EvidenceSettings(similarity=biased.similarity)).importance


def test_evidence_that_is_given_is_used(ask, collected):
    evidence = ask().collect()
    collected.clear()
    assert ask(evidence=evidence).collect() is evidence
    assert collected == []


def test_measured_and_grafted_scores_are_kept_in_the_journal(tmp_path, ask):
    path, subsets = tmp_path / "journal.jsonl", [(0,), (1, 2)]
    first = ask(journal=Journal(path))
    loss, scores = first.losses([1]), first.grafts(subsets, GraftSettings(batches=1))
    again = ask(journal=Journal(path))
    size = path.stat().st_size
    assert again.key == first.key != ""
    assert again.losses([1]) == loss
    assert again.losses.measured == 0
    assert again.grafts(subsets, GraftSettings(batches=1)) == scores
    assert path.stat().st_size == size
    assert again.grafts(subsets, GraftSettings(batches=1, seed=4)) != scores


@pytest.mark.parametrize("what", ["weights", "labels", "inputs", "batches"])
def test_other_weights_or_data_have_another_key(tmp_path, ask, what):
    request = ask(journal=Journal(tmp_path / "journal.jsonl"))
    (x, y), model = request.batches[0], deepcopy(request.model)
    changed = {"batches": request.batches, "model": model}
    if what == "weights":
        model.conv1.weight.data[0, 0, 0, 0] += 1
    elif what == "batches":
        changed["batches"] = [(x, y), (x, y)]
    else:
        changed["batches"] = [(x + (what == "inputs"), (y + (what == "labels")) % 10)]
    other = ask(journal=request.journal, **changed)
    assert other.key != request.key
    assert ask(journal=request.journal, model=deepcopy(request.model)).key == request.key


@pytest.mark.parametrize(
    ("budget", "first", "need"), [("units=7", 1.0, 2.0), ("units=9", 1.0, 0.0), ("macs=1.0", 294912.0, 0.0)]
)
def test_savings_are_in_the_budget_s_quantity(ask, budget, first, need):
    savings, found = ask(budget).savings()
    assert (savings[0], found) == (first, need)


def test_savings_of_latency_are_the_measured_seconds_of_units(ask):
    request = ask("latency=0.9")
    savings, need = request.savings()
    assert savings == request.latency.units
    assert need == pytest.approx(0.1 * request.latency.whole)
    plan = request.plan([1], method="m", settings={}, predicted={"loss": 1.5})
    assert plan.predicted["latency"] == pytest.approx(request.latency.whole - savings[1])
    assert plan.predicted["loss"] == 1.5


def test_an_impossible_budget_is_refused(ask):
    with pytest.raises(BudgetError, match="asked for units=1: .* the least that can be asked for is units=2"):
        ask("units=1").savings()


@pytest.mark.parametrize(
    "name", ["skip_loss", "graft", "drop_estimate", "block_influence", "taylor", "magnitude"]
)
def test_scores_are_had_by_name(ask, name):
    scores = ask().scores(name)
    assert len(scores) == 9
    assert all(isinstance(score, float) for score in scores)


def test_a_backward_pass_is_made_just_for_scores_that_need_one(ask, collected):
    request = ask()
    request.scores("magnitude")
    assert collected == []
    request.scores("block_influence")
    assert "taylor" not in request.evidence.importance
    request.scores("taylor")
    request.scores("block_influence")
    assert "taylor" in request.evidence.importance
    assert len(collected) == 2


def test_a_score_that_is_not_there_is_refused(ask):
    with pytest.raises(
        DataError, match="by 'drop_estimate': .* in the evidence, block_influence, angular_distance"
    ):
        ask(batches=[torch.randn(8, 3, 8, 8)]).scores("drop_estimate")


def test_the_journal_tells_the_units_of_two_granularities_apart(tmp_path):
    model, example = NETWORKS["vit"]()
    keys = {
        Request(
            model=model,
            chain=find_units(model, example, granularity=granularity),
            batches=[example],
            example=example,
            budget=Budget.parse("units=1"),
            journal=Journal(tmp_path / granularity),
        ).key
        for granularity in ("block", "sublayer")
    }
    assert len(keys) == 2


def double(outputs, labels):
    return 2 * (outputs - labels).abs().mean()


def scaled_by(scale):
    return lambda outputs, labels: scale * outputs.mean()


def test_a_journal_tells_networks_units_data_and_losses_apart():
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
    other = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)])
    other.load_state_dict(model.state_dict())
    x = torch.ones(2, 4)
    chain = find_units(model, x)
    request = Request(model=model, chain=chain, batches=[x], example=x, budget=Budget.parse("units=2"))
    known = replace(request, batches=[x.clone()])
    assert known.key == request.key != ""
    scaled = [partial(double, labels=0), partial(double, labels=1)]
    nested = [scaled_by(1), scaled_by(2)]
    changes = [
        {"model": other},
        {"chain": replace(chain, units=chain.units[:2])},
        {"batches": [x + 1]},
        {"loss": double},
        {"loss": lambda outputs, labels: outputs.mean()},
        {"loss": lambda outputs, labels: 10 * outputs.mean()},
        *[{"loss": loss} for loss in (*scaled, *nested)],
    ]
    found = [replace(request, **change).key for change in changes]
    assert len({request.key, *found}) == 1 + len(changes)


def test_the_key_is_the_same_for_the_same_loss():
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
    x = torch.ones(2, 4)
    request = Request(
        model=model, chain=find_units(model, x), batches=[x], example=x, budget=Budget.parse("units=2")
    )
    made = [replace(request, loss=loss).key for loss in (double, double, partial(double), partial(double))]
    assert made[0] == made[1]
    assert made[2] == made[3]


@pytest.mark.parametrize("budget", ["latency=0.1", "latency=1ms"])
@pytest.mark.parametrize("share", [0.1261, 0.474, 0.5, 0.973, 1.0, 1.2])
def test_the_budget_that_is_advised_is_one_that_the_fastest_network_meets(ask_images, budget, share):
    advised = ask_images(budget).attainable(share, 0.020)
    assert advised.relative is ("ms" not in budget)
    # Nothing above the whole network's time can be asked for.
    assert min(share, 1.0) * 0.020 <= advised.allowance(0.020) <= 1.04 * share * 0.020
    assert Budget.parse(str(advised)) == advised
