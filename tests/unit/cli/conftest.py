"""A tiny trained network in a file, a folder to work in, and `shoal` as users call it."""

import json
from dataclasses import dataclass

import pytest

from shoal.cli import run

NETWORK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        nn.init.normal_(self.linear.weight, std=scale)

    def forward(self, x):
        return x + torch.relu(self.linear(x))


def make(units=5):
    torch.manual_seed(0)
    blocks = [Block(0.1 * (1 + number)) for number in range(units)]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *blocks, nn.Linear(16, 10))
    # So sure of itself that every unit less makes it worse at what it says itself.
    nn.init.normal_(network[-1].weight, std=0.3)
    return network


def make_other():
    return make(4)


def make_unitless():
    return nn.Linear(64, 10)


def batches():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(48, 1, 8, 8, generator=generator)
    with torch.random.fork_rng():
        labels = make()(images).argmax(dim=1)
    return [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 48, 16)]


def empty():
    return []


def broken():
    raise KeyError("gone")
"""


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with `net.py`, which is where commands run."""
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHOAL_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def shoal(place, capsys):
    """`shoal("units net.py:make")` -> exit code, stdout, stderr."""

    def call(command, *more):
        capsys.readouterr()
        code = run([*command.split(), *map(str, more)])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def files(place):
    """Names of everything in the folder, hidden files too, apart from what Python leaves."""
    return lambda: sorted(path.name for path in place.iterdir() if path.name != "__pycache__")
