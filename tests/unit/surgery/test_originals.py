"""Hugging Face models cut inside their layers: written for shoal, refused for stock loaders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from networks import NETWORKS, gpt2
from shoal import Plan, apply, find_units, load, save, verify
from shoal.architectures.references import load_model
from shoal.errors import ConfigError, PlanError, UnitError
from shoal.surgery import check_format, format_of, save_verified
from shoal.surgery.record import read_record

IDS = torch.arange(8)[None] % 32
EXAMPLE = {"input_ids": IDS}


def cut(model: Any, units: list[int | str]) -> tuple[Any, Plan]:
    plan = Plan.removing(find_units(model, EXAMPLE, granularity="sublayer"), units)
    return apply(model, plan), plan


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture
def small(llama):
    return cut(llama, ["model.layers.0.self_attn", "model.layers.1.mlp"])


@pytest.fixture(params=["llama", "gpt2"])
def model(request, llama):
    return llama if request.param == "llama" else gpt2()[0]


def test_a_model_without_sublayers_is_loaded_again_without_the_original(model, tmp_path):
    small, plan = cut(model, [0, 3, 4])
    found = save_verified(small, tmp_path / "out", example=EXAMPLE, plan=plan, format="torch")
    assert found.passed
    assert [check.passed for check in found.checks] == [True] * 5
    again: Any = load(tmp_path / "out")
    assert type(again) is type(model)
    assert torch.equal(logits(again), logits(small))
    assert verify(tmp_path / "out").passed


def test_the_config_of_the_original_lies_where_no_stock_loader_looks(small, llama, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = save(small[0], tmp_path / "out", plan=small[1], format="torch", example=EXAMPLE)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "model.safetensors",
        "original/config.json",
        "original/generation_config.json",
        "shoal.json",
        "shoal/probe.safetensors",
    }
    assert json.loads((folder / "original" / "config.json").read_text())["num_hidden_layers"] == 3
    with pytest.raises(ValueError, match="model_type"):
        transformers.AutoModelForCausalLM.from_pretrained(folder)
    card = (folder / "README.md").read_text()
    assert "model = shoal.load('path/to/this/folder')" in card
    assert "| 0 | `model.layers.0.self_attn` |" in card


@pytest.mark.parametrize("write", [save, lambda *args, **more: save_verified(*args, example=EXAMPLE, **more)])
@pytest.mark.parametrize("with_plan", [True, False])
def test_the_usual_folder_is_refused_and_nothing_is_written(small, tmp_path, write, with_plan):
    model, plan = small
    with pytest.raises(UnitError, match=r"stand-ins take the places of .*--format torch"):
        write(model, tmp_path / "out", plan=plan if with_plan else None)
    assert not list(tmp_path.iterdir())


def test_a_model_that_someone_else_cut_is_refused_too(llama, tmp_path):
    llama.model.layers[1].self_attn = nn.Identity()
    with pytest.raises(UnitError, match=r"it lacks model\.layers\.1\.self_attn\..*draw weights at random"):
        save(llama, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"it lacks model\.layers\.1\.self_attn\..*no plan says how"):
        save(llama, tmp_path / "out", format="torch")
    assert not list(tmp_path.iterdir())


def test_without_the_plan_it_cannot_be_written(small, tmp_path):
    with pytest.raises(ConfigError, match=r"for shoal to load.*no plan says how it was made. Pass plan="):
        save(small[0], tmp_path / "out", format="torch")
    assert not list(tmp_path.iterdir())


def test_another_plan_than_the_one_that_was_applied_is_refused(small, llama, tmp_path):
    _, other = cut(llama, ["model.layers.2.mlp"])
    with pytest.raises(ConfigError, match="the plan at hand does not make it"):
        save(small[0], tmp_path / "out", plan=other, format="torch")


def test_whole_layers_become_the_usual_folder_or_the_other_as_asked(llama, tmp_path):
    plan = Plan.removing(find_units(llama, EXAMPLE), [1])
    small = apply(llama, plan)
    assert "config.json" in {path.name for path in save(small, tmp_path / "auto", plan=plan).iterdir()}
    folder = save(small, tmp_path / "torch", plan=plan, format="torch")
    assert read_record(folder)["replay"] == []
    assert json.loads((folder / "original" / "config.json").read_text())["num_hidden_layers"] == 2
    for each in (load(tmp_path / "auto"), load(folder)):
        assert torch.equal(logits(each), logits(small))


def test_an_untouched_model_may_be_written_for_shoal_without_a_plan(llama, tmp_path):
    folder = save(llama.bfloat16(), tmp_path / "out", format="torch")
    again: Any = load(folder)
    assert again.dtype == torch.bfloat16
    assert torch.equal(logits(again), logits(llama))


def test_other_networks_are_written_as_ever(tmp_path):
    model, example = NETWORKS["vit"]()
    plan = Plan.removing(find_units(model, example, granularity="sublayer"), [0, 3])
    small = apply(model, plan)
    for format in ("auto", "torch"):
        folder = tmp_path / format
        save_verified(small, folder, example=example, original=model, plan=plan, format=format)  # type: ignore[arg-type]
        assert not (folder / "original").exists()
        assert torch.equal(load(folder, model=model)(example), small(example))


def test_the_original_may_be_given_all_the_same(small, llama, tmp_path):
    folder = save(small[0], tmp_path / "out", plan=small[1], format="torch")
    shutil.rmtree(folder / "original")
    assert torch.equal(logits(load(folder, model=llama)), logits(small[0]))
    with pytest.raises(ConfigError, match="does not say how its .*LlamaForCausalLM is built"):
        load(folder)


def test_a_folder_for_shoal_can_be_cut_again(small, tmp_path):
    first = save(small[0], tmp_path / "first", plan=small[1], format="torch")
    loaded = load_model(str(first))
    again, plan = cut(loaded.model, ["model.layers.2.self_attn"])
    fewer_plan = Plan.removing(find_units(loaded.model, EXAMPLE), [1])
    fewer = apply(loaded.model, fewer_plan)
    shown = {"again": (again, plan), "fewer": (fewer, fewer_plan)}
    for name, (model, each) in shown.items():
        with pytest.raises(UnitError, match="--format torch"):
            save(model, tmp_path / name, plan=each, source=loaded.source)
        save(model, tmp_path / name, plan=each, source=loaded.source, format="torch")
    shutil.rmtree(first)
    for name, (model, _) in shown.items():
        assert len(read_record(tmp_path / name)["replay"]) == 2
        assert torch.equal(logits(load(tmp_path / name)), logits(model))
        assert verify(tmp_path / name).passed


def test_a_folder_for_shoal_keeps_its_history_when_only_the_weights_change(small, tmp_path):
    first = save(small[0], tmp_path / "first", plan=small[1], format="torch")
    healed: Any = load(first)
    nn.init.zeros_(healed.model.norm.weight)
    source = {"kind": "shoal", "reference": str(first)}
    second = save(healed, tmp_path / "second", source=source, format="torch")
    assert torch.equal(logits(load(second)), logits(healed))


def test_a_folder_says_in_which_format_it_is_written_again(small, llama, tmp_path):
    assert format_of(save(small[0], tmp_path / "torch", plan=small[1], format="torch")) == "torch"
    assert format_of(save(llama, tmp_path / "auto")) == "auto"


def test_tokenizer_files_come_along(small, tmp_path):
    place = tmp_path / "source"
    place.mkdir()
    (place / "tokenizer.json").write_text("{}")
    folder = save(small[0], tmp_path / "out", plan=small[1], format="torch", tokenizer_from=place)
    assert (folder / "tokenizer.json").is_file()


def test_a_plan_that_was_tampered_with_is_found_out(small, tmp_path):
    folder = save(small[0], tmp_path / "out", plan=small[1], format="torch")
    fields = read_record(folder)
    fields["replay"][0]["model"]["params"] += 1
    (folder / "shoal.json").write_text(json.dumps(fields))
    with pytest.raises(PlanError, match="its steps leave"):
        load(folder)


@pytest.mark.parametrize("format", ["", "safetensors", "pickle", None])
def test_another_format_is_refused(net, llama, tmp_path, format):
    for each in (net, llama):
        with pytest.raises(ConfigError, match=f"in the format {format!r}: auto and torch work"):
            save(each, tmp_path / "out", format=format)


def test_what_will_not_be_stock_is_told_before_the_work_begins(llama, net, net_chain):
    sublayers = find_units(llama, EXAMPLE, granularity="sublayer")
    with pytest.raises(
        UnitError, match=r"parts of its layers \(model\.layers\.0\.self_attn, .*…\).*--format"
    ):
        check_format(llama, "auto", sublayers)
    with pytest.raises(UnitError, match=r"parts of its layers \(model\.layers\.1\.mlp\)"):
        check_format(llama, "auto", Plan.removing(sublayers, [3]).steps)
    check_format(llama, "torch", sublayers)
    check_format(llama, "auto", find_units(llama, EXAMPLE))
    check_format(net, "auto", net_chain)


def test_a_transformers_model_inside_another_network_needs_no_format(llama, tmp_path):
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.head = llama.model, nn.Linear(16, 3)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.text(input_ids).last_hidden_state[:, -1])

    model = Classifier().eval()
    small, plan = cut(model, ["text.layers.0.self_attn"])
    save_verified(small, tmp_path / "out", example=EXAMPLE, original=model, plan=plan)
    assert torch.equal(load(tmp_path / "out", model=model)(IDS), small(IDS))


def test_stories_without_some_sublayers_tell_on_from_their_folder(assets, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(Path(assets) / "stories260k" / "hf")
    small, plan = cut(model, ["model.layers.0.self_attn", "model.layers.3.mlp"])
    save_verified(small, tmp_path / "out", example=EXAMPLE, plan=plan, format="torch")
    again: Any = load(tmp_path / "out")
    prompt = torch.tensor([[1, 403, 407, 261]])
    told = [
        each.generate(prompt, max_new_tokens=24, do_sample=False, use_cache=use, pad_token_id=0).tolist()
        for each in (small, again)
        for use in (True, False)
    ]
    assert told[0] == told[1] == told[2] == told[3]
