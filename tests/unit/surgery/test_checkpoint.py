from __future__ import annotations

import copy
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from shoal import Measurement, Plan, apply, load, save, verify
from shoal.errors import ConfigError, DataError, SurgeryError


def entries(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_network_becomes_safetensors_and_json(net, net_chain, x, tmp_path):
    plan = Plan.removing(net_chain, [1])
    small = apply(net, plan)
    folder = save(small, tmp_path / "out", plan=plan, example=x, extra={"seeds": {"torch": 3}})
    assert entries(folder) == {"README.md", "model.safetensors", "shoal.json", "shoal/probe.safetensors"}
    record = json.loads((folder / "shoal.json").read_text())
    assert record["version"] == 1
    assert Plan.from_json(json.dumps(record["plan"])) == plan
    assert record["seeds"] == {"torch": 3}
    assert record["params"] == sum(p.numel() for p in small.parameters())
    assert record["dtype"] == "float32"
    assert set(record["hash"]) == {"model.safetensors", "shoal/probe.safetensors"}
    assert set(record["versions"]) >= {"python", "torch", "shoal"}
    assert "loss" not in record


def test_a_pretrained_model_becomes_a_plain_folder(llama, llama_chain, tmp_path):
    transformers = pytest.importorskip("transformers")
    plan = Plan.removing(llama_chain, [1])
    small: Any = apply(llama, plan)
    before = small.config.to_dict()
    folder = save(small, tmp_path / "out", plan=plan)
    assert small.config.to_dict() == before
    assert entries(folder) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "shoal.json",
    }
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(6)[None]
    assert type(again) is type(llama)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again(ids).logits, small(ids).logits)
    assert json.loads((folder / "shoal.json").read_text())["auto_class"] == "AutoModelForCausalLM"


def test_tokenizer_files_come_along(llama, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "secret.bin").write_text("")
    for name, more in (
        ("a", {"tokenizer_from": source}),
        ("b", {"source": {"kind": "huggingface", "reference": str(source)}}),
    ):
        folder = save(llama, tmp_path / name, **more)
        assert "tokenizer.json" in entries(folder)
        assert "secret.bin" not in entries(folder)


def test_a_tokenizer_writes_its_own_files(llama, tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder: str | Path, /) -> None:
            (Path(folder) / "tokenizer.json").write_text("{}")

    assert "tokenizer.json" in entries(save(llama, tmp_path / "out", tokenizer_from=Tokenizer()))


def test_all_files_can_be_read_by_whom_the_record_can(net, x, tmp_path):
    folder = save(net, tmp_path / "out", example=x)
    modes = {stat.S_IMODE((folder / name).stat().st_mode) for name in entries(folder)}
    assert len(modes) == 1


def test_an_existing_folder_is_refused_and_left(net, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="it exists"):
        save(net, target)
    with pytest.raises(ConfigError, match="not a folder that shoal wrote"):
        save(net, target, overwrite=True)
    assert entries(tmp_path) == {"out/mine.txt"}


def test_a_file_in_the_way_is_refused(net, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="not a folder that shoal wrote"):
        save(net, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_of_shoal_is_replaced_when_asked(net, x, tmp_path, empty):
    target = tmp_path / "deep" / "out"
    if empty:
        target.mkdir(parents=True)
    else:
        save(net, target, example=x)
    save(net, target, overwrite=True)
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert entries(target) == {"README.md", "model.safetensors", "shoal.json"}


def test_nothing_half_written_is_left_when_writing_fails(llama, tmp_path, monkeypatch):
    def fail(self: Any, folder: Path, **_: Any) -> None:
        (Path(folder) / "model.safetensors").write_text("half")
        raise OSError("disk full")

    save(llama, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    monkeypatch.setattr(type(llama), "save_pretrained", fail)
    for name, overwrite in (("new", False), ("out", True)):
        with pytest.raises(OSError, match="disk full"):
            save(llama, tmp_path / name, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_the_old_folder_returns_when_renaming_fails(net, tmp_path, monkeypatch):
    save(net, tmp_path / "out")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("no rename")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no rename"):
        save(net, tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "shoal.json").is_file()


def test_a_state_that_is_no_tensor_is_an_error(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "text"

        def set_extra_state(self, state: object) -> None: ...

    with pytest.raises(SurgeryError, match="cannot be written as safetensors"):
        save(Odd(2, 2), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_answers_that_are_not_finite_are_an_error(net, tmp_path):
    with pytest.raises(DataError, match="not finite"):
        save(net, tmp_path / "out", example=torch.full((2, 4), float("nan")))
    assert not list(tmp_path.iterdir())


def test_attached_adapters_are_refused(llama, tmp_path):
    llama._hf_peft_config_loaded = True
    with pytest.raises(ConfigError, match="Merge them into the weights first"):
        save(llama, tmp_path / "out")


def test_what_a_gguf_file_left_behind_is_not_written(llama, tmp_path):
    class Quantizer:
        def __init__(self) -> None:
            self.quantization_config = {"quant_method": "gguf"}

        def is_serializable(self) -> bool:
            return False

    llama.config.quantization_config = {"quant_method": "gguf"}
    llama.hf_quantizer, llama.is_quantized = Quantizer(), True
    folder = save(llama, tmp_path / "out")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert llama.config.quantization_config == {"quant_method": "gguf"}
    assert llama.hf_quantizer is not None
    assert torch.equal(load(folder).lm_head.weight, llama.lm_head.weight)  # type: ignore[union-attr, arg-type]


def test_a_subclass_of_a_pretrained_model_is_saved_as_any_network(llama, tmp_path):
    class Mine(type(llama)):  # type: ignore[misc]
        pass

    model = Mine(llama.config)
    folder = save(model, tmp_path / "out")
    assert "config.json" not in entries(folder)
    again = load(folder, model=lambda: Mine(llama.config))
    assert torch.equal(again(torch.arange(4)[None]).logits, model.eval()(torch.arange(4)[None]).logits)


def test_the_card_shows_the_measured_before_and_after(net, net_chain, tmp_path):
    before = Measurement(params=200, macs=1000, latency=0.5, quality={"accuracy": 0.9})
    after = replace(before, params=100, latency=0.25, device="a machine")
    folder = save(net, tmp_path / "out", plan=Plan.removing(net_chain, [1]), before=before, after=after)
    card = (folder / "README.md").read_text()
    assert "| parameters | 200 | 100 | 0.500 |" in card
    assert "| 1 | `blocks.1` | 28 |" in card
    assert "a machine" in card


@pytest.mark.parametrize("whole", [False, True])
def test_networks_are_written_without_wrappers_of_torch_compile(net, net_chain, x, tmp_path, whole):
    plan, fresh = Plan.removing(net_chain, [1]), copy.deepcopy(net)
    small = apply(net, plan)
    answer = small.eval()(x)
    names = set(load_file(save(small, tmp_path / "plain") / "model.safetensors"))
    for each in (small, fresh):
        for index, block in enumerate(each.blocks):
            each.blocks[index] = torch.compile(block, backend="eager")
    model: Any = torch.compile(small, backend="eager") if whole else small
    folder = save(model, tmp_path / "out", plan=plan, example=x)
    assert set(load_file(folder / "model.safetensors")) == names
    assert json.loads((folder / "shoal.json").read_text())["class"].endswith(".Net")
    for original in (net, fresh, torch.compile(fresh, backend="eager")):
        assert verify(folder, model=original)
    assert torch.equal(load(folder, model=net)(x), answer)


def test_an_uncut_original_may_be_compiled(net, tmp_path):
    folder = save(net, tmp_path / "out")
    again = load(folder, model=torch.compile(copy.deepcopy(net), backend="eager"))
    assert type(again) is type(net)
    assert list(again.state_dict()) == list(net.state_dict())


def test_a_pretrained_model_of_compiled_layers_becomes_a_plain_folder(llama, llama_chain, tmp_path):
    expected = set(load_file(save(llama, tmp_path / "plain") / "model.safetensors"))
    for index, layer in enumerate(llama.model.layers):
        llama.model.layers[index] = torch.compile(layer, backend="eager")
    folder = save(llama, tmp_path / "out")
    assert set(load_file(folder / "model.safetensors")) == expected
    assert verify(folder)
