"""What was freed is given back; where the C library cannot do so, nothing happens."""

import subprocess
import sys

import pytest

from shoal.activations import heap, lean_heap, trim_heap

# In a process of its own: the memory that others have freed before would be used again.
FREED = """
from pathlib import Path

import torch

from shoal.activations import lean_heap


def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


with lean_heap():
    before = held()
    tensors = [torch.ones(2**19) for _ in range(40)]
    full = held() - before
    # Every other one goes: holes would stay.
    del tensors[::2]
    half = held() - before
    del tensors
    print(full, half, held() - before)
"""


@pytest.mark.skipif(heap._library("mallopt") is None, reason="needs the C library of GNU")
def test_tensors_that_are_freed_leave_no_memory_behind():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    full, half, none = map(int, done.stdout.split())
    assert full > 70e6
    assert half < 50e6
    assert none < 10e6


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_other_systems_are_left_alone(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    with lean_heap():
        trim_heap()
