from functools import partial

import pytest
import torch

import shoal
from shoal.errors import BudgetError, ConfigError
from shoal.journal import Journal
from shoal.measurement import LatencySettings, measure_latency, unit_latency
from shoal.methods.sglp import SGLPSettings


@pytest.mark.parametrize("preset", [None, "paper"])
def test_the_same_request_gives_the_same_plan(small_resnet, images, preset):
    plans = []
    for noise in range(2):
        torch.manual_seed(noise)
        plans.append(shoal.make_plan(small_resnet, images, budget="units=6", preset=preset))
    assert plans[0] == plans[1]


def test_latency_is_measured_where_it_is_the_budget(small_resnet, images, monkeypatch):
    brief = LatencySettings(max_seconds=0.3)
    monkeypatch.setattr("shoal.methods.timing.measure_latency", partial(measure_latency, settings=brief))
    monkeypatch.setattr("shoal.methods.request.unit_latency", partial(unit_latency, settings=brief))
    plan = shoal.make_plan(small_resnet, images, budget="latency=0.8", example=torch.zeros(4, 3, 8, 8))
    assert plan.predicted["latency_measured"] <= 0.8 * plan.predicted["latency_before_measured"]


def test_evidence_is_used_again(small_resnet, images, monkeypatch):
    evidence = shoal.analyze(small_resnet, images)
    expected = shoal.make_plan(small_resnet, images, budget="units=6")
    monkeypatch.setattr("shoal.methods.request.collect_evidence", None)
    assert shoal.make_plan(small_resnet, images, budget="units=6", evidence=evidence) == expected


def test_a_plan_is_made_with_what_the_journal_holds(tmp_path, small_resnet, images):
    path = tmp_path / "journal.jsonl"
    first = shoal.make_plan(small_resnet, images, budget="units=6", journal=Journal(path))
    size = path.stat().st_size
    assert size > 0
    assert shoal.make_plan(small_resnet, images, budget="units=6", journal=Journal(path)) == first
    assert path.stat().st_size == size


@pytest.mark.parametrize(
    "settings",
    [{"exchanges": 0, "segments": 2}, SGLPSettings(exchanges=0, segments=2)],
    ids=["mapping", "instance"],
)
def test_settings_reach_the_method(small_resnet, images, settings):
    plan = shoal.make_plan(small_resnet, images, budget="units=6", settings=settings)
    assert plan.settings["segments"] == 2
    assert plan.predicted["measured_exchanges"] == 0


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"method": "sgpl"}, ConfigError, "The nearest is 'sglp'"),
        ({"preset": "papers"}, ConfigError, "The nearest is 'paper'"),
        ({"settings": {"exchange": 1}}, ConfigError, "The nearest is 'exchanges'"),
        ({"budget": "units=1"}, BudgetError, "the least that can be asked for is units=2"),
        ({"budget": "layers=3"}, BudgetError, "asked for a budget of 'layers'"),
    ],
)
def test_a_wrong_request_is_refused(small_resnet, images, fields, error, match):
    with pytest.raises(error, match=match):
        shoal.make_plan(small_resnet, images, **({"budget": "units=6"} | fields))
