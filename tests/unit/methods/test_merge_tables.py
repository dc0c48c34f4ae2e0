"""What entries cost and lose together: the best choice by the tables against every partition there is."""

from math import inf

import pytest
import torch

from convnets import resnet, vgg
from shoal import make_plan
from shoal.errors import BudgetError
from shoal.importance import MergeLossSettings
from shoal.methods import get, settings_for
from shoal.methods.merge_tables import MergeTables
from shoal.methods.merges import MERGES_ALONE, REMOVALS_ALONE
from shoal.methods.merging_settings import MergeSettings
from shoal.planners import FrontPoint
from shoal.stages import make_request
from shoal.surgery import EntryRules

RULES = {"layermerge": EntryRules(), "layer_only": REMOVALS_ALONE, "depth_merge": MERGES_ALONE}
RECONSTRUCTION = MergeLossSettings(form="reconstruction")


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 4) for _ in range(3)]


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(1)
    return vgg(((6, 6), (6, 6)), classes=4).eval()


def tables_of(net, data, budget="macs=0.8", rules=None, **settings):
    request = make_request(net, data, budget=budget, granularity="layer")
    return MergeTables(request, MergeSettings(**settings), rules or EntryRules())


def choice(tables, *numbers):
    cost = sum(tables.costs[number].total for number in numbers)
    return FrontPoint(cost=cost, loss=0.0, options=numbers)


def as_it_is(tables):
    return [number for number, entry in enumerate(tables.entries) if entry.unchanged]


def partitions(length, entries):
    """Every way to cover the layers with entries, by number."""
    ways = {length: [()]}
    for start in reversed(range(length)):
        ways[start] = [
            (number, *rest)
            for number, entry in entries
            if entry.segment.start == start
            for rest in ways.get(entry.segment.stop, [])
        ]
    return ways[0]


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("share", [0.9, 0.75, 0.6])
def test_the_plan_is_the_best_of_all_partitions_by_the_tables(plain, data, method, share):
    request = make_request(plain, data, budget=f"macs={share}", granularity="layer")
    settings = settings_for(get(method), {"measure": "all", "tolerance": 0.0})
    tables = MergeTables(request, settings, RULES[method])
    tables.losses.of(tables.entries)
    numbered = [(number, tables.entries[number]) for number in tables.useful]
    best = inf
    for way in partitions(len(request.chain), numbered):
        if tables.rest + sum(tables.costs[n].total for n in way) <= tables.allowance:
            best = min(best, sum(tables._loss(n) for n in way))
    if best == inf:
        with pytest.raises(BudgetError, match="the most that merging"):
            tables.best(tables.allowance)
        return
    assert tables.best(tables.allowance).loss == pytest.approx(best)
    exact = {"tolerance": 0.0} | ({"whole_steps": 0} if method == "layermerge" else {})
    needed = make_plan(plain, data, method=method, budget=f"macs={share}", settings=exact)
    assert needed.predicted["added_loss"] == pytest.approx(best)


def test_compressing_judges_entries_on_samples_that_they_were_not_led_back_on(plain, data):
    tables = tables_of(plain, data)
    tables.request.heal_batches = data
    judged, tuned = (
        {float(x.sum()) for x, _ in each} for each in (tables.losses._judged, tables.losses._tuned)
    )
    assert judged
    assert tuned
    assert not judged & tuned


@pytest.mark.parametrize("quantity", ["units", "macs", "params"])
def test_layers_as_they_are_and_what_plans_do_not_change_are_the_network(plain, data, quantity):
    tables = tables_of(plain, data, budget=f"{quantity}=1.0")
    whole, folded = tables.before
    assert len(tables.unchanged) == len(tables.request.chain)
    assert tables.rest + sum(tables.unchanged.values()) == pytest.approx(folded)
    assert tables.allowance == whole
    assert tables.best(whole).loss == 0


def test_the_cheapest_choice_costs_as_little_as_any_partition(plain, data):
    tables = tables_of(plain, data, importance=RECONSTRUCTION)
    numbered = [(number, tables.entries[number]) for number in tables.useful]
    ways = partitions(len(tables.request.chain), numbered)
    least = min(sum(tables.costs[n].total for n in way) for way in ways)
    assert tables.cheapest().cost == pytest.approx(least)


@pytest.mark.parametrize("allowed", [lambda entry: True, lambda entry: entry.unchanged])
def test_fewer_entries_share_what_was_measured_and_leave_the_tables_alone(plain, data, allowed):
    tables = tables_of(plain, data)
    tables.scale = 2.0
    useful = list(tables.useful)
    fewer = tables.only(allowed)
    assert fewer.useful == [number for number in useful if allowed(tables.entries[number])]
    assert (tables.useful, tables.scale, fewer.scale) == (useful, 2.0, 1.0)
    assert fewer.losses is tables.losses


def test_a_choice_that_changes_nothing_folds_a_norm_and_no_more():
    torch.manual_seed(0)
    images = [(torch.randn(4, 3, 32, 32), torch.arange(4) % 4)]
    tables = tables_of(resnet((1, 1), width=4, classes=4).eval(), images)
    (step,) = tables.steps(choice(tables, *as_it_is(tables)))
    assert step.fused
    assert step.kept == tuple(step.segment)
    assert tables.convolutions.layers[step.start].norm


def test_what_tables_leave_out_must_not_break_the_budget(plain, data):
    tables = tables_of(plain, data, budget="params=0.9")
    tables.check({"params": tables.allowance})
    tables.check({"macs": inf})
    with pytest.raises(BudgetError, match=r"params=0\.9, .* Ask for params="):
        tables.check({"params": tables.allowance + 1})


def test_a_count_that_cannot_be_had_names_the_nearest_count(plain, data):
    # No segment goes on behind max pooling.
    tables = tables_of(plain, data, budget="units=1", rules=MERGES_ALONE)
    with pytest.raises(BudgetError, match=r"units=1, 1 of 4: .* leaves 2 .* Ask for units=2 or more"):
        tables.best(tables.allowance)
