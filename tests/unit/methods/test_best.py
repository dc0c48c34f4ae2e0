from itertools import combinations

import pytest
import torch

from shoal import Budget, apply, find_units
from shoal.errors import BudgetError, ConfigError, DataError
from shoal.importance import SkipLosses
from shoal.journal import Journal
from shoal.measurement import count_macs, count_params
from shoal.methods import Request
from shoal.methods.best import BestSettings, choose

EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def batches():
    return [(torch.randn(4, 3, 8, 8), torch.randint(0, 10, (4,))) for _ in range(8)]


@pytest.fixture
def ask(small_resnet, batches):
    chain = find_units(small_resnet, EXAMPLE)

    def make(budget="units=6", **fields):
        known = {"model": small_resnet, "chain": chain, "batches": batches, "example": EXAMPLE}
        return Request(**(known | {"budget": Budget.parse(budget)} | fields))

    return make


@pytest.mark.parametrize("budget", ["units=6", "units=0.7", "params=0.8", "macs=0.6", "latency=0.9"])
def test_the_plan_meets_the_budget_and_predicts_what_is_left(ask, budget):
    request = ask(budget)
    plan = choose(request, BestSettings(exchanges=8))
    assert plan.method == "best"
    assert plan.predicted["loss"] == request.losses(plan.removed)
    small = apply(request.model, plan)
    if request.budget.quantity == "latency":
        assert plan.predicted["latency"] <= request.budget.allowance(plan.predicted["latency_before"])
        return
    sizes = {
        "units": (len(request.chain), len(request.chain) - len(plan.removed)),
        "params": (count_params(request.model), count_params(small)),
        "macs": (request.chain.macs, count_macs(small, request.example).total),
    }
    before, after = sizes[request.budget.quantity]
    assert after <= request.budget.allowance(before)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_with_all_patience_and_all_data_the_set_of_lowest_loss_is_found(ask, count):
    request = ask(f"units={9 - count}")
    plan = choose(request, BestSettings(exchanges=500, patience=500, held_out=0.0))
    sets = list(combinations(request.chain.removable, count))
    assert plan.predicted["loss"] == min(request.losses.of(sets))


def test_a_network_within_the_budget_is_left_alone_without_measuring(ask):
    request = ask("units=9")
    assert choose(request, BestSettings()).removed == ()
    assert not request.losses.asked


@pytest.mark.parametrize(("held_out", "step"), [(0.25, 4), (0.5, 2), (0.3, 3)])
def test_the_first_search_does_not_see_what_is_held_out(ask, batches, held_out, step):
    request = ask()
    seen = SkipLosses(request.model, request.chain, [b for n, b in enumerate(batches, 1) if n % step])
    plan = choose(request, BestSettings(held_out=held_out))
    alone = f"/without every {step}th batch/loss/"
    of_part = {key: value for key, value in request.journal._values.items() if alone in key}
    assert plan.predicted["measured"] == len(request.losses.asked)
    assert plan.predicted["measured_on_part"] == len(of_part) > 0
    for key, value in of_part.items():
        units = tuple(int(unit) for unit in key.rpartition("/")[2].split(",") if unit)
        assert seen(units) == pytest.approx(value)


def test_of_all_that_is_measured_on_all_data_the_lowest_loss_wins(ask):
    request = ask()
    plan = choose(request, BestSettings(finalists=6))
    assert plan.predicted["loss"] == min(
        request.losses(units) for units in list(request.losses.asked) if len(units) == 3
    )


@pytest.mark.parametrize("finalists", [1, 4])
def test_the_best_of_the_first_search_are_measured_on_all_data(ask, finalists):
    request = ask()
    choose(request, BestSettings(finalists=finalists, exchanges=8))
    of_part = {
        tuple(map(int, key.rpartition("/")[2].split(","))): loss
        for key, loss in request.journal._values.items()
        if "/without every" in key and key.count(",") == 2
    }
    assert request.losses.asked >= set(sorted(of_part, key=of_part.get)[:finalists])


@pytest.mark.parametrize("held_out", [0.0, 0.05])
def test_too_few_batches_to_hold_any_out_are_all_searched_on(ask, held_out):
    request = ask()
    plan = choose(request, BestSettings(held_out=held_out))
    assert plan.predicted["measured_on_part"] == 0


def test_batches_in_another_order_each_time_are_all_searched_on(ask, batches):
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    data = torch.utils.data.TensorDataset(images, labels)
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=generator)
    assert choose(ask(batches=loader), BestSettings(exchanges=8)).predicted["measured_on_part"] == 0


@pytest.mark.parametrize("exchanges", [8, 16])
def test_both_searches_together_measure_no_more_exchanges_than_granted(ask, exchanges):
    plan = choose(ask(), BestSettings(exchanges=exchanges, patience=9))
    assert plan.predicted["measured_exchanges"] <= exchanges


def test_every_part_can_be_left_out(ask):
    request = ask()
    plan = choose(request, BestSettings(longest_run=1, greedy=False, exchanges=0, held_out=0.0))
    alone = request.losses.units()
    assert plan.predicted["measured_exchanges"] == 0
    assert plan.removed == tuple(sorted(sorted(request.chain.removable, key=alone.__getitem__)[:3]))


def test_no_more_is_removed_than_was_asked_even_where_that_would_lower_the_loss(ask):
    request = ask("units=8")
    losses = request.losses
    more = losses.of(list(combinations(request.chain.removable, 2)))
    plan = choose(request, BestSettings(held_out=0.0))
    assert len(plan.removed) == 1
    assert min(more) < plan.predicted["loss"]


def test_an_interrupted_search_goes_on_where_it_was(ask, tmp_path):
    whole = choose(ask(journal=Journal(tmp_path / "a.jsonl")), BestSettings())
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(lines[: len(lines) // 2]))
    request = ask(journal=Journal(tmp_path / "b.jsonl"))
    assert choose(request, BestSettings()) == whole
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == len(lines)


def test_language_models_need_no_labels(small_llama):
    batches = [{"input_ids": torch.randint(0, 64, (2, 12))} for _ in range(4)]
    chain = find_units(small_llama)
    request = Request(
        model=small_llama, chain=chain, batches=batches, example=batches[0], budget=Budget.parse("units=3")
    )
    plan = choose(request, BestSettings(exchanges=100, patience=100, held_out=0.0))
    assert plan.predicted["loss"] == min(request.losses.of(list(combinations(range(5), 2))))


def test_what_cannot_be_had_is_refused(ask):
    with pytest.raises(BudgetError, match="units=2 remain"):
        choose(ask("units=1"), BestSettings())
    with pytest.raises(DataError, match="the batches have no labels"):
        choose(ask(batches=[torch.randn(4, 3, 8, 8)]), BestSettings())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"longest_run": 0, "patience": 0}, "longest_run=0: 1 or more works; patience=0"),
        ({"exchanges": -1}, "exchanges=-1: 0 or more works"),
        ({"finalists": 0}, "finalists=0"),
        ({"lazy": 2.0}, "lazy=2.0"),
        ({"held_out": 0.6}, "held_out=0.6"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        BestSettings(**settings)
