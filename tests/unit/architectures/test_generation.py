from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shoal.architectures.generation import cannot_generate, compare_generation

transformers = pytest.importorskip("transformers")
PROMPT = torch.arange(1, 5)[None]
SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def llama() -> Any:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, intermediate_size=32)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def test_a_sound_model_generates_the_same_both_ways(llama):
    assert compare_generation(llama, PROMPT) == (True, "8 tokens equal with and without cache, logits finite")


def test_a_model_whose_layers_share_a_cache_entry_does_not(llama):
    llama.model.layers[1].self_attn.layer_idx = 0
    passed, detail = compare_generation(llama, PROMPT)
    assert not passed
    assert "differ with and without cache" in detail


def test_logits_that_are_not_finite_are_told(llama):
    nn.init.constant_(llama.lm_head.weight, float("nan"))
    assert compare_generation(llama, PROMPT) == (False, "logits of generated token 0 are not finite")


def test_a_tie_ends_the_comparison(llama, monkeypatch):
    logits = iter([[torch.tensor([1.0, 1.0 - 1e-7])], [torch.tensor([1.0 - 1e-7, 1.0])]])
    monkeypatch.setattr("shoal.architectures.generation._generate", lambda *_, **__: next(logits))
    assert compare_generation(llama, PROMPT) == (True, "0 tokens equal with and without cache, then a tie")


@pytest.mark.parametrize(
    ("kind", "match"),
    [("BertModel", "does not generate"), ("BertLMHeadModel", "not used as a decoder")],
)
def test_encoders_are_not_compared(kind, match):
    config = transformers.BertConfig(**SMALL, intermediate_size=8)
    assert match in cannot_generate(getattr(transformers, kind)(config))


def test_encoders_with_decoders_are_not_compared():
    config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
    assert "an encoder with a decoder" in cannot_generate(transformers.T5ForConditionalGeneration(config))


def test_language_models_are_compared(llama):
    assert cannot_generate(llama) == ""
    assert "Linear does not generate" in cannot_generate(nn.Linear(1, 1))
