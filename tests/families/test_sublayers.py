"""Attention and MLP of Hugging Face models of many makes: found, removed, generated with."""

import random

import pytest
import torch
from torch.utils._pytree import tree_leaves

from families.special import MAJOR
from networks import randomised
from shoal.architectures import bypassed, example_for, find_units
from shoal.architectures.generation import cannot_generate, compare_generation
from shoal.calling import call, evaluating
from shoal.plan import Plan
from shoal.surgery import apply

transformers = pytest.importorskip("transformers")

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
IMAGE = {**{k: v for k, v in TEXT.items() if k != "vocab_size"}, "image_size": 16, "patch_size": 4}
OPT = {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
NEO = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "vocab_size": 64, "bos_token_id": 1}
NEO |= {"eos_token_id": 2, "attention_types": [[["global", "local"], 2]]}

# Model class, the fields of its config, what the sublayers of the second layer consist of.
SPLIT = {
    "llama": ("LlamaForCausalLM", WIDE, "input_layernorm self_attn | post_attention_layernorm mlp"),
    "one norm for both": ("PhiForCausalLM", TEXT, "self_attn | mlp"),
    "side by side": ("GPTNeoXForCausalLM", TEXT, "input_layernorm attention | post_attention_layernorm mlp"),
    "norms behind": (
        "Olmo2ForCausalLM",
        TEXT,
        "self_attn post_attention_layernorm | mlp post_feedforward_layernorm",
    ),
    "experts": (
        "MixtralForCausalLM",
        {**WIDE, "num_local_experts": 2},
        f"input_layernorm self_attn | post_attention_layernorm {'mlp' if MAJOR > 4 else 'block_sparse_moe'}",
    ),
    "numbers of another name": ("GPTNeoForCausalLM", NEO, "ln_1 attn | ln_2 mlp"),
    "scaled": ("GraniteForCausalLM", TEXT, "input_layernorm self_attn | post_attention_layernorm mlp"),
    "MLP in the layer": (
        "OPTForCausalLM",
        OPT,
        "self_attn_layer_norm self_attn | final_layer_norm fc1 activation_fn fc2",
    ),
    "sums inside modules": (
        "BertForMaskedLM",
        TEXT,
        "attention.self attention.output.dense | intermediate output.dense",
    ),
    "norms after the sums": (
        "DistilBertForMaskedLM",
        {"dim": 32, "hidden_dim": 64, "n_layers": 4, "n_heads": 4, "vocab_size": 64},
        "attention | ffn",
    ),
    "images": (
        "ViTForImageClassification",
        IMAGE,
        f"layernorm_before attention | layernorm_after {'mlp' if MAJOR > 4 else 'intermediate output.dense'}",
    ),
    "layer scale": (
        "Dinov2ForImageClassification",
        IMAGE,
        "norm1 attention layer_scale1 | norm2 mlp layer_scale2",
    ),
}
PROMPT = torch.tensor([[1, 5, 7, 9, 11]])


def build(model, fields):
    torch.manual_seed(0)
    cls = getattr(transformers, model)
    return randomised(cls(cls.config_class(**fields)))


def outputs(model, example):
    with evaluating(model), torch.no_grad():
        return [leaf for leaf in tree_leaves(dict(call(model, example))) if isinstance(leaf, torch.Tensor)]


def check_removals(model, chain):
    """Bypassed equals removed, and what generates does so with its cache."""
    example, generator = example_for(model), random.Random(1)
    for count in (1, len(chain.removable) // 2):
        removed = sorted(generator.sample(chain.removable, count))
        small = apply(model, Plan.removing(chain, removed))
        with bypassed(model, chain, removed):
            expected = outputs(model, example)
        assert all(map(torch.equal, outputs(small, example), expected)), removed
        if not cannot_generate(small):
            assert compare_generation(small, PROMPT)[0], removed


@pytest.mark.parametrize("name", SPLIT)
def test_layers_consist_of_attention_and_mlp(name):
    cls, fields, parts = SPLIT[name]
    model = build(cls, fields)
    layers, chain = find_units(model), find_units(model, granularity="sublayer")
    assert len(chain) == len(chain.removable) == 2 * len(layers)
    expected = [tuple(f"{layers[1].name}.{module}" for module in part.split()) for part in parts.split("|")]
    assert [unit.modules for unit in chain][2:4] == expected
    assert list(chain.groups) == list(layers.groups)
    check_removals(model, chain)


def test_attention_whose_cache_is_laid_out_by_kinds_stays():
    model = build("Gemma2ForCausalLM", WIDE)
    chain = find_units(model, granularity="sublayer")
    assert chain.removable == (1, 3, 5, 7)
    assert all("caches of different kinds" in chain[index].why for index in (0, 2, 4, 6))
    check_removals(model, chain)


def test_attention_that_returns_its_weights_may_go_too():
    model = build("LlamaForCausalLM", WIDE)
    model.set_attn_implementation("eager")
    chain = find_units(model, granularity="sublayer")
    assert len(chain.removable) == 8
    check_removals(model, chain)


def test_an_encoder_loses_attention_and_mlp_and_a_decoder_with_two_attentions_its_mlp():
    fields = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 3, "num_heads": 4, "vocab_size": 64}
    model = build("T5ForConditionalGeneration", fields)
    chain = find_units(model, granularity="sublayer")
    # The first block of each makes the positions' bias that the others are handed, and stays whole.
    for first in ("encoder.block.0", "decoder.block.0"):
        assert chain[first].why.startswith("it returns values beside the hidden state")
    assert [unit.name for unit in chain if unit.removable] == [
        f"encoder.block.{layer}.layer.{part}"
        for layer in (1, 2)
        for part in ("0.SelfAttention", "1.DenseReluDense")
    ] + [f"decoder.block.{layer}.layer.2.DenseReluDense" for layer in (1, 2)]
    attentions = [f"decoder.block.1.layer.{part}" for part in ("0.SelfAttention", "1.EncDecAttention")]
    assert all(chain[name].why == "another module uses its place in the cache" for name in attentions)
    check_removals(model, chain)
