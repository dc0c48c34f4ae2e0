"""Units of every family of Hugging Face models that shoal knows, and words for those it does not."""

import pytest
import torch

from networks import gpt2, llama, randomised
from shoal.architectures import bypassed, find_units
from shoal.architectures.huggingface import FAMILIES
from shoal.calling import call
from shoal.errors import DataError, UnknownArchitectureError

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 64,
}
TEXT = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**TEXT, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 8}
IMAGE = {**{k: v for k, v in SIZES.items() if k != "vocab_size"}, "image_size": 16, "patch_size": 4}
OPT = {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
DISTIL = {"dim": 32, "hidden_dim": 64, "n_layers": 4, "n_heads": 4, "vocab_size": 64}

# Model class, the fields of its config, where its layers are.
KNOWN = {
    "llama": ("LlamaForCausalLM", GROUPED, "model.layers"),
    "mistral": ("MistralForCausalLM", WIDE, "model.layers"),
    "qwen2": ("Qwen2ForCausalLM", GROUPED, "model.layers"),
    "qwen3": ("Qwen3ForCausalLM", WIDE, "model.layers"),
    "gemma2": ("Gemma2ForCausalLM", WIDE, "model.layers"),
    "phi3": ("Phi3ForCausalLM", GROUPED, "model.layers"),
    "gpt_neox": ("GPTNeoXForCausalLM", TEXT, "gpt_neox.layers"),
    "opt": ("OPTForCausalLM", OPT, "model.decoder.layers"),
    "bert": ("BertForMaskedLM", TEXT, "bert.encoder.layer"),
    "roberta": ("RobertaModel", TEXT, "encoder.layer"),
    "distilbert": ("DistilBertModel", DISTIL, "transformer.layer"),
    "vit": ("ViTForImageClassification", IMAGE, None),
}


def build(model, fields):
    cls = getattr(transformers, model)
    return randomised(cls(cls.config_class(**fields)))


@pytest.mark.parametrize("family", KNOWN)
def test_the_layers_of_a_known_family_are_its_units(family):
    model, fields, container = KNOWN[family]
    network = build(model, fields)
    assert network.config.model_type == family in FAMILIES
    chain = find_units(network)
    assert len(chain) == len(chain.removable) == 4
    assert {unit.removal for unit in chain} == {"delete"}
    assert len(chain.groups) == 1
    if container is not None:
        assert [unit.name for unit in chain] == [f"{container}.{index}" for index in range(4)]


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_bypassed_layer_is_one_that_is_not_there(make):
    model, example = make()
    chain = find_units(model, example)
    model.config.use_cache = False
    with torch.no_grad(), bypassed(model, chain, [1, 2]):
        found = call(model, example).logits
    container = model.get_submodule(chain[0].container)
    del container[1:3]
    with torch.no_grad():
        assert torch.equal(found, call(model, example).logits)


@pytest.mark.parametrize("cache", [True, False])
def test_a_config_and_its_cache_are_left_as_they_were(cache):
    model, example = llama(use_cache=cache)
    before, weights = model.config.to_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    find_units(model.train(), example)
    assert model.config.to_dict() == before
    assert model.training
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_nothing(dtype):
    model, example = llama()
    assert find_units(model.to(dtype), example).removable == (0, 1, 2, 3)


def test_units_are_found_while_gradients_are_checkpointed():
    model, example = llama()
    # Renamed in transformers 5.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    model.train()
    assert find_units(model, example).removable == (0, 1, 2, 3)


def test_experts_are_part_of_their_layer_and_the_family_is_refused_in_words():
    chain = find_units(build("MixtralForCausalLM", {**GROUPED, "num_local_experts": 2}))
    assert [unit.name for unit in chain] == [f"model.layers.{index}" for index in range(4)]
    assert chain.removable == ()
    assert "how the config of a mixtral model describes its layers" in chain[0].why


def test_an_encoder_with_a_decoder_is_refused_in_words():
    fields = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 3, "num_heads": 4, "vocab_size": 64}
    chain = find_units(build("T5ForConditionalGeneration", fields))
    assert [unit.container for unit in chain] == ["encoder.block"] * 3 + ["decoder.block"] * 3
    # The first block of each makes the positions' bias that the others are handed.
    assert chain["encoder.block.0"].why.startswith("it returns values beside the hidden state")
    assert all("how the config of a t5 model" in chain[f"decoder.block.{index}"].why for index in (1, 2))


def test_stages_of_a_convolutional_family_are_its_groups():
    network = build("ConvNextModel", {"hidden_sizes": [8, 16], "depths": [2, 3], "num_stages": 2})
    chain = find_units(network, {"pixel_values": torch.zeros(1, 3, 32, 32)})
    assert [len(units) for units in chain.groups.values()] == [2, 3]
    assert chain.removable == ()


def test_layers_that_share_all_weights_are_refused_with_the_reason():
    fields = {**TEXT, "embedding_size": 16}
    with pytest.raises(UnknownArchitectureError, match=r"it is used 4 times \(shared weights\)"):
        find_units(build("AlbertModel", fields))


def test_a_model_inside_a_network_of_one_s_own_keeps_its_rules():
    model, example = llama()

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = model.model
            self.head = torch.nn.Linear(32, 3)

        def forward(self, input_ids, attention_mask):
            states = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return self.head(states[:, -1])

    chain = find_units(Classifier(), example)
    assert [unit.name for unit in chain] == [f"text.layers.{index}" for index in range(4)]
    assert chain.removable == (0, 1, 2, 3)


def test_inputs_of_another_kind_are_the_caller_s_to_mend():
    model, _ = llama()
    with pytest.raises(DataError, match="asked to run LlamaForCausalLM on the example {images: float32"):
        find_units(model, {"images": torch.zeros(1, 3)})
