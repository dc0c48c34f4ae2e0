from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from shoal.errors import VerificationError
from shoal.surgery.record import hashes, plain, read_record, versions, write_record


def test_a_record_is_read_as_it_was_written(tmp_path):
    write_record(tmp_path, {"a": {"b": [1, None, "c"]}})
    assert read_record(tmp_path) == {"version": 1, "a": {"b": [1, None, "c"]}}
    assert [path.name for path in tmp_path.iterdir()] == ["shoal.json"]


def test_values_of_all_kinds_become_strict_json():
    @dataclass
    class Pair:
        a: int
        b: float

    value = plain(
        {"x": np.array([1.0, np.nan]), "y": np.float32(2), "t": torch.ones(2), "p": Pair(1, float("inf"))}
    )
    assert value == {"x": [1.0, None], "y": 2.0, "t": [1.0, 1.0], "p": {"a": 1, "b": None}}
    json.dumps(value, allow_nan=False)


def test_no_record_is_an_error(tmp_path):
    with pytest.raises(VerificationError, match="shoal did not write it"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": "one"}'])
def test_a_damaged_record_is_an_error(tmp_path, text):
    (tmp_path / "shoal.json").write_text(text)
    with pytest.raises(VerificationError, match="it is damaged"):
        read_record(tmp_path)


def test_a_record_of_a_newer_version_is_an_error(tmp_path):
    (tmp_path / "shoal.json").write_text('{"version": 2, "versions": {"shoal": "9.9"}}')
    with pytest.raises(VerificationError, match=r"of version 2: this shoal reads version 1.*\(9\.9\)"):
        read_record(tmp_path)


def test_hashes_are_of_all_safetensors_below(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("x.safetensors", "a/y.safetensors", "z.txt"):
        (tmp_path / name).write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hashes(tmp_path) == {"a/y.safetensors": empty, "x.safetensors": empty}


def test_versions_are_of_what_is_loaded():
    assert versions()["torch"] == torch.__version__
