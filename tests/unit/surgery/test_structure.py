"""What headers and a config say of each other, without a weight."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from shoal.architectures.shards import read_checkpoint
from shoal.errors import ConfigError, VerificationError
from shoal.surgery import verify
from shoal.surgery.structure import build_skeleton, check_structure, gaps, read_fields, stock_names

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 32, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
LLAMA = SIZES | {"intermediate_size": 32, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folder(request, tmp_path):
    config = transformers.LlamaConfig(**LLAMA, tie_word_embeddings=request.param)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    path = folder / "model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path, {"format": "pt"})


def test_a_skeleton_is_the_network_without_weights(folder):
    built = build_skeleton(folder)
    assert type(built) is transformers.LlamaForCausalLM
    assert all(parameter.is_meta for parameter in built.parameters())
    assert gaps(read_checkpoint(folder).entries, built).none
    assert str(gaps(read_checkpoint(folder).entries, built)) == "none"


def test_a_whole_folder_fits_its_config(folder):
    found = check_structure(folder)
    assert found.passed
    assert "every weight of the LlamaForCausalLM" in found.detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "missing: model.norm.weight"),
        (lambda t: t.update({"more": torch.ones(1)}), "unexpected: more"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), "misshapen: model.norm.weight"),
        (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(1)}), "unexpected: model.la"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_found(folder, change, message):
    rewrite(folder, change)
    assert check_structure(folder).passed is False or "misshapen" in message
    assert message in check_structure(folder).detail


def test_buffers_of_older_releases_are_left_unread(tmp_path):
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=32, n_layer=1, n_embd=8, n_head=2)
    )
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update({"transformer.h.0.attn.masked_bias": torch.ones(1)}))
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    assert check_structure(tmp_path).passed is any("masked_bias" in pattern for pattern in patterns)


def test_names_are_those_that_a_stock_loader_reads(folder):
    built = build_skeleton(folder)
    names = stock_names(["model.norm.weight", "norm.weight", "odd"], built)
    assert names["model.norm.weight"] == "model.norm.weight"
    assert names["odd"] == "odd"


def test_verification_without_loading_says_what_it_left_out(folder, monkeypatch):
    from shoal.surgery import verification

    asked = verify(folder, depth="structure")
    assert {check.name: check.passed for check in asked.checks} == {
        "file hashes": None, "structure": True, "reload": None, "outputs": None, "generation": None
    }  # fmt: skip
    monkeypatch.setattr(verification, "fits_in_memory", lambda size: False)
    assert "more than half of the free memory" in str(verify(folder).checks[-1])
    assert any(check.name == "parameters" for check in verify(folder, depth="full").checks)
    rewrite(folder, lambda t: t.pop("model.norm.weight"))
    with pytest.raises(
        VerificationError, match="1 of 5 checks failed: structure: .* missing: model.norm.weight"
    ):
        verify(folder)


@pytest.mark.parametrize(
    ("free", "size", "fits"), [(1000, 512_000, True), (1000, 512_001, False), (None, 1 << 60, True)]
)
def test_half_of_the_free_memory_may_be_taken(monkeypatch, tmp_path, free, size, fits):
    from shoal.surgery import verification

    lines = "MemTotal: 9 kB\n" + ("" if free is None else f"MemAvailable: {free} kB\n")
    (tmp_path / "meminfo").write_text(lines)
    monkeypatch.setattr(verification, "_MEMORY", tmp_path / "meminfo")
    assert verification.fits_in_memory(size) is fits
    monkeypatch.setattr(verification, "_MEMORY", tmp_path / "none")
    assert verification.fits_in_memory(size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["NoSuchModel"]}, "transformers .* has no model of that name"),
        ({"architectures": ["AutoTokenizer"]}, "the class 'AutoTokenizer'"),
        ({"hidden_size": "many"}, "asked to build"),
    ],
)
def test_what_cannot_be_built_says_why(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        build_skeleton(folder)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_fields(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"_attn_implementation": "evil/kernel"}, {"text_config": {"attn_implementation": "evil/kernel"}}],
)
def test_a_config_that_fetches_kernels_is_refused(folder, fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ConfigError, match="attn_implementation 'evil/kernel' would fetch code"):
        read_fields(folder)
