from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from shoal import load, save
from shoal.architectures.functions import file_hash
from shoal.architectures.references import load_model, rebuild
from shoal.errors import ConfigError, ShoalWarning


@pytest.fixture
def llama_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    folder = tmp_path / "llama"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\n\ndef build():\n    return nn.Dropout().train()\n")
    return path


def test_a_pretrained_folder_is_loaded_by_the_class_that_its_config_names(llama_folder):
    loaded = load_model(str(llama_folder))
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert loaded.source == {"reference": str(llama_folder), "kind": "huggingface"}
    assert loaded.folder == llama_folder
    assert not loaded.model.training
    assert loaded.load_tokenizer() is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_the_dtype_can_be_chosen(llama_folder, dtype):
    assert next(load_model(str(llama_folder), dtype=dtype).model.parameters()).dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", ["int8", "nn", "fp99"])
def test_an_unknown_dtype_is_refused(llama_folder, dtype):
    with pytest.raises(ConfigError, match=f"dtype '{dtype}': float32"):
        load_model(str(llama_folder), dtype=dtype)


def test_the_tokenizer_of_a_folder_is_loaded_when_asked_for(llama_folder):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.save(str(llama_folder / "tokenizer.json"))
    (llama_folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    loaded = load_model(str(llama_folder))
    assert loaded.load_tokenizer()("a")["input_ids"] == [0]
    written = save(loaded.model, llama_folder / "out", format="torch", tokenizer_from=llama_folder)
    assert load_model(str(written)).load_tokenizer()("a")["input_ids"] == [0]


def test_a_function_of_a_file_is_called(file):
    loaded = load_model(f"{file}:build", dtype="float64")
    assert isinstance(loaded.model, nn.Dropout)
    assert not loaded.model.training
    assert loaded.source == {"reference": f"{file}:build", "kind": "file", "sha256": file_hash(file)}
    assert loaded.folder is None
    assert loaded.load_tokenizer() is None
    assert isinstance(rebuild(loaded.source), nn.Dropout)


def test_a_function_of_a_package_is_called(monkeypatch):
    monkeypatch.setattr(torch, "build_for_this_test", lambda: nn.Linear(1, 1), raising=False)
    loaded = load_model("torch:build_for_this_test")
    assert loaded.source["kind"] == "import"
    with pytest.raises(ConfigError, match="trust_remote_code"):
        rebuild(loaded.source)
    assert isinstance(rebuild(loaded.source, trust_remote_code=True), nn.Linear)


def test_a_folder_that_shoal_wrote_is_a_model_too(file, tmp_path):
    source = load_model(f"{file}:build").source
    loaded = load_model(str(save(nn.Dropout(), tmp_path / "out", source=source)))
    assert isinstance(loaded.model, nn.Dropout)
    assert loaded.source["kind"] == "shoal"


def test_names_of_libraries_go_to_the_libraries(monkeypatch):
    asked: list[Any] = []

    def answer(library: str, name: str, *, weights: bool) -> nn.Module:
        asked.append((library, name, weights))
        return nn.Linear(1, 1)

    monkeypatch.setattr("shoal.architectures.references.model_from_library", answer)
    loaded = load_model("timm:vit_tiny@none")
    rebuild(loaded.source)
    assert asked == [("timm", "vit_tiny@none", True), ("timm", "vit_tiny@none", False)]


@pytest.mark.parametrize(
    "reference",
    ["", "/no/such/folder", "./none", "timm:", "no such", "a/b/c", "x.py:y z"],
)
def test_what_has_no_form_is_refused_with_the_forms_that_work(reference):
    with pytest.raises(ConfigError, match="cannot be found.*Forms that work: .*timm:NAME.*file.py:function"):
        load_model(reference)


def test_an_id_that_is_not_on_this_machine_is_refused_offline(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="'nobody/nothing': it cannot be found or read"):
        load_model("nobody/nothing")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        load_model(f"{tmp_path}/none.py:build")


def test_a_file_by_itself_is_refused(file):
    with pytest.raises(ConfigError, match="that is a file"):
        load_model(str(file))


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds neither a config.json of Hugging Face nor a shoal.json"):
        load_model(str(tmp_path))


def test_a_folder_of_diffusers_says_how_it_is_written(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet"}')
    with pytest.raises(ConfigError, match="Write diffusers:"):
        load_model(str(tmp_path))


def test_a_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="its config.json is no JSON"):
        load_model(str(tmp_path))


def test_truncated_weights_are_refused(llama_folder):
    path = llama_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ConfigError, match="it cannot be found or read"):
        load_model(str(llama_folder))


def test_a_class_that_this_transformers_does_not_have_is_refused(llama_folder):
    config = json.loads((llama_folder / "config.json").read_text())
    (llama_folder / "config.json").write_text(json.dumps(config | {"architectures": ["LaterForCausalLM"]}))
    with pytest.raises(ConfigError, match="names the class LaterForCausalLM"):
        load_model(str(llama_folder))


def test_weights_drawn_at_random_are_told(llama_folder):
    config = json.loads((llama_folder / "config.json").read_text())
    (llama_folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.warns(ShoalWarning, match="9 weights of .* are not in its files and were drawn at random"):
        load_model(str(llama_folder))


def test_a_pretrained_model_is_built_again_from_its_note(llama_folder):
    assert type(rebuild(load_model(str(llama_folder)).source)).__name__ == "LlamaForCausalLM"
    with pytest.raises(ConfigError, match="Pass model="):
        rebuild({"kind": "huggingface", "reference": "/no/such/folder"})


def test_what_a_folder_is_made_of_can_be_said_and_is_remembered(file, tmp_path):
    folder = save(nn.Dropout(), tmp_path / "out")
    with pytest.raises(ConfigError, match="does not say how .* --original net.py:make"):
        load_model(str(folder))
    loaded = load_model(str(folder), original=f"{file}:build")
    assert isinstance(loaded.model, nn.Dropout)
    assert isinstance(load(save(nn.Dropout(), tmp_path / "again", source=loaded.source)), nn.Dropout)


def test_code_of_a_package_runs_when_it_was_typed_and_not_when_a_folder_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "build_for_this_test", nn.Dropout, raising=False)
    folder = save(nn.Dropout(), tmp_path / "out")
    loaded = load_model(str(folder), original="torch:build_for_this_test")
    again = save(nn.Dropout(), tmp_path / "again", source=loaded.source)
    with pytest.raises(ConfigError, match="trust_remote_code"):
        load(again)
    assert isinstance(load(again, trust_remote_code=True), nn.Dropout)


def test_an_original_of_what_is_no_folder_of_shoal_s_is_refused(file):
    with pytest.raises(ConfigError, match="made of the original 'x.py:y': it is no folder that shoal wrote"):
        load_model(f"{file}:build", original="x.py:y")
