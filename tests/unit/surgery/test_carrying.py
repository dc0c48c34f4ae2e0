"""Bytes that are moved are the bytes that were there, and their hashes are those of the files."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from shoal.architectures.shards import read_shard
from shoal.errors import VerificationError
from shoal.journal import Journal
from shoal.surgery import carrying
from shoal.surgery.carrying import Load, Part, Piece, carry, header_of

TENSORS = {
    "wide": torch.arange(60, dtype=torch.float32).reshape(5, 12),
    "half": torch.arange(7, dtype=torch.bfloat16),
    "eight": torch.arange(6).to(torch.float8_e4m3fn),
    "none": torch.ones(0, 4),
    "last": torch.arange(3, dtype=torch.int64),
}


@pytest.fixture
def shard(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    save_file(TENSORS, tmp_path / "in" / "model.safetensors", metadata={"format": "pt"})
    return read_shard(tmp_path / "in", "model.safetensors")


def load_of(shard, names, parts=None):
    parts = parts or {}
    pieces = tuple(
        Piece(key=names[key], entry=entry, part=parts.get(key))
        for key, entry in shard.entries.items()
        if key in names
    )
    return Load(name="new.safetensors", source=shard, pieces=pieces)


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(ours, theirs):
    return (
        ours.dtype == theirs.dtype
        and ours.shape == theirs.shape
        and (ours.view(torch.uint8).tolist() == theirs.contiguous().view(torch.uint8).tolist())
    )


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("names", [list(TENSORS), ["wide"], ["last", "half"], []])
def test_what_stays_is_bit_equal_under_its_new_name(tmp_path, shard, names, chunk):
    load = load_of(shard, {name: f"new.{name}" for name in names})
    written = carry([load], tmp_path / "out", Journal(), chunk=chunk)
    found = load_file(tmp_path / "out" / "new.safetensors")
    assert found.keys() == {f"new.{name}" for name in names}
    assert all(same(found[f"new.{name}"], TENSORS[name]) for name in names)
    assert written == {"new.safetensors": sha(tmp_path / "out" / "new.safetensors")}
    assert (tmp_path / "out" / "new.safetensors").stat().st_size == len(header_of(load)) + load.size


@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
@pytest.mark.parametrize(
    ("name", "axis", "length", "kept"),
    [("wide", 1, 4, (0, 2)), ("wide", 1, 12, (11,)), ("wide", 0, 5, (1, 3)), ("wide", 1, 4, (0, 1, 2, 3)),
     ("half", 0, 7, (6,)), ("none", 1, 4, (1, 2))],
)  # fmt: skip
def test_a_weight_with_a_part_for_each_layer_keeps_those_of_the_rest(
    tmp_path, shard, name, axis, length, kept, chunk
):
    part = Part(axis=axis, length=length, kept=kept)
    load = load_of(shard, {each: each for each in TENSORS}, {name: part})
    carry([load], tmp_path / "out", Journal(), chunk=chunk)
    found = load_file(tmp_path / "out" / "new.safetensors")
    parts = TENSORS[name].unflatten(axis, (length, -1))
    expected = parts.index_select(axis, torch.tensor(kept)).flatten(axis, axis + 1)
    assert same(found[name], expected)
    assert all(same(found[other], TENSORS[other]) for other in TENSORS.keys() - {name})


def test_the_header_keeps_what_the_source_says_and_begins_tensors_at_eighths(shard):
    header = header_of(load_of(shard, {"half": "a.longer.name"}))
    assert len(header) % 8 == 0
    assert b'"__metadata__":{"format":"pt"}' in header


def test_what_the_journal_knows_is_not_written_again(tmp_path, shard, monkeypatch):
    load, journal = load_of(shard, {"last": "last"}), Journal(tmp_path / "journal")
    first = carry([load], tmp_path / "out", journal)
    monkeypatch.setattr(carrying, "_write", None)
    assert carry([load], tmp_path / "out", Journal(tmp_path / "journal")) == first


@pytest.mark.parametrize("left", [b"", b"half of it"])
def test_a_file_that_is_not_what_the_journal_says_is_written_again(tmp_path, shard, left):
    load, journal = load_of(shard, {"last": "last"}), Journal()
    first = carry([load], tmp_path / "out", journal)
    (tmp_path / "out" / "new.safetensors").write_bytes(left)
    assert carry([load], tmp_path / "out", journal) == first
    assert sha(tmp_path / "out" / "new.safetensors") == first["new.safetensors"]


def test_a_file_that_was_altered_with_its_journal_is_written_again(tmp_path, shard):
    load, journal, path = load_of(shard, {"last": "last"}), Journal(), tmp_path / "out" / "new.safetensors"
    first = carry([load], tmp_path / "out", journal)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    journal["new.safetensors"] = sha(path)
    assert carry([load], tmp_path / "out", journal) == first
    assert {"new.safetensors": sha(path)} == {"new.safetensors": journal["new.safetensors"]} == first


def test_a_link_at_the_place_of_a_file_is_replaced_not_followed(tmp_path, shard):
    (tmp_path / "victim").write_text("x")
    (tmp_path / "out" / "new.safetensors").symlink_to(tmp_path / "victim")
    carry([load_of(shard, {"last": "last"})], tmp_path / "out", Journal())
    assert (tmp_path / "victim").read_text() == "x"
    assert load_file(tmp_path / "out" / "new.safetensors").keys() == {"last"}


def test_a_source_that_changes_meanwhile_is_an_error(tmp_path, shard):
    load = load_of(shard, {"last": "last"})
    shard.path.write_bytes(shard.path.read_bytes()[:-8])
    with pytest.raises(VerificationError, match="changed while it was read"):
        carry([load], tmp_path / "out", Journal())


def test_after_an_error_the_other_tasks_end(tmp_path, shard, monkeypatch):
    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(carrying, "_write", fail)
    with pytest.raises(OSError, match="no space left"):
        carry([load_of(shard, {"last": "last"})], tmp_path / "out", Journal(), chunk=1)
