"""What was freed is given back; where the C library cannot do so, nothing happens."""

import sys
from pathlib import Path

import pytest
import torch

from shoal.activations import heap, lean_heap, trim_heap


def held():
    """Bytes of memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


@pytest.mark.skipif(heap._library("mallopt") is None, reason="needs the C library of GNU")
def test_tensors_that_are_freed_leave_no_memory_behind():
    with lean_heap():
        before = held()
        tensors = [torch.ones(2**19) for _ in range(40)]
        assert held() - before > 70e6
        # Every other one goes: holes would stay.
        del tensors[::2]
        assert held() - before < 50e6
        del tensors
        assert held() - before < 10e6


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_other_systems_are_left_alone(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    with lean_heap():
        trim_heap()
