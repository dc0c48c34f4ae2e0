from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from shoal.architectures.pretrained import (
    auto_class,
    copy_companions,
    dtype_of,
    find_gguf,
    is_stock,
    quiet,
    read_pretrained,
    read_tokenizer,
    write_pretrained,
)
from shoal.errors import MissingExtraError

transformers = pytest.importorskip("transformers")


@pytest.fixture
def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    return transformers.BertForMaskedLM(config).eval()


@pytest.mark.parametrize(
    ("architecture", "auto"),
    [
        ("LlamaForCausalLM", "AutoModelForCausalLM"),
        ("GPT2LMHeadModel", "AutoModelForCausalLM"),
        ("BertForMaskedLM", "AutoModelForMaskedLM"),
        ("BertModel", "AutoModel"),
        ("ViTForImageClassification", "AutoModelForImageClassification"),
        ("Nothing", ""),
    ],
)
def test_every_class_has_its_stock_loader(architecture, auto):
    assert auto_class(architecture) == auto


def test_only_classes_of_transformers_are_stock(bert):
    class Mine(transformers.BertModel):
        pass

    assert is_stock(bert)
    assert not is_stock(Mine(bert.config))
    assert not is_stock(nn.Linear(1, 1))


def test_writing_leaves_the_model_as_it_was(bert, tmp_path):
    before = dict(vars(bert.config))
    pointers = [p.data_ptr() for p in bert.parameters()]
    write_pretrained(bert, tmp_path)
    assert dict(vars(bert.config)) == before
    assert [p.data_ptr() for p in bert.parameters()] == pointers


def test_a_written_model_is_read_without_faults(bert, tmp_path):
    write_pretrained(bert, tmp_path)
    found = read_pretrained(tmp_path)
    assert type(found.model) is type(bert)
    assert not any(found.faults.values())
    ids = torch.arange(5)[None]
    assert torch.equal(found.model(ids).logits, bert(ids).logits)


def test_a_config_that_names_no_class_gives_the_base_model(bert, tmp_path):
    bert.bert.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"architectures"', '"forgotten"'))
    assert type(read_pretrained(tmp_path).model) is transformers.BertModel


def test_a_gguf_file_is_found_where_there_is_nothing_else(tmp_path):
    assert find_gguf(tmp_path) is None
    (tmp_path / "a.gguf").write_text("")
    assert find_gguf(tmp_path) == "a.gguf"
    (tmp_path / "b.gguf").write_text("")
    assert find_gguf(tmp_path) is None
    (tmp_path / "b.gguf").unlink()
    (tmp_path / "model.safetensors").write_text("")
    assert find_gguf(tmp_path) is None


def test_files_that_are_there_already_are_not_copied_over(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("tokenizer.json", "vocab.txt", "model.bin"):
        (source / name).write_text("new")
    (target / "vocab.txt").write_text("old")
    assert copy_companions(source, target) == ["tokenizer.json"]
    assert (target / "vocab.txt").read_text() == "old"


def test_there_may_be_no_tokenizer(tmp_path, monkeypatch):
    assert read_tokenizer(tmp_path) is None
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert read_tokenizer("nobody/nothing") is None


def test_quiet_leaves_bars_and_notes_as_they_were():
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"shoal\[hf\]"):
        read_pretrained(tmp_path)


def test_the_dtype_is_that_of_the_first_floating_point_weight(bert):
    assert dtype_of(bert.half()) is torch.float16
    assert dtype_of(nn.ReLU()) is torch.float32
