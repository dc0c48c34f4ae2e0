from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from shoal import Plan, apply
from shoal.errors import BudgetError, ConfigError, DataError, UnitError
from shoal.measurement import count_params
from shoal.methods.taylor import METHOD, TaylorSettings, choose

ALL = TaylorSettings(protect_first=0)
PAPER = METHOD.presets["paper"]
# How the released orders of Shortened LLaMA begin (Kim et al., 2024, https://arxiv.org/abs/2402.02834),
# least important first, and the six that go once the first four and the last two are kept.
RELEASED = {
    "Llama-2-7B": ([0, 28, 27, 25, 29, 26, 24, 23, 21, 22, 30, 20, 19, 18, 17, 14], range(24, 30)),
    "LLaMA-7B": ([0, 27, 24, 26, 25, 29, 28, 23, 22, 21], range(24, 30)),
    "Vicuna-7B v1.3": ([0, 27, 26, 24, 25, 29, 28, 23, 30, 21], range(24, 30)),
    "Llama-3-8B": ([24, 25, 26, 28, 29, 23, 27, 22, 20, 19], (23, 24, 25, 26, 28, 29)),
}
SHAPES = {
    "Llama-2-7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    "Llama-3.1-8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}


def taylor_by_hand(model, chain, loss):
    """The sum of |dL/dw · w| over the parameters of every unit, of one loss over all the data."""
    found = []
    for unit in chain:
        parameters = [p for path in unit.modules for p in model.get_submodule(path).parameters()]
        gradients = torch.autograd.grad(loss(), parameters)
        pairs = zip(gradients, parameters, strict=True)
        found.append(sum((gradient * p.detach()).abs().sum().item() for gradient, p in pairs))
    return np.array(found)


def loss_of_images(model, batches):
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return cross_entropy(model(x), y)


def loss_of_text(model, batches):
    ids = torch.cat([batch["input_ids"] for batch in batches])
    return cross_entropy(model(input_ids=ids).logits[:, :-1].transpose(1, 2), ids[:, 1:])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("kind", "loss"), [("ask_images", loss_of_images), ("ask_text", loss_of_text)])
def test_the_units_of_least_gradient_times_weight_go(request, kind, loss, count):
    ask = request.getfixturevalue(kind)
    asked = ask(f"units={len(ask().chain) - count}")
    plan = choose(asked, ALL)
    expected = taylor_by_hand(asked.model, asked.chain, lambda: loss(asked.model, asked.batches))
    free = list(asked.chain.removable)
    assert set(plan.removed) == {free[at] for at in np.argsort(expected[free])[:count]}
    np.testing.assert_allclose(plan.predicted["scores"], expected[list(plan.removed)], rtol=1e-3)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("model", RELEASED)
def test_the_papers_filter_gives_the_sets_that_were_released(ask_chain, scores_of, model):
    order, expected = RELEASED[model]
    request = ask_chain("units=26", params=[10] * 32, taylor=scores_of(order))
    assert choose(request, PAPER).removed == tuple(expected)
    if order[0] == 0:
        assert 0 in choose(request, ALL).removed
        assert choose(request, METHOD.presets["default"]).removed == tuple(expected)


def test_the_order_released_for_llama_3_1_8b_gives_one_window(ask_chain, scores_of):
    # Lu et al., 2024, https://arxiv.org/abs/2411.15558.
    order = [26, 25, 24, 28, 27, 23, 29, 22]
    request = ask_chain("units=24", params=[10] * 32, taylor=scores_of(order))
    for settings in METHOD.presets.values():
        (window,) = choose(request, settings).runs
        assert (window.start, window.stop) == (22, 30)


@pytest.mark.parametrize(
    ("name", "removed", "whole", "left"),
    [
        ("Llama-2-7B", range(24, 30), 6_738_415_616, 5_524_115_456),
        ("Llama-3.1-8B", range(22, 30), 8_030_261_248, 6_285_365_248),
    ],
)
def test_what_is_left_has_the_released_number_of_parameters(make_chain, name, removed, whole, left):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**SHAPES[name], tie_word_embeddings=False)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).eval()
    assert count_params(model) == whole
    # Nothing runs without weights, so that the units are written down.
    sizes = [count_params(layer) for layer in model.model.layers]
    assert name != "Llama-2-7B" or set(sizes) == {202_383_360}
    written = make_chain(sizes, rest=whole - sum(sizes))
    units = tuple(
        replace(unit, name=f"model.{unit.name}", modules=(f"model.{unit.name}",), container="model.layers")
        for unit in written
    )
    chain = replace(written, units=units)
    plan = Plan.removing(chain, removed)
    assert plan.predicted["params"] == left
    assert count_params(apply(model, plan)) == left


def test_data_without_a_loss_is_refused(ask_images):
    with pytest.raises(DataError, match="by 'taylor': .* Scores by gradients need labels, text, or loss="):
        choose(ask_images(batches=[torch.randn(8, 3, 8, 8)]), ALL)
    given = ask_images(batches=[torch.randn(8, 3, 8, 8)], loss=lambda out, labels: out.square().mean())
    assert len(choose(given, ALL).removed) == 3


def test_what_cannot_be_had_is_refused(ask_chain):
    with pytest.raises(BudgetError, match="with protect_first=1, units=0.2 remain"):
        choose(ask_chain("units=0.1", taylor=[1] * 5), METHOD.presets["default"])
    with pytest.raises(UnitError, match="Protect fewer"):
        choose(ask_chain(taylor=[1] * 5), PAPER)
    with pytest.raises(ConfigError, match="protect_last=-2"):
        TaylorSettings(protect_last=-2)


@pytest.mark.parametrize("settings", [ALL, PAPER])
def test_a_budget_that_the_network_meets_removes_nothing(ask_chain, settings):
    assert choose(ask_chain("units=8", params=[10] * 8), settings).removed == ()
