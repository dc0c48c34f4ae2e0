"""layermerge, layer_only and depth_merge: what they have in common, and what tells them apart."""

from dataclasses import replace

import pytest
import torch

from convnets import resnet, vgg
from shoal import Plan, compare, compress, find_units, load, make_plan, save, verify
from shoal.architectures.convolutions import find_convolutions
from shoal.budget import Budget
from shoal.errors import BudgetError, ConfigError, DataError
from shoal.journal import Journal
from shoal.measurement import count_macs, count_params, merge_costs
from shoal.measurement.convolutions import ShapeTiming
from shoal.methods import get, names
from shoal.methods.merge_tables import MergeTables
from shoal.methods.merges import MERGES_ALONE, REMOVALS_ALONE, _allows
from shoal.surgery import apply, find_entries
from shoal.training import HealSettings

METHODS = ("layermerge", "layer_only", "depth_merge")


# Merging whole makes kernels larger.
IMPOSSIBLE = {("depth_merge", "macs=0.8"), ("depth_merge", "params=0.9")}


def network():
    torch.manual_seed(0)
    return resnet((2, 1), width=8, classes=4).eval()


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 4) for _ in range(3)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", ["units=5", "macs=0.8", "params=0.9"])
def test_what_is_left_meets_the_budget(net, data, method, budget):
    if (method, budget) in IMPOSSIBLE:
        with pytest.raises(BudgetError, match="Ask for"):
            make_plan(net, data, method=method, budget=budget)
        return
    plan = make_plan(net, data, method=method, budget=budget)
    small, wanted = apply(net, plan), Budget.parse(budget)
    example = data[0][0][:1]
    found = {
        "units": plan.left,
        "macs": count_macs(small, example).total,
        "params": count_params(small),
    }[wanted.quantity]
    before = {"units": 0, "macs": count_macs(net, example).total, "params": count_params(net)}
    assert found <= wanted.allowance(before[wanted.quantity]) + 1
    assert plan.predicted[wanted.quantity] == pytest.approx(found, abs=1)


def test_layer_only_merges_nothing_and_depth_merge_removes_nothing(net, data):
    only = make_plan(net, data, method="layer_only", budget="units=5")
    assert only.removed
    assert all(len(step.segment) == 1 for step in only.merges)
    merged = make_plan(net, data, method="depth_merge", budget="units=6")
    assert merged.removed == ()
    assert any(len(step.kept) > 1 and step.fused for step in merged.merges)


def test_entries_are_measured_only_where_the_best_plan_needs_them(net, data):
    plan = make_plan(net, data, method="layermerge", budget="macs=0.9")
    assert 0 < plan.predicted["entries_measured"] < plan.predicted["entries_worth_it"]


@pytest.mark.parametrize("share", [0.85, 0.7])
def test_with_a_tolerance_the_plan_is_no_further_from_the_best(net, data, share):
    exact, near = (
        make_plan(
            net,
            data,
            method="layermerge",
            budget=f"macs={share}",
            settings={"tolerance": tolerance, "whole_steps": 0},
        ).predicted
        for tolerance in (0.0, 0.05)
    )
    assert exact["added_loss"] <= near["added_loss"] <= exact["added_loss"] + 0.05
    assert near["entries_measured"] <= exact["entries_measured"]


def test_the_special_cases_are_compared_as_whole_networks(net, data):
    plan = make_plan(net, data, method="layermerge", budget="macs=0.8", settings={"whole_steps": 3})
    losses = plan.predicted["compared_whole"]
    assert {"merges and removals", "removals alone"} <= set(losses)
    alone = make_plan(net, data, method="layer_only", budget="macs=0.8")
    chosen = min(losses, key=losses.get)
    if chosen == "removals alone":
        assert plan.identity == alone.identity
    by_tables = make_plan(net, data, method="layermerge", budget="macs=0.8", settings={"whole_steps": 0})
    if chosen == "merges and removals":
        assert plan.identity == by_tables.identity
    assert "compared_whole" not in by_tables.predicted


def test_a_budget_that_merging_cannot_meet_names_the_nearest(net, data):
    with pytest.raises(BudgetError, match=r"leaves .* of the original\). Ask for params=0\.\d+ or more"):
        make_plan(net, data, method="layer_only", budget="params=0.1")


def test_a_budget_that_is_met_already_only_folds(net, data):
    plan = make_plan(net, data, method="layermerge", budget="macs=1.0")
    assert plan.removed == ()
    assert plan.left == len(plan.model.units)
    small = apply(net, plan)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in small.modules())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(small(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.fixture
def slow_by_macs(monkeypatch):
    """Let a convolution take a nanosecond for a MAC, and a network for all of its own."""

    def time_shapes(shapes, *, batch, **_):
        return {shape: ShapeTiming(seconds=1e-9 * batch * shape.macs) for shape in shapes}

    def timed(self, network):
        example = self.request.example
        macs = [count_macs(each, example).total for each in (self.request.model, network)]
        return tuple(1.3e-9 * each + 1e-6 for each in macs)

    monkeypatch.setattr(merge_costs, "time_shapes", time_shapes)
    monkeypatch.setattr(MergeTables, "timed", timed)


@pytest.mark.parametrize("share", [0.9, 0.75, 0.65])
def test_a_budget_of_latency_is_met_by_what_is_measured(net, data, slow_by_macs, share):
    plan = make_plan(net, data, method="layermerge", budget=f"latency={share}")
    facts = plan.predicted
    assert facts["latency_measured"] <= share * facts["latency_before_measured"]
    # The table is wrong by a factor, which the correction finds out.
    assert facts["latency"] == pytest.approx(facts["latency_measured"], rel=0.2)


def test_a_latency_that_no_plan_reaches_names_the_nearest(net, data, slow_by_macs):
    with pytest.raises(BudgetError, match="Ask for latency="):
        make_plan(net, data, method="layermerge", budget="latency=0.05")


def test_compressing_merges_what_was_trained_and_proves_it(net, data):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = compress(net, data, method="layermerge", budget="macs=0.8", heal=HealSettings(epochs=1, lr=1e-3))
    assert result.plan.merges
    assert result.certificate.whole < 1e-9
    assert all(value < 1e-9 for value in result.certificate.segments.values())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in result.model.modules())
    assert result.after.macs < result.before.macs
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_merged_network_is_written_and_read_back(net, data, tmp_path):
    plan = make_plan(net, data, method="layermerge", budget="macs=0.8")
    small, example = apply(net, plan), data[0][0][:2]
    save(small, tmp_path / "small", plan=plan, example=example)
    again = load(tmp_path / "small", model=network)
    assert torch.equal(again(example), small(example))
    verify(tmp_path / "small", model=network)


def test_the_same_journal_measures_nothing_twice(net, data):
    journal = Journal()
    first = make_plan(net, data, method="layermerge", budget="macs=0.8", journal=journal)
    known = len(journal)
    assert make_plan(net, data, method="layermerge", budget="macs=0.8", journal=journal) == first
    assert len(journal) == known


def test_merged_networks_are_compared_with_networks_that_lost_blocks(data):
    torch.manual_seed(0)
    net = resnet((3, 2), width=8, classes=4).eval()
    found = compare(
        net,
        data[:2],
        budgets="macs=0.8",
        evaluation=data[2:],
        methods=["layermerge", "sglp"],
        latency=False,
    )
    assert {row.method for row in found.rows} == {"layermerge", "sglp"}
    merged = next(row for row in found.rows if row.method == "layermerge")
    assert merged.units == merged.plan.left
    assert merged.measured.macs <= 0.8 * found.whole[0].measured.macs


def test_merging_works_on_layers_alone(net, data):
    with pytest.raises(ConfigError, match="its units are of the granularity layer"):
        make_plan(net, data, method="layermerge", budget="units=5", granularity="sublayer")


def test_networks_all_of_whose_layers_change_channels_merge_too(data):
    torch.manual_seed(0)
    parts = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 4), (4, 6), (6, 8))]
    bends = [torch.nn.ReLU() for _ in parts]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4)]
    net = torch.nn.Sequential(*[each for pair in zip(parts, bends, strict=True) for each in pair], *head)
    assert make_plan(net.eval(), data, method="depth_merge", budget="units=2").left <= 2


def test_without_classes_the_published_objective_goes_by_the_loss(net, data):
    settings = {"objective": "published", "measure": "all", "whole_steps": 0}
    images = [batch for batch, _ in data]
    with pytest.raises(DataError, match="objective=published without labels"):
        make_plan(net, images, method="layermerge", budget="macs=0.8", settings=settings)
    plan = make_plan(
        net,
        [(batch, torch.zeros(len(batch), 4)) for batch in images],
        method="layermerge",
        budget="macs=0.8",
        settings=settings,
        loss=lambda outputs, labels: (outputs - labels).square().mean(1),
    )
    assert plan.merges


def test_other_methods_do_not_work_on_layers(net, data):
    with pytest.raises(ConfigError, match="asked for sglp with units of the granularity layer"):
        make_plan(net, data, method="sglp", budget="units=4", granularity="layer")


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_are_listed_with_their_presets(method):
    assert method in names()
    assert set(get(method).presets) == {"default", "paper"}


@pytest.mark.parametrize("rules", [REMOVALS_ALONE, MERGES_ALONE])
@pytest.mark.parametrize(
    "make", [network, lambda: vgg(((4, 4, 4), (6,)), classes=3).eval()], ids=["residual", "plain"]
)
def test_a_special_case_allows_of_all_entries_those_that_its_rules_find(make, rules):
    found = find_convolutions(make(), torch.zeros(1, 3, 32, 32))
    allowed = [entry for entry in find_entries(found) if _allows(rules, entry)]
    assert allowed == list(find_entries(found, rules))
    assert 0 < len(allowed) < len(find_entries(found))


@pytest.mark.parametrize("method", ["layer_only", "depth_merge"])
def test_the_paper_preset_of_a_special_case_measures_as_published_and_chooses_as_by_default(method):
    paper, default = (get(method).presets[name] for name in ("paper", "default"))
    published = get("layermerge").presets["paper"].importance
    assert paper.importance == replace(published, fresh_single=False)
    assert (paper.measure, paper.time_all) == ("all", True)
    again = replace(paper, importance=default.importance, measure=default.measure, time_all=False)
    assert again == default


def test_what_is_left_of_a_network_can_be_made_shallower_by_blocks(net, data):
    chain = find_units(net, data[0][0][:1], granularity="layer")
    (first, *_) = (unit for unit in chain if unit.removable)
    merged = apply(net, Plan.removing(chain, [first.index]))
    result = compress(merged, data, method="sglp", budget="units=0.7", settings={"exchanges": 0})
    assert result.plan.removed
    assert result.model(data[0][0]).shape == (8, 4)
