"""The whole way from a network to a shorter one, on tiny networks."""

import pytest
import torch
from torch import nn

import shoal
from shoal.errors import ConfigError, DataError


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
