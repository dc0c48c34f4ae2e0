"""Methods that say so choose by evidence alone: without weights what they choose with them."""

import pytest
import torch

from networks import llama
from shoal import find_units, make_plan
from shoal.architectures.skeletons import skeleton
from shoal.importance import collect_evidence
from shoal.methods import get, names, settings_for

ALONE = [name for name in names() if get(name).by_evidence(get(name).settings())]


@pytest.fixture(scope="module")
def whole():
    model, example = llama()
    ids = torch.randint(0, 64, (3, 9), generator=torch.Generator().manual_seed(4))
    batches = [{"input_ids": ids}, {"input_ids": ids.flip(1)}]
    return model, example, batches, collect_evidence(model, find_units(model, example), batches)


def test_these_methods_go_by_evidence():
    assert set(ALONE) == {"angular", "block_influence", "magnitude", "taylor", "last", "uniform", "random"}


@pytest.mark.parametrize(
    ("settings", "alone"),
    [
        ({}, False),
        ({"importance": "graft"}, False),
        ({"importance": "drop_estimate"}, True),
        ({"importance": "drop_estimate", "similarity": {"estimator": "biased"}}, False),
    ],
)
def test_sglp_does_so_where_it_measures_nothing(settings, alone):
    assert get("sglp").by_evidence(settings_for(get("sglp"), settings)) == alone


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, None) for name in ALONE), ("sglp", {"importance": "drop_estimate"})]
)
@pytest.mark.parametrize("budget", ["units=2", "params=0.8", "macs=0.7"])
def test_a_network_without_weights_is_planned_like_the_whole(name, settings, budget, whole):
    model, example, batches, evidence = whole
    wanted = make_plan(model, batches, method=name, budget=budget, example=example, settings=settings)
    described = skeleton(type(model), model.config)
    found = make_plan(
        described, [], method=name, budget=budget, example=example, settings=settings, evidence=evidence
    )
    assert found.removed == wanted.removed
