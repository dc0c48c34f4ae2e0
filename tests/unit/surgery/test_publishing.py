"""A folder has its name only when it has been read back and found right."""

import json

import pytest
import torch

from networks import NETWORKS
from shoal.errors import ConfigError, VerificationError
from shoal.surgery import load, save_verified


@pytest.fixture
def network():
    model, example = NETWORKS["vgg"]()
    return model.eval(), example


def spoil(monkeypatch):
    """Let every saved folder lose a byte of its weights before it is verified."""
    from shoal.surgery import checkpoint

    write = checkpoint._write_weights

    def write_badly(model, path):
        write(model, path)
        path.write_bytes(path.read_bytes()[:-1])

    monkeypatch.setattr(checkpoint, "_write_weights", write_badly)


def test_what_was_saved_is_read_back_with_the_original_and_recorded(network, tmp_path):
    model, example = network
    found = save_verified(model, tmp_path / "out", example=example, original=model)
    record = json.loads((tmp_path / "out" / "shoal.json").read_text())
    again = load(tmp_path / "out", model=model)
    assert found.folder == tmp_path / "out"
    assert record["verification"]["passed"]
    assert torch.equal(again(example), model(example))


def test_a_folder_that_fails_leaves_nothing(network, tmp_path, monkeypatch):
    model, example = network
    spoil(monkeypatch)
    with pytest.raises(VerificationError, match="asked to verify"):
        save_verified(model, tmp_path / "out", example=example, original=model)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_fails_leaves_the_older_one_as_it_was(network, tmp_path, monkeypatch):
    model, example = network
    save_verified(model, tmp_path / "out", example=example, original=model)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    spoil(monkeypatch)
    with pytest.raises(VerificationError, match="out"):
        save_verified(model, tmp_path / "out", example=example, original=model, overwrite=True)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert after == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_is_refused_before_anything_is_written(network, tmp_path):
    model, example = network
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="it exists"):
        save_verified(model, tmp_path / "out", example=example, original=model)
    assert list((tmp_path / "out").iterdir()) == []
