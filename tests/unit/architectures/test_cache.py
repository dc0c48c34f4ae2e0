from __future__ import annotations

from typing import Any

import pytest
import torch

from networks import gpt2, llama
from shoal.architectures import find_units
from shoal.architectures.cache import numbers_of, renumber_, why_not_inside
from shoal.architectures.generation import compare_generation
from shoal.plan import Plan
from shoal.surgery import apply

transformers = pytest.importorskip("transformers")

PROMPT = torch.tensor([[1, 5, 7, 9, 11]])
ATTENTION = {"llama": "model.layers.{}.self_attn", "gpt2": "transformer.h.{}.attn"}
MAKERS = {"llama": llama, "gpt2": gpt2}


def without(name: str, removed: list[int | str]) -> Any:
    model, example = MAKERS[name]()
    return apply(model, Plan.removing(find_units(model, example, granularity="sublayer"), removed))


def numbers(model: Any) -> list[int]:
    """The places of the cache in the order of the layers that have one."""
    return [
        vars(module)["layer_idx"]
        for module in model.modules()
        if "layer_idx" in vars(module) and list(module.parameters())
    ]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("layers", [[], [0], [3], [0, 1], [0, 2, 3]], ids=str)
def test_what_is_left_generates_the_same_with_and_without_cache(name, layers):
    small = without(name, [ATTENTION[name].format(layer) for layer in layers])
    assert numbers(small) == list(range(4 - len(layers)))
    assert compare_generation(small, PROMPT, tokens=12)[0]
    # By hand, one token after another, the positions follow from the length of the cache.
    with torch.no_grad():
        begun = small(PROMPT[:, :4])
        step = small(PROMPT[:, 4:], past_key_values=begun.past_key_values).logits[:, -1]
        torch.testing.assert_close(step, small(PROMPT, use_cache=False).logits[:, -1])
    assert begun.past_key_values.get_seq_length() == 5


@pytest.mark.parametrize("name", MAKERS)
def test_without_any_attention_no_cache_is_kept(name):
    model, _ = MAKERS[name]()
    small = without(name, [ATTENTION[name].format(layer) for layer in range(4)])
    assert small(PROMPT).past_key_values is None
    assert compare_generation(small, PROMPT)[0]
    assert model.config.use_cache
    assert model.generation_config.use_cache


def test_removing_an_mlp_leaves_the_numbers():
    assert numbers(without("llama", ["model.layers.0.mlp", "model.layers.2.mlp"])) == [0, 1, 2, 3]


def test_whole_layers_may_follow_sublayers():
    small = without("llama", ["model.layers.0.self_attn", "model.layers.2.self_attn"])
    chain = find_units(small)
    smaller: Any = apply(small, Plan.removing(chain, ["model.layers.1"]))
    assert numbers(smaller) == [0]
    assert compare_generation(smaller, PROMPT, tokens=12)[0]


def test_numbers_are_those_of_a_module_and_its_parts():
    model: Any = llama()[0]
    assert numbers_of(model.model.layers[2]) == {2}
    assert numbers_of(model.model.layers[2].mlp) == set()
    assert numbers_of(model) == {0, 1, 2, 3}


def test_lists_whose_numbers_do_not_ascend_are_no_stacks_and_are_not_renumbered():
    model: Any = llama()[0]
    model.model.layers[1].self_attn.layer_idx = 7
    renumber_(model)
    assert numbers_of(model) == {0, 2, 3, 7}


def mixed(kind: str, **more: Any) -> Any:
    """A tiny decoder whose layers see near tokens and all tokens in turns."""
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        sliding_window=3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def test_attention_of_layers_with_caches_of_different_kinds_stays_with_the_reason():
    chain = find_units(mixed("gemma2"), granularity="sublayer")
    assert chain.removable == (1, 3, 5, 7)
    assert "caches of different kinds (full_attention, sliding_attention)" in chain[0].why
    assert {unit.kind for unit in chain if unit.removable} == {"Gemma2RMSNorm+Gemma2MLP+Gemma2RMSNorm"}


def test_layers_with_caches_of_one_kind_that_is_not_the_usual_are_fine():
    model = mixed("mistral")
    chain = find_units(model, granularity="sublayer")
    small = apply(model, Plan.removing(chain, [0, 4]))
    assert compare_generation(small, PROMPT, tokens=12)[0]


def reasons(model: Any, path: str) -> str:
    return why_not_inside(model, [path])


def test_what_has_no_place_in_the_cache_may_leave_any_model():
    model = llama()[0]
    assert reasons(model, "model.layers.1.mlp") == ""
    assert reasons(model, "model.layers.1.input_layernorm") == ""


def test_numbers_may_be_held_under_other_names():
    model: Any = llama()[0]
    for layer in model.model.layers:
        layer.self_attn.layer_id = vars(layer.self_attn).pop("layer_idx")
    del model.model.layers[1]
    assert reasons(model, "model.layers.1.self_attn") == ""
    renumber_(model)
    assert [layer.self_attn.layer_id for layer in model.model.layers] == [0, 1, 2]


def test_attention_outside_of_a_list_stays_with_the_reason():
    model: Any = llama()[0]
    model.model.extra = model.model.layers[1].self_attn
    model.model.layers[1].self_attn = torch.nn.Identity()
    assert reasons(model, "model.extra") == "another module uses its place in the cache"


def test_a_place_that_another_module_uses_too_is_not_given_up():
    model: Any = llama()[0]
    model.model.layers[1].mlp.layer_idx = 1
    assert reasons(model, "model.layers.1.self_attn") == "another module uses its place in the cache"


def test_a_layer_may_bear_the_number_of_its_attention():
    model: Any = llama()[0]
    model.model.layers[1].layer_idx = 1
    assert reasons(model, "model.layers.1.self_attn") == ""


def test_what_depends_on_its_number_stays_with_the_reason():
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=64, scale_attn_by_inverse_layer_idx=True
    )
    model = transformers.GPT2LMHeadModel(config)
    assert "what a layer does depends on its number" in reasons(model, "transformer.h.0.attn")


def test_a_config_of_parts_stays_with_the_reason(monkeypatch):
    model: Any = llama()[0]
    monkeypatch.setattr(type(model.config), "is_heterogeneous", True, raising=False)
    assert "per_layer_config" in reasons(model, "model.layers.0.self_attn")
