"""Hashes of files that threads take while other work goes on."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from shoal.architectures.shards import read_shard
from shoal.errors import VerificationError
from shoal.progress import reporting
from shoal.surgery.hashing import SourceHashes, Workers, cores, hash_file


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        save_file({"a": torch.full((number * 100,), number)}, tmp_path / f"{number}.safetensors")
    return [read_shard(tmp_path, f"{number}.safetensors") for number in range(3)]


@pytest.mark.parametrize("threads", [1, 2, None])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_hashes_are_those_of_the_files(shards, chunk, threads):
    with SourceHashes(shards, chunk=chunk, threads=threads) as hashes:
        found = hashes.result()
    assert found == {shard.name: hashlib.sha256(shard.path.read_bytes()).hexdigest() for shard in shards}


def test_of_no_files_there_are_none():
    with SourceHashes([]) as hashes:
        assert hashes.result() == {}


def test_a_file_that_changed_since_its_header_was_read_is_an_error(shards):
    shards[1].path.write_bytes(b"")
    with SourceHashes(shards) as hashes, pytest.raises(VerificationError, match="changed while it was read"):
        hashes.result()


def test_threads_end_when_other_work_fails(shards):
    hashes = SourceHashes(shards, chunk=1)
    with pytest.raises(KeyError), hashes:
        raise KeyError
    assert all(future.done() for future in hashes._futures)


def test_the_bytes_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.surgery.hashing._MEGABYTE", 1)
    (tmp_path / "file").write_bytes(bytes(10))
    told = []

    class Reporter:
        def task(self, title, total):
            from contextlib import nullcontext

            told.append((title, total))
            return nullcontext(told.append)

    with reporting(Reporter()), Workers(1) as workers:
        found = workers.wait([workers.start(hash_file, tmp_path / "file", 4, workers)], "hashing", 10)
    assert found == [hashlib.sha256(bytes(10)).hexdigest()]
    assert told[0] == ("hashing (MB)", 10)
    assert sum(told[1:]) == 10


def test_there_is_a_core():
    assert cores() >= 1
