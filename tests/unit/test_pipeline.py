"""The whole way from a network to a shorter one, on tiny networks."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import shoal
from shoal.errors import BudgetError, ConfigError, DataError, UnitError, UnknownArchitectureError
from shoal.importance import EvidenceSettings, StreamSettings
from shoal.journal import Journal
from shoal.measurement import LatencySettings, measure_latency, unit_latency
from shoal.methods.sglp import SGLPSettings
from shoal.pipeline import Output
from shoal.training import HealSettings


@pytest.fixture
def images():
    return [(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))) for _ in range(2)]


@pytest.fixture
def text():
    return [{"input_ids": torch.randint(0, 64, (4, 12))} for _ in range(2)]


@pytest.fixture
def untouched():
    """Return a function that notes a model, and another that compares it with the note."""

    def note(model):
        before = deepcopy(model.state_dict())
        modes = [module.training for module in model.modules()]
        random = torch.get_rng_state()

        def compare():
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            assert [module.training for module in model.modules()] == modes
            assert torch.equal(torch.get_rng_state(), random)
            assert all(p.grad is None and p.requires_grad for p in model.parameters())
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

        return compare

    return note


def test_an_image_classifier_is_made_shallower_within_the_budget(small_resnet, images, untouched):
    compare = untouched(small_resnet)
    result = shoal.compress(small_resnet, images, budget="macs=0.6", evaluation=images)
    compare()
    assert result.after.macs <= 0.6 * result.before.macs
    assert result.after.params < result.before.params
    assert type(result.model) is type(small_resnet)
    assert result.model(images[0][0]).shape == (8, 10)
    assert result.evidence.similarity.shape == (9, 9)
    assert set(result.before.quality) == set(result.after.quality) != set()
    assert result.after.latency > 0
    small = shoal.apply(small_resnet, result.plan)
    assert torch.equal(small(images[0][0]), result.model(images[0][0]))
    assert result.after.quality["loss"] == pytest.approx(result.plan.predicted["loss"], rel=1e-4)


@pytest.mark.parametrize("preset", [None, "paper"])
def test_a_language_model_is_made_shallower_within_the_budget(small_llama, text, untouched, preset):
    compare = untouched(small_llama)
    result = shoal.compress(small_llama, text, budget="units=3", preset=preset)
    compare()
    remain = 5 - len(result.plan.removed)
    assert 1 <= result.model.config.num_hidden_layers == remain <= 3
    assert [layer.self_attn.layer_idx for layer in result.model.model.layers] == list(range(remain))
    assert small_llama.config.num_hidden_layers == 5
    prompt = text[0]["input_ids"][:1, :4]
    cached, plain = (
        result.model.generate(prompt, max_new_tokens=5, do_sample=False, use_cache=use, pad_token_id=0)
        for use in (True, False)
    )
    assert torch.equal(cached, plain)


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


def test_evidence_of_another_network_is_refused(small_resnet, images, cifar_resnet):
    evidence = shoal.analyze(cifar_resnet.CifarResNet((2, 2, 2)).eval(), images)
    with pytest.raises(DataError, match="evidence of 6 units of CifarResNet on CifarResNet with 9"):
        shoal.make_plan(small_resnet, images, budget="units=6", evidence=evidence)


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


def test_settings_reach_the_evidence(small_resnet, images):
    evidence = shoal.analyze(small_resnet, images, settings=EvidenceSettings(gradients=False))
    assert set(evidence.importance) == {"block_influence", "angular_distance", "magnitude"}
    loss = shoal.analyze(small_resnet, [x for x, _ in images], loss=lambda out, labels: out.square().mean())
    assert np.isfinite(loss.importance["drop_estimate"]).all()


def test_the_result_is_healed_and_written_where_that_is_asked_for(tmp_path, small_llama, text):
    result = shoal.compress(
        small_llama,
        text,
        budget="units=4",
        heal=HealSettings(epochs=1),
        output=Output(folder=tmp_path / "out"),
    )
    plain = shoal.apply(small_llama, result.plan)
    ids = text[0]["input_ids"]
    loaded = type(small_llama).from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, result.model.eval()(ids).logits)
        assert not torch.equal(plain(ids).logits, loaded(ids).logits)


def test_nothing_is_written_where_no_plan_is_found(tmp_path, small_llama, text):
    with pytest.raises(BudgetError, match="params=0.01"):
        shoal.compress(small_llama, text, budget="params=0.01", output=Output(folder=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("batches", [[], torch.zeros(4, 3, 8, 8)])
def test_batches_that_cannot_be_used_are_refused(small_resnet, batches):
    with pytest.raises(DataError, match="batches"):
        shoal.make_plan(small_resnet, batches, budget="units=6")


def test_a_network_without_units_is_refused(images):
    with pytest.raises((UnitError, UnknownArchitectureError)):
        shoal.make_plan(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), images, budget="units=1")


def test_a_folder_is_analysed_without_being_loaded(small_llama, text, tmp_path):
    small_llama.save_pretrained(tmp_path)
    wanted = shoal.analyze(small_llama, text)
    for folder in (tmp_path, str(tmp_path)):
        found = shoal.analyze(folder, text, stream=StreamSettings(memory=0))
        np.testing.assert_allclose(found.importance["taylor"], wanted.importance["taylor"], rtol=1e-4)
        np.testing.assert_allclose(found.similarity, wanted.similarity, rtol=1e-4)


def test_a_loaded_network_is_not_streamed(small_llama, text):
    with pytest.raises(ConfigError, match="this network is loaded"):
        shoal.analyze(small_llama, text, stream=StreamSettings())


@pytest.mark.parametrize("batches", [None, 3, iter([torch.zeros(2, 3, 8, 8)]), []])
@pytest.mark.parametrize("method", ["sglp", "layer_only", "layermerge"])
def test_batches_that_are_none_are_refused_whatever_the_method(batches, method):
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3)))
    with pytest.raises(DataError, match="asked to use .*batches"):
        shoal.compress(net, batches, method=method, budget="units=2", example=torch.zeros(1, 3, 8, 8))


def test_batches_to_heal_on_that_are_none_are_refused_where_entries_are_tuned_on_them(images):
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3)))
    with pytest.raises(DataError, match="asked to use int as batches"):
        shoal.compress(net, images, method="layer_only", budget="units=2", heal_batches=3)


@pytest.mark.parametrize("heal", [1, True, {"epochs": 1}])
def test_healing_is_asked_for_with_its_settings(small_resnet, images, heal):
    asked = {"heal": heal, "method": "last"}
    with pytest.raises(ConfigError, match=r"asked to heal with .*: shoal.HealSettings works"):
        shoal.compress(small_resnet, images, budget="units=6", **asked)
    with pytest.raises(ConfigError, match=r"asked to heal with .*: shoal.HealSettings works"):
        shoal.compare(small_resnet, images, budgets="units=6", evaluation=images, methods=["last"], heal=heal)
