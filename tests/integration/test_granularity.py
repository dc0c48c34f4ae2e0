"""Attention and MLP alone, through every stage: evidence, measured losses, plan, surgery, healing, folder."""

from __future__ import annotations

import math

import pytest
import torch

import shoal
from networks import NETWORKS, gpt2
from shoal.architectures import bypassed
from shoal.errors import UnitError
from shoal.importance import SkipLosses
from shoal.measurement import evaluate_quality
from shoal.stages import Output
from shoal.training import HealSettings


@pytest.fixture(params=["vit", "gpt2"])
def made(request):
    generator = torch.Generator().manual_seed(3)
    if request.param == "gpt2":
        pytest.importorskip("transformers")
        ids = torch.randint(0, 64, (24, 12), generator=generator)
        return *gpt2(), [{"input_ids": batch} for batch in ids.split(8)]
    model, example = NETWORKS["vit"]()
    images = torch.randn(24, 3, 16, 16, generator=generator)
    with torch.no_grad():
        labels = model(images).argmax(-1)
    return model, example, [*zip(images.split(8), labels.split(8), strict=True)]


def test_evidence_has_an_entry_for_every_sublayer(made):
    model, example, batches = made
    evidence = shoal.analyze(model, batches, example=example, granularity="sublayer")
    count = len(shoal.find_units(model, example, granularity="sublayer"))
    assert evidence.similarity.shape == (count, count)
    assert all(len(scores) == count for scores in evidence.importance.values())
    assert all(math.isfinite(score) for scores in evidence.importance.values() for score in scores)


def test_the_measured_loss_without_sublayers_is_that_of_the_network_from_which_they_were_removed(made):
    model, example, batches = made
    chain = shoal.find_units(model, example, granularity="sublayer")
    sets = [(), (0,), (1,), (2, 3), (0, 5)]
    measured = SkipLosses(model, chain, batches).of(sets)
    for removed, loss in zip(sets, measured, strict=True):
        small = shoal.apply(model, shoal.Plan.removing(chain, removed))
        assert evaluate_quality(small, batches)["loss"] == pytest.approx(loss, rel=1e-6)


def test_compress_chooses_removes_heals_and_writes(made, tmp_path):
    model, example, batches = made
    result = shoal.compress(
        model,
        batches,
        budget="units=5",
        example=example,
        granularity="sublayer",
        heal=HealSettings(epochs=1, max_steps=2),
        output=Output(folder=tmp_path / "out", format="torch"),
    )
    chain = shoal.find_units(model, example, granularity="sublayer")
    assert len(result.plan.removed) == len(chain) - 5
    assert result.after.params == chain.params - sum(chain[index].params for index in result.plan.removed)
    assert result.after.macs == chain.macs - sum(chain[index].macs for index in result.plan.removed)
    again = shoal.load(tmp_path / "out", model=None if hasattr(model, "config") else model)
    for name, value in result.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    replayed = shoal.Plan.from_json(result.plan.to_json())
    with torch.no_grad(), bypassed(model, chain, replayed.removed):
        expected = shoal.measure(model, example, latency=False).macs
    assert shoal.measure(shoal.apply(model, replayed), example, latency=False).macs == expected


def test_a_plan_of_sublayers_is_refused_in_the_usual_folder_and_nothing_is_left(tmp_path):
    pytest.importorskip("transformers")
    model, example = gpt2()
    batches = [{"input_ids": torch.randint(0, 64, (8, 12))}]
    with pytest.raises(UnitError, match="--format torch"):
        shoal.compress(
            model,
            batches,
            method="last",
            budget="units=6",
            example=example,
            granularity="sublayer",
            output=Output(folder=tmp_path / "out"),
        )
    assert not list(tmp_path.iterdir())
