from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy

from shoal import Plan, apply
from shoal.architectures import bypassed
from shoal.errors import BudgetError, ConfigError, DataError, UnitError
from shoal.journal import Journal
from shoal.methods.sleb import METHOD, PAPER, SLEBSettings, choose

DEFAULT = METHOD.presets["default"]
EXACT = SLEBSettings(lazy=None)


def naive_loss(request, units):
    """The loss of the whole network with these units bypassed, all computed anew."""
    ids = torch.cat([batch["input_ids"] for batch in request.batches])
    with torch.no_grad(), bypassed(request.model, request.chain, units):
        logits = request.model(input_ids=ids).logits
    return cross_entropy(logits[:, :-1].double().transpose(1, 2), ids[:, 1:]).item()


def naive_search(request, count, free):
    removed = []
    while len(removed) < count:
        rest = [index for index in free if index not in removed]
        removed.append(min(rest, key=lambda index: naive_loss(request, [*removed, index])))
    return removed


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("settings", "free"), [(EXACT, range(5)), (SLEBSettings(lazy=0.0), range(5)), (PAPER, range(1, 4))]
)
def test_the_search_equals_one_that_computes_everything_anew(ask_text, settings, free, count):
    request = ask_text(f"units={5 - count}")
    plan = choose(request, settings)
    expected = naive_search(request, count, free)
    assert plan.predicted["order"] == expected
    assert plan.removed == tuple(sorted(expected))
    assert Plan.from_json(plan.to_json()) == plan


def test_what_is_measured_equals_what_is_computed_anew(ask_text):
    request = ask_text("units=2")
    plan = choose(request, EXACT)
    order = plan.predicted["order"]
    for done in range(len(order)):
        rest = [index for index in range(5) if index not in order[:done]]
        for index in rest:
            units = (*order[:done], index)
            assert request.losses(units) == pytest.approx(naive_loss(request, units), abs=1e-6)
    assert plan.predicted["loss"] == pytest.approx(naive_loss(request, plan.removed), abs=1e-6)
    assert plan.predicted["loss_before"] == pytest.approx(naive_loss(request, []), abs=1e-6)


@pytest.mark.parametrize("settings", [DEFAULT, EXACT, PAPER])
def test_the_first_to_go_is_the_one_of_least_single_loss(ask_text, settings):
    request = ask_text("units=4")
    alone = request.losses.units()
    free = range(settings.protect_first, 5 - settings.protect_last)
    assert choose(request, settings).removed == (min(free, key=alone.__getitem__),)


def test_a_bypass_equals_a_deletion_for_each_layer(ask_text):
    request = ask_text()
    batch = request.batches[0]
    for index in request.chain.removable:
        small = apply(request.model, Plan.removing(request.chain, [index]))
        with torch.no_grad(), bypassed(request.model, request.chain, [index]):
            torch.testing.assert_close(
                small(**batch).logits, request.model(**batch).logits, atol=1e-4, rtol=0
            )


def test_fewer_losses_are_measured_where_a_share_of_the_last_cost_is_trusted(ask_images):
    measured = [
        choose(ask_images("units=4"), SLEBSettings(lazy=lazy)).predicted["measured"]
        for lazy in (None, 0.0, 0.5, 1.0)
    ]
    assert measured[0] == 7 + 6 + 5 + 4 + 3
    assert all(more >= fewer for more, fewer in pairwise(measured))


@pytest.mark.parametrize("budget", ["units=0.7", "params=0.8", "macs=0.7"])
@pytest.mark.parametrize("settings", [DEFAULT, PAPER])
def test_every_budget_is_met(ask_images, budget, settings):
    request = ask_images(budget)
    plan = choose(request, settings)
    whole = {"units": 9, "params": request.chain.params, "macs": request.chain.macs}
    quantity = request.budget.quantity
    assert plan.predicted[quantity] <= request.budget.allowance(whole[quantity])


def test_an_interrupted_choice_goes_on_without_measuring_again(tmp_path, ask_text):
    first = choose(ask_text(journal=Journal(tmp_path / "journal.jsonl")), DEFAULT)
    again = ask_text(journal=Journal(tmp_path / "journal.jsonl"))
    assert choose(again, DEFAULT) == first
    assert again.losses.measured == 0


def test_the_first_and_the_last_unit_stay_just_where_they_are_protected(ask_text):
    assert set(choose(ask_text("units=2"), PAPER).removed) == {1, 2, 3}
    assert len(choose(ask_text("units=0.2"), EXACT).removed) == 4
    with pytest.raises(BudgetError, match="with protect_first=1 and protect_last=1, "):
        choose(ask_text("units=1"), PAPER)
    with pytest.raises(UnitError, match="Protect fewer"):
        choose(ask_text(), SLEBSettings(protect_first=5))


def test_data_that_says_nothing_is_refused(ask_images):
    x = torch.randn(4, 3, 8, 8)
    with pytest.raises(DataError, match="no labels and the model is no language model"):
        choose(ask_images(batches=[x]), DEFAULT)
    endless = ask_images(batches=[x], loss=lambda out, labels: out.square().mean() * torch.inf)
    with pytest.raises(DataError, match="that of the whole network, which is inf"):
        choose(endless, DEFAULT)


@pytest.mark.parametrize("lazy", [-0.1, 1.5])
def test_settings_that_do_not_work_are_refused(lazy):
    with pytest.raises(ConfigError, match=f"lazy={lazy}: a share from 0 to 1, or None, works"):
        SLEBSettings(lazy=lazy)
    with pytest.raises(ConfigError, match="protect_last=-1"):
        SLEBSettings(protect_last=-1)


def test_a_budget_that_the_network_meets_measures_nothing(ask_text):
    request = ask_text("units=5")
    assert choose(request, DEFAULT).removed == ()
    assert request.losses.measured == 0
