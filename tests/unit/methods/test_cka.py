from dataclasses import replace

import pytest
import torch
from torch import nn

from by_hand import arriving, next_unit, request_for
from networks import NETWORKS
from shoal import Budget, Plan, apply, find_units
from shoal.calling import call
from shoal.errors import BudgetError, ConfigError, UnitError
from shoal.importance import ChangeSettings, RepresentationChange
from shoal.journal import Journal
from shoal.measurement import count_macs, count_params
from shoal.methods import Request, get, settings_for
from shoal.methods.cka import PAPER, CKASettings, choose
from shoal.similarity import linear_cka, unbiased_linear_cka
from shoal.tables import LatencyTable

BUDGETS = ["units=6", "units=0.7", "params=0.8", "macs=0.6", "macs=1M"]


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


# What is chosen.


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("reference", ["original", "current"])
def test_every_budget_is_met(ask_images, budget, reference):
    request = ask_images(budget)
    plan = choose(request, CKASettings(reference=reference))
    check_meets(request, plan)
    assert plan.method == "cka"
    assert sorted(plan.predicted["order"]) == list(plan.removed)
    assert Plan.from_json(plan.to_json()) == plan
    assert request.shallower is None


@pytest.mark.parametrize("reference", ["original", "current"])
@pytest.mark.parametrize(("estimator", "cka"), [("biased", linear_cka), ("unbiased", unbiased_linear_cka)])
def test_in_every_round_the_unit_goes_that_changes_the_features_least(ask_images, reference, estimator, cka):
    request = ask_images("units=4")
    model, chain, batches = request.model, request.chain, request.batches
    settings = CKASettings(similarity=ChangeSettings(estimator=estimator), reference=reference)
    plan = choose(request, settings)
    gone, changes = [], []
    for _ in range(5):
        kept = arriving(model, chain, batches, gone if reference == "current" else ())
        unit, change = next_unit(model, chain, batches, gone, kept, cka)
        gone.append(unit)
        changes.append(change)
    assert plan.predicted["order"] == gone
    assert plan.predicted["changes"] == pytest.approx(changes, abs=1e-6)


def test_a_change_counts_for_what_is_saved_unless_it_shall_not(ask_images):
    request = ask_images("latency=0.8999")
    change = RepresentationChange(request.model, request.chain, request.batches)
    free = request.chain.removable
    alone = dict(zip(free, change.of([(unit,) for unit in free]), strict=True))
    least = min(alone, key=alone.get)
    times = [1.0 if index == least else 1000.0 for index in range(9)]
    request.latency = LatencyTable(units=tuple(times), whole=10_000.0)
    first = {
        per_saving: choose(request, CKASettings(per_saving=per_saving)).predicted["order"][0]
        for per_saving in (True, False)
    }
    del alone[least]
    assert first == {True: min(alone, key=alone.get), False: least}


def test_what_a_unit_adds_to_the_change_counts_for_what_it_saves(ask_images):
    request = ask_images("latency=0.1")
    free, times = request.chain.removable, [9.0, 5.0, 1.0, 2.0, 2.0, 1.0, 8.0, 1.0, 5.0]
    request.latency = LatencyTable(units=tuple(times), whole=sum(times[unit] for unit in free) / 0.9)
    change = RepresentationChange(request.model, request.chain, request.batches)
    gone = []
    while len(gone) < len(free):
        rest = [unit for unit in free if unit not in gone]
        now, *then = change.of([gone, *([*gone, unit] for unit in rest)])
        added = {unit: each - now for unit, each in zip(rest, then, strict=True)}
        rates = {unit: cost / times[unit] if cost > 0 else cost for unit, cost in added.items()}
        gone.append(min(rates, key=rates.get))
    assert choose(request, CKASettings()).predicted["order"] == gone


def test_of_equal_changes_the_first_unit_goes():
    layers = [nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()) for _ in range(4)]
    for layer in layers:
        layer[0].weight.data = torch.eye(4)
    model = nn.Sequential(*layers, nn.Linear(4, 2))
    x = torch.rand(8, 4)
    chain = find_units(model, x[:1])
    request = Request(
        model=model, chain=chain, batches=[x], example=x[:1], budget=Budget.parse(f"units={len(chain) - 2}")
    )
    assert choose(request, CKASettings()).predicted["order"] == [0, 1]


def test_several_units_may_go_in_a_round(ask_images):
    request = ask_images("units=4")
    plan = choose(request, CKASettings(reference="current", per_round=3))
    change = RepresentationChange(request.model, request.chain, request.batches)
    free = request.chain.removable
    alone = dict(zip(free, change.of([(unit,) for unit in free]), strict=True))
    first = sorted(alone, key=alone.get)[:3]
    rest = [unit for unit in free if unit not in first]
    then = dict(zip(rest, change.of([(*first, unit) for unit in rest], reference=first), strict=True))
    assert plan.predicted["order"] == [*first, *sorted(then, key=then.get)[:2]]


@pytest.mark.parametrize("order", [[1, 0], [0, 1]])
def test_neither_the_order_of_batches_nor_of_samples_changes_the_choice(ask_images, order):
    request = ask_images("units=4")
    plan = choose(request, CKASettings())
    other = [tuple(part.flip(0) for part in request.batches[at]) for at in order]
    assert (
        choose(ask_images("units=4", batches=other), CKASettings()).predicted["order"]
        == plan.predicted["order"]
    )


@pytest.mark.parametrize("name", ["vit", "inverted", "attributes", "branches", "tuples", "vgg", "bottleneck"])
def test_networks_of_many_makes_are_made_shallower(name):
    model, x = NETWORKS[name]()
    batch = {"x": torch.randn(8, 5, 16), "mask": torch.ones(8, 5, dtype=torch.long)}
    request = request_for(model, [batch if name == "tuples" else torch.randn(8, *x.shape[1:])], removing=2)
    plan = choose(request, CKASettings())
    assert len(plan.removed) == 2
    with torch.no_grad():
        call(apply(model, plan), request.example)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_language_models_are_made_shallower(small_llama, dtype):
    batches = [{"input_ids": torch.randint(0, 64, (4, 12))} for _ in range(2)]
    request = request_for(small_llama.to(dtype), batches, removing=2)
    assert apply(request.model, choose(request, CKASettings())).config.num_hidden_layers == 3


def test_encoders_are_made_shallower():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, vocab_size=32
    )
    batches = [{"input_ids": torch.randint(0, 32, (4, 8))}]
    request = request_for(transformers.BertModel(config).eval(), batches, removing=2)
    assert apply(request.model, choose(request, CKASettings())).config.num_hidden_layers == 2


# What has to stay.


@pytest.mark.parametrize("floor", [0, 1, 2, 3])
@pytest.mark.parametrize("protect_first", [0, 1, 2])
@pytest.mark.parametrize("per_round", [1, 2])
def test_floor_and_protection_are_honoured_to_the_last_unit(ask_images, floor, protect_first, per_round):
    settings = CKASettings(floor=floor, protect_first=protect_first, per_round=per_round)
    request = ask_images()
    free = [index for index in request.chain.removable if index >= protect_first]
    stages = request.chain.groups.values()
    most = sum(min(len(set(stage) & set(free)), len(stage) - floor) for stage in stages)
    if most:
        plan = choose(ask_images(f"units={9 - most}"), settings)
        assert len(plan.removed) == most
        assert all(len(set(stage) - set(plan.removed)) >= floor for stage in stages)
        assert not any(index < protect_first for index in plan.removed)
    with pytest.raises(BudgetError, match=f"the least that can be asked for is units={9 - most}"):
        choose(ask_images(f"units={8 - most}"), settings)


def test_units_that_save_little_go_only_as_long_as_enough_can_still_be_saved(ask_images):
    """In every stage only some may go: all that may must be the dearest ones."""
    request = ask_images("latency=0.5")
    times = [9.0, 1.0, 2.0, 1.0, 4.0, 3.0, 1.0, 1.0, 5.0]
    settings = CKASettings(floor=2)
    most = sum(
        max(times[index] for index in stage if index in request.chain.removable)
        for stage in request.chain.groups.values()
    )
    request.latency = LatencyTable(units=tuple(times), whole=2 * most)
    assert choose(request, settings).removed == (0, 4, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (CKASettings(), "with one unit kept"),
        (CKASettings(floor=2), "with 2 units of every stage kept"),
        (PAPER, "with 2 units of every stage and the first 1 kept"),
        (CKASettings(protect_last=1), "with one unit and the last 1 kept"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_with_the_floor(ask_images, settings, words):
    with pytest.raises(BudgetError, match=f"asked for macs=0.01: {words} macs=0.\\d+ remain; the least"):
        choose(ask_images("macs=0.01"), settings)


def test_one_layer_of_a_language_model_stays(small_llama):
    batches = [{"input_ids": torch.randint(0, 64, (4, 12))}]
    assert len(choose(request_for(small_llama, batches, removing=4), CKASettings()).removed) == 4
    request = replace(request_for(small_llama, batches, removing=4), budget=Budget.parse("units=0.1"))
    with pytest.raises(BudgetError, match="with one unit kept units=0.2 remain"):
        choose(request, CKASettings())


def test_a_network_that_is_protected_as_a_whole_is_refused(ask_images):
    with pytest.raises(UnitError, match="with the first 9 and the last 0 of 9"):
        choose(ask_images(), CKASettings(protect_first=9))


@pytest.mark.parametrize("settings", [CKASettings(), PAPER])
@pytest.mark.parametrize("budget", ["units=9", "units=1.0", "macs=1.0"])
def test_a_budget_that_the_network_meets_removes_nothing(ask_images, settings, budget):
    request = ask_images(budget)
    plan = choose(request, settings)
    assert (plan.removed, plan.predicted["order"], request.shallower) == ((), [], None)


@pytest.mark.parametrize("settings", [CKASettings(), CKASettings(reference="current", per_round=2)])
def test_what_was_compared_before_an_interruption_is_not_compared_again(
    tmp_path, ask_images, settings, monkeypatch
):
    path = tmp_path / "journal.jsonl"
    first, size = choose(ask_images(journal=Journal(path)), settings), path.stat().st_size
    monkeypatch.setattr(RepresentationChange, "_measure", None)
    assert choose(ask_images(journal=Journal(path)), settings) == first
    assert path.stat().st_size == size


# Settings.


def test_the_paper_s_preset_is_as_published():
    paper = settings_for(get("cka"), None, "paper")
    assert paper == PAPER
    assert (paper.similarity.estimator, paper.reference, paper.per_round) == ("biased", "current", 1)
    assert (paper.floor, paper.protect_first, paper.per_saving) == (2, 1, False)
    assert (paper.heal.epochs, paper.heal.optimizer, paper.heal.lr, paper.heal.distil) == (
        200,
        "sgd",
        0.01,
        0,
    )


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"per_round": 0}, "asked for per_round=0: numbers from 1 upwards work"),
        ({"floor": -1}, "asked for floor=-1: numbers from 0 upwards work"),
        ({"protect_first": -1}, "protect_first=-1 and protect_last=0"),
        ({"reference": "first"}, "reference: input should be 'original' or 'current'"),
        ({"similarity": {"tokens": 3}}, "unbiased CKA with tokens=3"),
        ({"heal": {"distil": 2}}, "distil=2"),
    ],
)
def test_settings_that_do_not_work_are_refused(settings, match):
    with pytest.raises(ConfigError, match=match):
        settings_for(get("cka"), settings)
