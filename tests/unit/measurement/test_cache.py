import pytest
import torch
from torch import nn

from shoal.measurement.cache import CacheSize, cache_size

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
STATES = {"hidden_size": 32, "state_size": 8, "conv_kernel": 4, "num_hidden_layers": 4, "vocab_size": 64}
SHORT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 64, "n_positions": 9}
# Model class, its config, bytes: what a token adds for good, what is there from the first token, windows.
KEPT = {
    # Four layers, keys and values, heads of 8 numbers of 4 bytes.
    "as many heads": ("LlamaForCausalLM", TEXT, 4 * 2 * 4 * 8 * 4, 0, {}),
    "fewer heads": ("LlamaForCausalLM", GROUPED, 4 * 2 * 2 * 8 * 4, 0, {}),
    "windows": (
        "Gemma2ForCausalLM",
        {**GROUPED, "head_dim": 8, "sliding_window": 8},
        2 * 2 * 2 * 8 * 4,
        0,
        {7: 2 * 2 * 2 * 8 * 4},
    ),
    # Twice the width, by the kernel and by the states.
    "states alone": ("MambaForCausalLM", STATES, 0, 4 * 64 * (4 + 8) * 4, {}),
    "few positions": ("GPT2LMHeadModel", SHORT, 4 * 2 * 32 * 4, 0, {}),
}


def build(name, fields):
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, name)
    return cls(cls.config_class(**fields)).eval()


def tokens(length):
    ids = torch.arange(length).remainder(60)[None] + 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def kept_by(model, length):
    """Bytes of the keys and values that the layers of the model's cache hold."""
    with torch.no_grad():
        cache = model(**tokens(length), use_cache=True).past_key_values
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize("name", KEPT)
def test_what_a_token_adds_is_what_its_keys_and_values_take(name):
    cls, fields, per_token, state, windows = KEPT[name]
    found = cache_size(build(cls, fields), tokens(9))
    assert found == CacheSize(per_token=per_token, state=state, windows=windows)
    assert found.per_first_token == per_token + sum(windows.values())


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize("name", ["fewer heads", "windows"])
def test_the_total_is_what_a_real_cache_holds(name, length):
    cls, fields, *_ = KEPT[name]
    model = build(cls, fields)
    assert cache_size(model, tokens(5)).total(length) == kept_by(model, length)


def test_a_cache_of_another_dtype_has_another_size():
    model = build("LlamaForCausalLM", GROUPED)
    whole = cache_size(model, tokens(16)).per_token
    assert cache_size(model.bfloat16(), tokens(16)).per_token == whole / 2


def test_more_samples_do_not_count_twice():
    model = build("LlamaForCausalLM", GROUPED)
    two = {name: value.repeat(2, 1) for name, value in tokens(16).items()}
    assert cache_size(model, two) == cache_size(model, tokens(16))


def test_what_the_encoder_handed_over_is_no_matter_of_the_number_of_tokens():
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 3, "num_heads": 4, "vocab_size": 64}
    model = build("T5ForConditionalGeneration", sizes)
    example = {"input_ids": tokens(12)["input_ids"], "decoder_input_ids": tokens(4)["input_ids"]}
    each = 3 * 2 * 4 * 8 * 4
    assert cache_size(model, example) == CacheSize(per_token=each, state=12 * each)


def test_the_model_is_left_as_it_was_found():
    model = build("LlamaForCausalLM", GROUPED).train()
    model.config.use_cache = True
    before = torch.get_rng_state()
    cache_size(model, tokens(16))
    assert model.training
    assert model.config.use_cache
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_without_a_cache_have_no_size_of_one():
    assert cache_size(nn.Linear(2, 2), torch.zeros(1, 2)) is None
    assert cache_size(build("BertModel", TEXT), tokens(4)) is None
    assert cache_size(build("LlamaForCausalLM", GROUPED), {"inputs_embeds": torch.zeros(1, 4, 32)}) is None
