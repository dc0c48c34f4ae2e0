from __future__ import annotations

import hashlib
import sys

import pytest
import torch
from torch import nn

from shoal.architectures.functions import file_hash, model_from_file, model_from_package
from shoal.errors import ConfigError

TEXT = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from neighbour import WIDTH

@dataclass
class Settings:
    width: int = WIDTH

def build():
    return nn.Linear(Settings().width, 1)

def wants(width, depth=2):
    return nn.Linear(width, depth)

def wrong():
    return [1]

text = "no function"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    yield path
    sys.modules.pop("neighbour", None)


def test_a_function_of_a_file_builds_the_network(file):
    path = list(sys.path)
    model = model_from_file(file, "build")
    assert isinstance(model, nn.Linear)
    assert model.in_features == 3
    assert sys.path == path
    assert "mine" not in sys.modules


def test_the_hash_of_a_file_is_its_sha256(file):
    assert file_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        model_from_file(tmp_path / "none.py", "build")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match="is no Python file"):
        model_from_file(tmp_path / "mine.txt", "build")


@pytest.mark.parametrize(
    ("function", "match"),
    [
        ("other", "there is no function 'other' in it. It has: dataclass, build, wants, wrong"),
        ("text", "there is no function 'text'"),
        ("wants", r"wants arguments \(width\)"),
        ("wrong", "returned list, not a torch.nn.Module"),
    ],
)
def test_what_builds_no_network_is_refused(file, function, match):
    with pytest.raises(ConfigError, match=match):
        model_from_file(file, function)


def test_a_function_of_a_package_builds_the_network(monkeypatch):
    monkeypatch.setattr(torch, "build_for_this_test", lambda: nn.Linear(1, 1), raising=False)
    assert isinstance(model_from_package("torch", "build_for_this_test"), nn.Linear)


def test_a_package_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"cannot be imported.*write its path: thing\.py:build"):
        model_from_package("no_such.thing", "build")
