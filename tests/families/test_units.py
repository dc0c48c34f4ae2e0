"""Units of Hugging Face models of many makes, where they stand, and words for what is none."""

import pytest
import torch

from families.tiny import made
from networks import gpt2, llama, randomised
from shoal.architectures import bypassed, find_units
from shoal.calling import call
from shoal.errors import DataError, UnknownArchitectureError

transformers = pytest.importorskip("transformers")

# Where the layers are.
PLACES = {
    "llama": "model.layers",
    "mixtral": "model.layers",
    "gpt_neox": "gpt_neox.layers",
    "gpt2": "transformer.h",
    "opt": "model.decoder.layers",
    "jamba": "model.layers",
    "mamba2": "backbone.layers",
    "RobertaModel": "encoder.layer",
    "BertForMaskedLM": "bert.encoder.layer",
    "DistilBertForMaskedLM": "distilbert.transformer.layer",
    "Dinov2ForImageClassification": "dinov2.encoder.layer",
}


@pytest.mark.parametrize("name", PLACES)
def test_the_layers_of_a_family_are_its_units(name):
    chain = find_units(*made(name))
    assert [unit.name for unit in chain] == [f"{PLACES[name]}.{index}" for index in range(8)]
    assert chain.removable == tuple(range(8))
    assert {unit.removal for unit in chain} == {"delete"}
    assert len(chain.groups) == 1


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


def test_encoder_and_decoder_are_groups_and_the_first_layer_of_each_makes_the_positions_for_all():
    chain = find_units(*made("T5ForConditionalGeneration"))
    assert {name: list(units) for name, units in chain.groups.items()} == {
        "encoder.block": [*range(8)],
        "decoder.block": [*range(8, 16)],
    }
    assert chain.removable == (*range(1, 8), *range(9, 16))
    for first in ("encoder.block.0", "decoder.block.0"):
        assert chain[first].why.startswith("it returns values beside the hidden state")


def test_stages_of_a_convolutional_family_are_its_groups():
    chain = find_units(*made("ConvNextForImageClassification"))
    assert [len(units) for units in chain.groups.values()] == [2, 4, 2]
    assert chain.removable == tuple(range(8))


def test_layers_that_share_all_weights_are_refused_with_the_reason():
    sizes = {"hidden_size": 32, "embedding_size": 16, "intermediate_size": 64, "vocab_size": 64}
    config = transformers.AlbertConfig(num_hidden_layers=4, num_attention_heads=4, **sizes)
    with pytest.raises(UnknownArchitectureError, match=r"it is used 4 times \(shared weights\)"):
        find_units(randomised(transformers.AlbertModel(config)))


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
