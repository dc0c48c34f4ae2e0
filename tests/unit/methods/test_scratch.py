from copy import deepcopy

import pytest
import torch

from networks import NETWORKS
from shoal import Budget, apply, compress, find_units, make_plan
from shoal.errors import BudgetError, ShoalWarning
from shoal.methods import Request
from shoal.methods.scratch import METHOD, ScratchSettings, choose
from shoal.methods.uniform import UniformSettings
from shoal.methods.uniform import choose as uniform


@pytest.fixture(autouse=True)
def other_weights(known_state):
    """The default draws from seed 0, as every test does."""
    torch.manual_seed(1)


@pytest.mark.parametrize("kind", ["ask_images", "ask_text"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_it_is_the_architecture_of_uniform_with_other_weights(request, kind, count):
    ask = request.getfixturevalue(kind)
    asked = ask(f"units={len(ask().chain) - count}")
    plan = choose(asked, ScratchSettings())
    small = apply(asked.model, plan)
    assert plan.removed == uniform(asked, UniformSettings()).removed
    assert type(asked.shallower) is type(small)
    assert asked.shallower.training == small.training
    fresh, trained = asked.shallower.state_dict(), small.state_dict()
    assert {name: value.shape for name, value in fresh.items()} == {n: v.shape for n, v in trained.items()}
    for name, value in fresh.items():
        assert value.dtype == trained[name].dtype
        assert not value.is_floating_point() or torch.isfinite(value).all()
        assert value.dim() < 2 or not torch.equal(value, trained[name])


def test_the_original_and_the_random_state_stay_as_they_were(ask_images):
    request = ask_images()
    before, state = deepcopy(request.model.state_dict()), torch.get_rng_state()
    choose(request, ScratchSettings())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in request.model.state_dict().items())


def test_a_seed_decides(ask_text):
    weights = []
    for seed in (0, 0, 1):
        request = ask_text()
        assert choose(request, ScratchSettings(seed=seed)).settings == {"seed": seed}
        weights.append(request.shallower.lm_head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_weights_that_no_module_knows_how_to_draw_are_told():
    model, x = NETWORKS["vit"]()
    request = Request(
        model=model, chain=find_units(model, x), batches=[x], example=x, budget=Budget.parse("units=3")
    )
    assert choose(request, ScratchSettings()).predicted["drawn_without_a_rule"] == ["positions"]
    assert not torch.equal(request.shallower.positions, model.positions)


def test_compress_hands_back_the_fresh_network_and_a_plan_alone_warns(small_resnet):
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,)))]
    result = compress(small_resnet, batches, method="scratch", budget="units=7")
    trained = apply(small_resnet, result.plan).state_dict()
    fresh = result.model.state_dict()
    assert len(find_units(result.model, batches[0][0])) == 7
    assert not torch.equal(fresh["conv1.weight"], trained["conv1.weight"])
    assert torch.equal(fresh["bn1.running_mean"], torch.zeros(16))
    with pytest.warns(ShoalWarning, match="scratch changed weights while it chose"):
        make_plan(small_resnet, batches, method="scratch", budget="units=7")


def test_an_impossible_budget_is_refused(ask_images):
    with pytest.raises(BudgetError, match="the least that can be asked for is units=2"):
        choose(ask_images("units=1"), ScratchSettings())


def test_it_is_a_control_that_draws():
    assert METHOD.control
    assert METHOD.draws
