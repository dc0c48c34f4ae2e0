"""Meeting the others: what is asked of the machine before; the meeting itself is in `test_processes`."""

import sys

import pytest
import torch

from shoal.errors import ConfigError, MissingExtraError, ShoalWarning
from shoal.meeting import meet

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU")


@pytest.fixture(autouse=True)
def launch(monkeypatch):
    """`launch(RANK=1)` sets what a launcher would; nothing is set before."""
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    return lambda **said: [monkeypatch.setenv(name, str(value)) for name, value in said.items()]


def test_a_process_alone_meets_nobody():
    assert meet() == (0, 1)


def test_several_processes_need_accelerate(launch, monkeypatch):
    launch(RANK=0, WORLD_SIZE=2)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        MissingExtraError, match=r"accelerate is needed to work in several processes.*shoal\[hf\]"
    ):
        meet()


def test_more_processes_than_gpus_are_refused(launch, monkeypatch):
    launch(RANK=0, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ConfigError, match="asked for 2 processes on a machine with 1 GPUs.*ACCELERATE_USE_CPU"
    ):
        meet()


def test_a_launcher_that_starts_one_in_place_of_several_is_spoken_of(launch):
    launch(ACCELERATE_USE_CPU="True", MASTER_ADDR="127.0.0.1")
    with pytest.warns(ShoalWarning, match="starts one process, however many are asked for"):
        assert meet() == (0, 1)
