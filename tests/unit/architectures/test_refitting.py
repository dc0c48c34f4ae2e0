from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from shoal.architectures import refitting
from shoal.architectures.bypassing import bypassed
from shoal.architectures.huggingface import is_pretrained, owner_of
from shoal.architectures.refitting import plan_refit, why_not
from shoal.errors import UnitError
from shoal.plan import Plan
from shoal.surgery.removal import remove_units
from shoal.units import Chain, Unit

transformers = pytest.importorskip("transformers")

LAYERS = 4
TEXT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 32, "n_embd": 16, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
    | {"bos_token_id": 1, "eos_token_id": 2},
    "opt": TEXT | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "distilbert": {"vocab_size": 32, "dim": 16, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 32}
    | {"max_position_embeddings": 64},
    "gemma": TEXT | {"num_key_value_heads": 2, "head_dim": 4},
    "mistral": TEXT | {"num_key_value_heads": 2, "sliding_window": 3},
    "stablelm": TEXT | {"num_key_value_heads": 4},
    "qwen2": TEXT
    | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2, "num_key_value_heads": 2},
    "qwen3": TEXT
    | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}
    | {"head_dim": 4, "num_key_value_heads": 2},
    "gemma2": TEXT | {"sliding_window": 3, "head_dim": 4},
    "gemma3_text": TEXT | {"sliding_window": 3, "head_dim": 4, "sliding_window_pattern": 2},
    "smollm3": TEXT | {"sliding_window": 3, "use_sliding_window": True, "no_rope_layer_interval": 2},
}
VISION = {"image_size": 16, "patch_size": 8, "num_labels": 3}
SPECIAL["deit"] = TEXT | {"architectures": ["DeiTForImageClassification"]}
PICTURES = ("vit", "deit", "dinov2")
# All families are cut in tests/families.
KINDS = ("bert", "dinov2", "gemma2", "gpt2", "llama", "opt", "qwen2", "smollm3")
ENCODERS = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")


def model_of(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    fields = SPECIAL.get(kind, TEXT) | (VISION if kind in PICTURES else {}) | more
    config = transformers.AutoConfig.for_model(kind, **fields)
    auto = transformers.AutoModelForCausalLM
    if kind in ENCODERS:
        auto = transformers.AutoModelForMaskedLM
    if kind in PICTURES:
        auto = transformers.AutoModelForImageClassification
    model = auto.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    if kind in PICTURES:
        return {"pixel_values": torch.randn(2, 3, 16, 16)}
    return {"input_ids": torch.randint(3, 32, (2, 9))}


def container_of(model: Any) -> str:
    return next(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers
    )


def chain_of(model: Any, container: str) -> Chain:
    units = tuple(
        Unit(
            name=f"{container}.{index}",
            index=index,
            modules=(f"{container}.{index}",),
            container=container,
            group=container,
            kind=type(layer).__name__,
            params=sum(p.numel() for p in layer.parameters()),
            macs=0,
            removable=True,
        )
        for index, layer in enumerate(model.get_submodule(container))
    )
    params = sum(p.numel() for p in model.parameters())
    return Chain(units=units, model=type(model).__name__, params=params, macs=0)


def cut(model: Any, removed: list[int]) -> Any:
    return remove_units(model, Plan.removing(chain_of(model, container_of(model)), removed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_shallower_model_answers_like_the_bypassed_one(kind):
    model, inputs = model_of(kind), inputs_of(kind)
    chain = chain_of(model, container_of(model))
    for removed in ([], [0], [1, 2], [3], [0, 1, 3]):
        small: Any = remove_units(model, Plan.removing(chain, removed))
        with torch.no_grad(), bypassed(model, chain, removed):
            expected = model(**inputs, **({} if kind in PICTURES else {"use_cache": False})).logits
            found = small(**inputs).logits
        assert torch.equal(found, expected), removed
        assert small.config.num_hidden_layers == LAYERS - len(removed)
        assert model.config.num_hidden_layers == LAYERS


@pytest.mark.parametrize("kind", KINDS)
def test_a_shallower_model_reloads_with_all_its_weights_and_no_others(kind, tmp_path):
    small, inputs = cut(model_of(kind), [0, 2]), inputs_of(kind)
    small.save_pretrained(tmp_path)
    again, info = type(small).from_pretrained(tmp_path, output_loading_info=True)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, small(**inputs).logits)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.num_hidden_layers == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (*ENCODERS, *PICTURES)])
def test_a_shallower_model_generates_the_same_with_and_without_cache(kind):
    small, prompt = cut(model_of(kind), [0, 2]), torch.randint(3, 32, (1, 5))
    layers = small.get_submodule(container_of(small))
    numbers = [{vars(m)["layer_idx"] for m in layer.modules() if "layer_idx" in vars(m)} for layer in layers]
    assert numbers == [{0}, {1}]
    cached, plain = (
        small.generate(prompt, max_new_tokens=8, do_sample=False, use_cache=use, pad_token_id=0)
        for use in (True, False)
    )
    assert cached.tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("kind", "removed", "fields"),
    [
        ("qwen2", [0], {"max_window_layers": 1, "layer_types": ["full", "sliding", "sliding"]}),
        ("qwen3", [2, 3], {"max_window_layers": 2, "layer_types": ["full", "full"]}),
        ("gemma2", [1], {"layer_types": ["sliding", "sliding", "full"]}),
        ("smollm3", [1], {"no_rope_layers": [1, 1, 0]}),
        ("dinov2", [0], {"stage_names": ["stem", "stage1", "stage2", "stage3"], "out_features": ["stage3"]}),
    ],
)
def test_fields_of_the_config_that_describe_layers_follow(kind, removed, fields):
    config = cut(model_of(kind), removed).config
    for name, expected in fields.items():
        found = getattr(config, name)
        if name == "layer_types":
            found = [entry.removesuffix("_attention") for entry in found]
        assert found == expected


def test_all_parts_of_the_copy_share_one_config_of_their_own():
    model = model_of("llama")
    before = copy.deepcopy(model.config.to_dict())
    small = cut(model, [1])
    assert {id(m.config) for m in small.modules() if hasattr(m, "config")} == {id(small.config)}
    assert model.config.to_dict() == before


def test_a_model_that_recorded_hidden_states_before_records_the_right_number_after():
    model, inputs = model_of("llama"), inputs_of("llama")
    model(**inputs, output_hidden_states=True)
    assert len(cut(model, [1])(**inputs, output_hidden_states=True).hidden_states) == LAYERS


def test_a_transformers_model_inside_another_network_is_repaired_too():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model_of("bert").bert

    model = Wrapped()
    small: Any = remove_units(model, Plan.removing(chain_of(model, "encoder.encoder.layer"), [0]))
    assert owner_of(model, "encoder.encoder.layer")[0] == "encoder"  # type: ignore[index]
    assert small.encoder.config.num_hidden_layers == LAYERS - 1


def refused(model: Any, container: str, match: str, removed: tuple[int, ...] = (0,)) -> None:
    before = copy.deepcopy(model.config.to_dict())
    with pytest.raises(UnitError, match=match):
        remove_units(model, Plan.removing(chain_of(model, container), removed))
    assert model.config.to_dict() == before


def test_units_outside_the_list_that_the_config_counts_are_refused():
    model = model_of("llama")
    model.extra = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    refused(model, "extra", "config of a llama model describes no list at 'extra'")


def test_a_per_layer_field_that_shoal_does_not_know_is_refused():
    model = model_of("llama")
    model.config.experts_of = [1, 2, 3, 4]
    refused(
        model,
        "model.layers",
        r"fields for which shoal has no rule: experts_of. Declare one: .*declare\('experts_of', …\)",
    )


def test_heads_pruned_by_layer_are_refused():
    model = model_of("bert")
    model.config.heads_cut = {1: [0]}
    refused(model, "bert.encoder.layer", "heads_cut")


def test_a_config_that_disagrees_with_the_layers_is_refused():
    model = model_of("llama")
    model.config.num_hidden_layers = 7
    refused(model, "model.layers", "its config describes 7 layers and it has 4")


def test_layers_whose_result_depends_on_their_number_are_refused():
    refused(model_of("gpt2", scale_attn_by_inverse_layer_idx=True), "transformer.h", "depends on its number")


def test_a_network_that_does_more_in_the_middle_is_refused(monkeypatch):
    monkeypatch.setattr(refitting, "MIDWAY", {"llama"})
    assert "in the middle of a llama does depends on the number" in why_not(model_of("llama"), "model.layers")


def test_removing_all_layers_is_refused():
    refused(model_of("llama"), "model.layers", "at least one of its 4 layers has to stay", (0, 1, 2, 3))


def test_a_pass_through_in_a_pretrained_model_is_refused():
    assert "pass-through" in why_not(model_of("llama"), "model.layers", removal="bypass")


def test_a_layer_that_would_be_another_at_its_new_place_is_refused_with_the_nearest_cut():
    config = transformers.ModernBertConfig(**TEXT | {"num_hidden_layers": 6})
    model = transformers.ModernBertModel(config)
    match = (
        r"layers \[0\] of layers .* in place of layers.1.attn_norm .*The nearest cut that works removes \[1\]"
    )
    refused(model, "layers", match)
    small: Any = remove_units(model, Plan.removing(chain_of(model, "layers"), [1]))
    assert len(small.layers) == 5


def jamba(**more: Any) -> Any:
    fields = TEXT | {"num_hidden_layers": 4, "num_experts": 2, "num_key_value_heads": 2}
    fields |= {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 9,
        "expert_layer_offset": 8,
    }
    return transformers.JambaForCausalLM(transformers.JambaConfig(**fields | more))


def test_layers_of_a_kind_must_come_at_equal_distances():
    model = jamba(num_hidden_layers=6)
    match = r"attn_layer_period=2, attn_layer_offset=1\), .*nearest cut that works removes \[3\]"
    refused(model, "model.layers", match, (2,))
    small: Any = cut(model, [3])
    assert (small.config.attn_layer_period, small.config.attn_layer_offset) == (3, 1)


def test_the_last_layer_with_attention_stays():
    refused(jamba(), "model.layers", "no layer with attention would be left.*nearest cut", (1, 3))


def test_an_encoder_and_a_decoder_are_cut_by_fields_of_their_own():
    config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_layers=3, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config).eval()
    both = [chain_of(model, f"{part}.block").units for part in ("encoder", "decoder")]
    units = tuple(replace(unit, index=index) for index, unit in enumerate((*both[0], *both[1])))
    chain = replace(chain_of(model, "encoder.block"), units=units)
    small: Any = remove_units(model, Plan.removing(chain, [1, 4, 5]))
    assert (small.config.num_layers, small.config.num_decoder_layers) == (2, 1)
    assert (small.encoder.config.num_layers, small.decoder.config.num_layers) == (2, 1)
    assert (model.config.num_layers, model.decoder.config.num_layers) == (3, 3)


@pytest.mark.parametrize(("layer", "expected"), [(-2, -2), (3, 2), ([1, 3], [1, 2])])
def test_what_a_model_takes_from_its_tower_follows_the_tower(layer, expected):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**sizes, num_hidden_layers=4, image_size=8, patch_size=4)
    text = transformers.LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=32)
    parts = {"vision_config": vision, "text_config": text, "image_token_index": 31}
    config = transformers.LlavaConfig(**parts, vision_feature_layer=layer)
    model = transformers.LlavaForConditionalGeneration(config)
    container = next(name for name, each in model.named_modules() if name.endswith("encoder.layers"))
    small: Any = cut_list(model, container, [1])
    assert small.config.vision_feature_layer == expected
    assert small.config.vision_config.num_hidden_layers == 3
    assert model.config.vision_feature_layer == layer


def test_stages_are_counted_by_a_list():
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 3], num_stages=2)
    model = transformers.ConvNextModel(config).eval()
    small: Any = cut_list(model, "encoder.stages.1.layers", [1])
    assert list(small.config.depths) == [2, 2]


def cut_list(model: Any, container: str, removed: list[int]) -> Any:
    return remove_units(model, Plan.removing(chain_of(model, container), removed))


@pytest.mark.parametrize("kept", [[0, 2, 3], [3], [0, 1, 2, 3]])
def test_what_leaves_with_parts_of_weights_is_counted(kept):
    fields = {"vocab_size_per_layer_input": 32, "hidden_size_per_layer_input": 4, "num_kv_shared_layers": 0}
    fields |= {"layer_types": ["full_attention"] * LAYERS, "activation_sparsity_pattern": [0.0] * LAYERS}
    fields |= {"intermediate_size": 32, "head_dim": 4, "num_key_value_heads": 2, "laurel_rank": 4}
    model = transformers.Gemma3nForCausalLM(transformers.Gemma3nTextConfig(**TEXT | fields))
    refit = plan_refit(model, {"model.layers": kept})
    assert refit.params == (LAYERS - len(kept)) * 4 * (32 + 16)
    small: Any = cut(model, [index for index in range(LAYERS) if index not in kept])
    assert small.model.embed_tokens_per_layer.weight.shape == (32, 4 * len(kept))


def test_a_removal_from_what_is_no_list_is_refused():
    with pytest.raises(
        UnitError, match="LlamaForCausalLM: the config of a llama model describes no list at 'lm_head'"
    ):
        plan_refit(model_of("llama"), {"lm_head": [0]})


def test_what_transformers_does_not_build_is_refused():
    model = model_of("llama")
    model.config.hidden_act = "none that there is"
    assert "does not build a llama model of its config" in why_not(model, "model.layers")
    model.config.num_attention_heads = 5
    assert "its config class refuses its config" in why_not(model, "model.layers")


def test_other_networks_are_not_pretrained():
    assert not is_pretrained(nn.Linear(2, 2))
    assert owner_of(nn.Sequential(nn.Linear(2, 2)), "0") is None
