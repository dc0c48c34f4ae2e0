import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from shoal import Plan
from shoal.errors import BudgetError, ConfigError, DataError, UnitError
from shoal.methods.block_influence import METHOD, BlockInfluenceSettings, choose

DEFAULT = METHOD.presets["default"]


def influence_by_hand(model, batches):
    """1 - cosine of what goes into and comes out of every layer, a mean over all tokens."""
    states, found = {}, []
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda module, args, out, number=number: states.__setitem__(number, (args[0], out))
        )
    for batch in batches:
        with torch.no_grad():
            model(**batch)
        pairs = [states[number] for number in range(len(states))]
        found.append(torch.stack([1 - cosine_similarity(*pair, dim=-1).flatten() for pair in pairs]))
    return torch.cat(found, dim=1).mean(dim=1).double().numpy()


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_the_units_that_turn_their_input_least_go(ask_text, count):
    request = ask_text(f"units={5 - count}")
    plan = choose(request, DEFAULT)
    expected = influence_by_hand(request.model, request.batches)
    assert plan.removed == tuple(sorted(np.argsort(expected)[:count].tolist()))
    np.testing.assert_allclose(plan.predicted["scores"], expected[list(plan.removed)], atol=1e-6)
    assert plan.method == "block_influence"
    assert Plan.from_json(plan.to_json()) == plan


def test_it_needs_one_pass_forward_and_neither_labels_nor_gradients(ask_images):
    request = ask_images(batches=[torch.randn(8, 3, 8, 8)])
    calls = []
    request.model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    assert len(choose(request, DEFAULT).removed) == 3
    assert calls == [False]
    assert set(request.evidence.importance) == {"block_influence", "angular_distance", "magnitude"}


@pytest.mark.parametrize("budget", ["units=6", "params=0.8", "macs=0.6"])
def test_every_budget_is_met(ask_images, budget):
    request = ask_images(budget)
    plan = choose(request, DEFAULT)
    whole = {"units": 9, "params": request.chain.params, "macs": request.chain.macs}
    quantity = request.budget.quantity
    assert plan.predicted[quantity] <= request.budget.allowance(whole[quantity])


def test_protected_units_stay(ask_chain):
    settings = BlockInfluenceSettings(protect_first=1, protect_last=2)
    request = ask_chain("units=3", block_influence=[0, 2, 1, 0, 0])
    assert choose(request, settings).removed == (1, 2)
    with pytest.raises(BudgetError, match="with protect_first=1 and protect_last=2, units=3 remain"):
        choose(ask_chain("units=2", block_influence=[0, 2, 1, 0, 0]), settings)
    with pytest.raises(UnitError, match="the first 4 and the last 1 of 5 protected"):
        choose(request, BlockInfluenceSettings(protect_first=4, protect_last=1))


def test_a_unit_without_a_score_is_no_silent_zero(ask_chain):
    scores = [np.nan, 3, 2, 1, 0]
    with pytest.raises(DataError, match=r"by block_influence: the units \[0\] have none.* such as sleb"):
        choose(ask_chain(block_influence=scores), DEFAULT)
    fixed = ask_chain(fixed=[0], block_influence=scores)
    assert choose(fixed, DEFAULT).removed == (3, 4)


def test_a_budget_that_the_network_meets_looks_at_no_data(ask_text):
    request = ask_text("units=1.0")
    assert choose(request, DEFAULT).removed == ()
    assert request.evidence is None


def test_the_first_and_the_last_unit_are_ranked_like_all_others(ask_chain, ask_text):
    assert choose(ask_chain(block_influence=[0, 3, 2, 3, 1]), DEFAULT).removed == (0, 4)
    assert ask_text().chain.removable == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("field", ["protect_first", "protect_last"])
def test_negative_numbers_are_refused(field):
    with pytest.raises(ConfigError, match=f"{field}=-1.*numbers from 0 upwards work"):
        BlockInfluenceSettings(**{field: -1})
