from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from networks import gpt2, llama
from shoal.architectures.hidden import Bypass
from shoal.architectures.skeletons import difference_of
from shoal.architectures.stock import build_from_config, read_config, why_not_stock, write_config
from shoal.errors import ConfigError

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("make", [llama, gpt2, lambda: llama(tie_word_embeddings=True)])
def test_a_model_as_its_config_describes_it_is_stock(make):
    assert why_not_stock(make()[0]) == ""


def edited(edit: Any) -> Any:
    model: Any = llama()[0]
    edit(model.model.layers)
    return model


def lose(layers: Any) -> None:
    layers[1].mlp = nn.Identity()


def gain(layers: Any) -> None:
    layers[2].extra = nn.Linear(2, 2)


def resize(layers: Any) -> None:
    layers[0].mlp.down_proj = nn.Linear(64, 31, bias=False)


def shorten(layers: Any) -> None:
    del layers[3]


def stand_in(layers: Any) -> None:
    layers[0].mlp.act_fn = Bypass()


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lose, "it lacks model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight"),
        (gain, "it alone has model.layers.2.extra.bias, model.layers.2.extra.weight"),
        (resize, "it has another size of model.layers.0.mlp.down_proj.weight"),
        (shorten, "it lacks model.layers.3.input_layernorm.weight"),
        (stand_in, "stand-ins take the places of model.layers.0.mlp.act_fn, which its config cannot say"),
    ],
)
def test_a_model_that_its_config_does_not_describe_is_not_stock(edit, why):
    assert why in why_not_stock(edited(edit))


def test_a_model_whose_weights_are_not_to_be_those_of_its_config_is_left_to_its_library():
    model = edited(lose)
    model.hf_quantizer = object()
    assert why_not_stock(model) == ""


def test_many_differences_are_counted():
    model, other = edited(shorten), llama()[0]
    assert difference_of(model, other).endswith(" and 6 more")
    assert difference_of(other, other) == ""


def test_a_config_builds_the_network_again(tmp_path):
    model: Any = llama()[0].to(torch.bfloat16)
    model.generation_config.max_new_tokens = 7
    before, state = model.config.to_dict(), torch.get_rng_state()
    write_config(model, model.config, tmp_path)
    again: Any = build_from_config(tmp_path)
    assert type(again) is type(model)
    assert difference_of(again, model) == ""
    assert again.dtype == torch.bfloat16
    assert again.generation_config.max_new_tokens == 7
    assert model.config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert read_config(tmp_path).architectures == ["LlamaForCausalLM"]


def test_a_model_without_generation_config_is_built_again_too(tmp_path):
    model: Any = llama()[0].model
    write_config(model, model.config, tmp_path)
    assert type(build_from_config(tmp_path)) is type(model)


def test_what_a_gguf_file_left_behind_is_not_written(tmp_path):
    model: Any = llama()[0]
    model.config.quantization_config = {"quant_method": "gguf"}
    write_config(model, model.config, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert model.config.quantization_config == {"quant_method": "gguf"}


@pytest.mark.parametrize("text", ["", "{}", '{"model_type": "unheard"}', '{"model_type": "llama"}'])
def test_a_config_that_builds_nothing_says_what_would(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"asked to build the network that .* describes: .* Pass model="):
        build_from_config(tmp_path)
