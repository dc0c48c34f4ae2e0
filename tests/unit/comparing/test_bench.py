"""What a bench keeps: networks made, judged and healed once, and gone on with after an interruption."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import shoal
from convnets import resnet
from convnets import settled as settled_net
from shoal.comparing import bench
from shoal.importance import MergeLossSettings
from shoal.journal import Journal
from shoal.training import HealSettings

HEAL = HealSettings(epochs=1, lr=0.01)


def settled(comparison):
    """The comparison without what no two runs have in common: times."""
    still = lambda row: replace(  # noqa: E731
        row, seconds=0, latency_whole=1, measured=replace(row.measured, latency=1, latency_spread=0)
    )
    return replace(
        comparison, whole=tuple(map(still, comparison.whole)), rows=tuple(map(still, comparison.rows))
    )


def test_the_same_units_removed_are_one_network_made_judged_and_healed_once(compare, calls):
    comparison = compare(methods=["sleb", "greedy", "last", "uniform"], heal=HEAL)
    networks = {row.plan.removed for row in (*comparison.whole, *comparison.rows)}
    assert len(networks) < 1 + len(comparison.rows), "there is nothing to share"
    assert calls["heal"] == calls["measure_pair"] == len(networks)
    assert calls["evaluate_samples"] == 2 * len(networks)
    first = {}
    for row in comparison.rows:
        other = first.setdefault(row.plan.removed, row)
        assert row.same_as == ("" if other is row else str(other))
        assert (row.healed, row.measured, row.losses) == (other.healed, other.measured, other.losses)


def test_a_second_comparison_with_the_journal_does_nothing_again(compare, calls, tmp_path):
    fields = {"heal": HEAL, "budgets": ["units=5", "macs=0.6"]}
    first = compare(**fields, journal=Journal(tmp_path / "journal"))
    assert calls
    calls.clear()
    again = compare(**fields, journal=Journal(tmp_path / "journal"))
    assert again == first
    assert calls == {}


def scaled(outputs, labels, *, scale):
    return scale * nn.functional.cross_entropy(outputs, labels)


CONDITIONS = {
    "seeds": {"seeds": (7,)},
    "heal": {"heal": replace(HEAL, epochs=2)},
    "settings": {"settings": {"sglp": {"segments": 2}}},
    "loss": {"loss": partial(scaled, scale=3.0)},
}
CHANGES = [*CONDITIONS, "evaluation", "batches", "heal data", "weights", "architecture"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_done_under_other_conditions_is_not_used(compare, calls, tmp_path, network, data, change):
    journal = lambda: Journal(tmp_path / "journal")  # noqa: E731
    fields = {
        "methods": ["sglp"],
        "heal": HEAL,
        "heal_batches": data.train,
        "loss": partial(scaled, scale=2.0),
    }
    compare(**fields, journal=journal())
    calls.clear()
    if change == "weights":
        network[2].linear.weight.data += 0.1
    if change == "architecture":
        network[2].activation = nn.Tanh()
    if change in ("batches", "evaluation", "heal data"):
        changed = {"batches": data.batches, "evaluation": data.evaluation, "heal data": data.train}[change]
        changed[0][0].data += 0.1
    fields |= CONDITIONS.get(change, {})
    found = compare(**fields, journal=journal())
    done = {"seeds": {"heal"}, "heal": {"heal"}, "settings": {"choose_plan"}}
    everything = {"choose_plan", "heal", "measure_pair", "evaluate_samples"}
    assert set(calls) >= done.get(change, everything)
    assert settled(found) == settled(compare(**fields))


def test_units_of_another_granularity_are_other_units(small_llama, calls, tmp_path):
    text = [[{"input_ids": torch.randint(0, 64, (2, count))}] for count in (4, 6)]
    fields = {"evaluation": text[1], "methods": ["last"], "seeds": 1, "latency": False}
    for granularity, budget in (("block", "units=4"), ("sublayer", "units=9")):
        calls.clear()
        journal = Journal(tmp_path / "journal")
        shoal.compare(
            small_llama, text[0], budgets=budget, granularity=granularity, journal=journal, **fields
        )
        assert calls == {"choose_plan": 1, "measure_pair": 2, "evaluate_samples": 2}


@pytest.mark.parametrize("change", ["data", "settings"])
def test_what_healing_on_the_way_left_is_not_used_after_other_healing(compare, tmp_path, data, change):
    journal = lambda: Journal(tmp_path / "journal")  # noqa: E731
    fields = {"methods": ["cka"], "settings": {"cka": {"heal": HEAL}}, "heal_batches": data.train}
    first = compare(**fields, journal=journal())
    if change == "data":
        data.train[0][0].data += 1
    else:
        fields["settings"] = {"cka": {"heal": replace(HEAL, epochs=3)}}
    found = compare(**fields, journal=journal())
    assert found.rows[0].plan.predicted != first.rows[0].plan.predicted
    assert settled(found) == settled(compare(**fields))


@pytest.mark.parametrize("stage", ["choose_plan", "measure_pair", "heal", "evaluate_samples"])
def test_an_interrupted_comparison_goes_on_where_it_stopped(compare, calls, tmp_path, monkeypatch, stage):
    fields = {"methods": ["sglp", "last", "random", "scratch"], "heal": HEAL}
    whole = compare(**fields)
    expected = dict(calls)
    calls.clear()
    counting, left = getattr(bench, stage), [3]

    def interrupted(*args, **more):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return counting(*args, **more)

    monkeypatch.setattr(bench, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(**fields, journal=Journal(tmp_path / "journal"))
    monkeypatch.setattr(bench, stage, counting)
    resumed = compare(**fields, journal=Journal(tmp_path / "journal"))
    assert settled(resumed) == settled(whole)
    # The stage in which it stopped is all that may have been begun twice.
    assert sum(calls.values()) <= sum(expected.values()) + 1


def test_a_network_that_a_method_brings_is_made_again_after_an_interruption(
    compare, calls, tmp_path, monkeypatch
):
    fields = {"methods": ["scratch"], "heal": HEAL, "seeds": 1}
    whole = compare(**fields)
    heal = bench.heal
    monkeypatch.setattr(
        bench, "heal", lambda *args, **more: heal(*args, **more) if more["plan"].removed == () else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        compare(**fields, journal=Journal(tmp_path / "journal"))
    monkeypatch.setattr(bench, "heal", heal)
    calls.clear()
    assert settled(compare(**fields, journal=Journal(tmp_path / "journal"))) == settled(whole)
    assert calls == {"choose_plan": 1, "heal": 1, "evaluate_samples": 1}


def test_a_loader_of_batches_is_gone_through_in_the_order_of_the_seed(compare, data):
    loader = torch.utils.data.DataLoader(data.train, batch_size=None)
    fields = {"methods": ["last"], "heal": HEAL, "heal_seeds": 2}
    listed, loaded = (compare(**fields, heal_batches=each).rows for each in (data.train, loader))
    assert [row.healed for row in listed] == [row.healed for row in loaded]


def test_the_weights_of_the_samples_are_written_once(compare, tmp_path):
    compare(methods=["last", "uniform", "random"], heal=HEAL, journal=Journal(tmp_path / "journal"))
    lines = (tmp_path / "journal").read_text().splitlines()
    assert sum("/weights/" in line for line in lines) == 1


def test_merged_networks_are_judged_as_compress_hands_them_back():
    torch.manual_seed(0)
    net = settled_net(resnet((1, 1), width=4, classes=4)).eval()
    draw = torch.Generator().manual_seed(0)
    batches, evaluation = (
        [(2 * torch.randn(16, 3, 16, 16, generator=draw) + 1, torch.arange(16) % 4)] for _ in range(2)
    )
    settings = {"importance": MergeLossSettings(form="reconstruction")}
    asked = {"evaluation": evaluation, "example": batches[0][0][:1]}
    comparison = shoal.compare(
        net,
        batches,
        budgets="units=3",
        methods=["layer_only"],
        settings={"layer_only": settings},
        latency=False,
        **asked,
    )
    small = shoal.compress(net, batches, method="layer_only", budget="units=3", settings=settings, **asked)
    (row,) = comparison.rows
    assert row.plan.identity == small.plan.identity
    assert row.measured.quality["loss"] == pytest.approx(small.after.quality["loss"], rel=1e-6)
