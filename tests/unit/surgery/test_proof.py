"""A folder that is not what its blueprint says is found out from headers and config."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from shoal import Plan
from shoal.surgery import cut_folder, draw_blueprint, read_checkpoint
from shoal.surgery.proof import prove_cut

pytest.importorskip("transformers")


@pytest.fixture
def cut(llama, llama_chain, tmp_path):
    """A cut folder and its blueprint."""
    llama.save_pretrained(tmp_path / "source")
    plan = Plan.removing(llama_chain, [0])
    cut_folder(tmp_path / "source", plan, tmp_path / "cut", depth="structure")
    return tmp_path / "cut", draw_blueprint(read_checkpoint(tmp_path / "source"), plan)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path, {"format": "pt"})


def failed(folder, blueprint):
    return {check.name: check.detail for check in prove_cut(folder, blueprint) if check.passed is not True}


def test_what_was_written_passes(cut):
    assert failed(*cut) == {}


WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (lambda t: t.pop(WEIGHT), {"tensors", "layers", "structure"}),
        (lambda t: t.update({WEIGHT: t[WEIGHT].half()}), {"tensors", "layers"}),
        (lambda t: t.update({WEIGHT: t[WEIGHT].T.contiguous()}), {"tensors", "layers", "structure"}),
        (lambda t: t.update({"model.layers.2.w": torch.ones(1)}), {"tensors", "layers", "structure"}),
        (lambda t: t.update({"more": torch.ones(1)}), {"tensors", "structure"}),
    ],
)
def test_tensors_that_are_not_as_planned_are_found(cut, change, checks):
    rewrite(cut[0], change)
    assert set(failed(*cut)) == checks


@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"hidden_size": 32}, {"num_hidden_layers": 3}])
def test_a_config_of_another_network_is_found(cut, change):
    path = cut[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "another network" in failed(*cut)["structure"]


def test_what_the_source_had_too_much_the_cut_has_too(llama, llama_chain, tmp_path):
    llama.save_pretrained(tmp_path / "source")
    rewrite(
        tmp_path / "source", lambda t: t.update({"model.layers.1.odd": torch.ones(1), "odd": torch.ones(1)})
    )
    plan = Plan.removing(llama_chain, [0])
    found = cut_folder(tmp_path / "source", plan, tmp_path / "cut", depth="structure")
    structure = next(check for check in found.checks if check.name == "structure")
    assert structure.passed
    assert "as the source does: unexpected: model.layers.0.odd, odd" in structure.detail
