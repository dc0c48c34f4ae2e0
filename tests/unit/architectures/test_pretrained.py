from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import torch
from torch import nn

from shoal.architectures.pretrained import (
    auto_class,
    companions,
    copy_companions,
    dtype_of,
    find_gguf,
    is_stock,
    quiet,
    read_pretrained,
    read_tokenizer,
    write_pretrained,
)
from shoal.errors import MissingExtraError, VerificationError

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


GO_ALONG = (
    *("tokenizer.json", "tekken.json", "source.spm", "sentencepiece.model", "vocab.bpe", "bpe.codes"),
    *("dict.txt", "emoji.json", "qwen.tiktoken", "tokenizer.model.v3", "generation_config.json", "LICENSE"),
)
STAY = (
    *("model.safetensors", "pytorch_model.BIN", "a.pt", "a.pth", "tf_model.h5", "a.msgpack", "a.onnx"),
    *("a.gguf", "a.ckpt", "pytorch_model.bin.index.json", "modeling_evil.py", "config.json", "a.pkl"),
    *("adapter_config.json", "params.json", "modules.json", "shoal.json", "README.md", ".gitattributes"),
)


def filled(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_all_goes_along_that_is_no_weights_no_code_and_no_config(tmp_path, monkeypatch):
    source, target = filled(tmp_path / "source", *GO_ALONG, *STAY), filled(tmp_path / "target")
    filled(source / "additional_chat_templates", "tool.jinja", "tool.py")
    filled(source / "runs", "tokenizer.json")
    (source / "large.json").write_text("x" * 200)
    os.mkfifo(source / "pipe")
    monkeypatch.setattr("shoal.architectures.pretrained._LARGEST", 200)
    expected = sorted([*GO_ALONG, "additional_chat_templates/tool.jinja"])
    assert sorted(copy_companions(source, target)) == sorted(companions(source)) == expected
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()) == expected
    assert all((target / name).read_text() == name for name in GO_ALONG)


@pytest.mark.parametrize("name", ["tokenizer.json", "anything", "additional_chat_templates/a.jinja"])
@pytest.mark.parametrize(("to", "match"), [("secret", "outside of the folder"), ("none", "no such file")])
def test_a_link_that_leads_out_is_not_copied(tmp_path, name, to, match):
    source, target = filled(tmp_path / "source"), filled(tmp_path / "target")
    filled(tmp_path, "secret")
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).symlink_to(tmp_path / to)
    with pytest.raises(VerificationError, match=match):
        copy_companions(source, target)
    assert list(target.iterdir()) == []


def test_templates_are_not_taken_from_elsewhere(tmp_path):
    source = filled(tmp_path / "source")
    filled(tmp_path / "secrets", "a.jinja")
    (source / "additional_chat_templates").symlink_to("../secrets")
    with pytest.raises(VerificationError, match="outside of the folder"):
        companions(source)


def test_a_snapshot_of_the_hub_s_cache_gives_its_files(tmp_path):
    filled(tmp_path / "blobs", "0f")
    snapshot = tmp_path / "snapshots" / "abc"
    (snapshot / "additional_chat_templates").mkdir(parents=True)
    (snapshot / "tokenizer.json").symlink_to("../../blobs/0f")
    (snapshot / "additional_chat_templates" / "a.jinja").symlink_to("../../../blobs/0f")
    names = copy_companions(snapshot, filled(tmp_path / "target"))
    assert names == ["tokenizer.json", "additional_chat_templates/a.jinja"]
    assert all((tmp_path / "target" / name).read_text() == "0f" for name in names)
    assert not any((tmp_path / "target" / name).is_symlink() for name in names)


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
