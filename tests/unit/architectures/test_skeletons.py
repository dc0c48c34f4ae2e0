from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from networks import gpt2, llama
from shoal.architectures import skeletons
from shoal.architectures.skeletons import (
    as_read,
    config_fields,
    configs_inside,
    difference_of,
    is_config,
    listed,
    refusals,
    skeleton,
)
from shoal.errors import MissingExtraError

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("tied", [True, False])
def test_a_skeleton_takes_no_memory_and_no_random_numbers(tied):
    model: Any = llama(tie_word_embeddings=tied)[0]
    state = torch.get_rng_state()
    built: Any = skeleton(type(model), model.config)
    assert {parameter.device.type for parameter in built.parameters()} == {"meta"}
    assert {buffer.device.type for buffer in built.buffers()} == {"cpu"}
    assert torch.equal(torch.get_rng_state(), state)
    assert (built.lm_head.weight is built.model.embed_tokens.weight) is tied
    assert difference_of(model, built) == ""


def test_a_skeleton_larger_than_any_memory_is_built():
    sizes = {"hidden_size": 1 << 20, "intermediate_size": 1 << 24, "num_attention_heads": 1 << 10}
    config = transformers.MixtralConfig(**sizes, num_hidden_layers=2, num_local_experts=64)
    built = skeleton(transformers.MixtralForCausalLM, config)
    assert built is not None
    assert sum(parameter.numel() for parameter in built.parameters()) > 1 << 50


def test_a_skeleton_is_built_once_for_equal_configs():
    model = llama()[0]
    first, again = (skeleton(type(model), copy.deepcopy(model.config)) for _ in range(2))
    assert first is again
    other: Any = copy.deepcopy(model.config)
    other.hidden_size *= 2
    assert skeleton(type(model), other) is not first


def test_what_its_class_cannot_build_has_no_skeleton():
    assert skeleton(type(llama()[0]), gpt2()[0].config) is None


def test_without_accelerate_the_extra_is_named(monkeypatch):
    def missing(name: str) -> Any:
        if name == "accelerate":
            raise ImportError(name)
        return imported(name)

    imported = skeletons.importlib.import_module

    model: Any = llama(max_position_embeddings=77)[0]
    monkeypatch.setattr(skeletons.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"accelerate.*shoal\[hf\]"):
        skeleton(type(model), model.config)


def test_a_config_is_read_as_it_is_written():
    config = transformers.Qwen3MoeConfig(num_hidden_layers=3, mlp_only_layers=[1])
    again = as_read(config)
    assert type(again) is type(config)
    assert again.mlp_only_layers == [1]
    assert again.mlp_only_layers is not config.mlp_only_layers
    assert vars(again)["num_hidden_layers"] == 3


def test_configs_are_found_inside_configs():
    config = transformers.CLIPConfig()
    assert [path for path, _ in configs_inside(config)] == [(), ("text_config",), ("vision_config",)]
    assert "text_config" not in config_fields(config)
    assert is_config(config)
    assert not is_config({"model_type": "clip"})


def test_many_names_are_listed_in_few_words():
    assert listed(["a", "b"]) == "a, b"
    assert listed("abcde") == "a, b, c and 2 more"


def test_what_configs_refuse_includes_the_errors_of_checked_classes():
    assert issubclass(ValueError, refusals())
    assert any(error.__module__.startswith("huggingface_hub") for error in refusals())
