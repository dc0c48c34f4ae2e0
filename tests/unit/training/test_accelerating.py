import sys

import pytest
import torch

from shoal.errors import ConfigError, MissingExtraError
from shoal.training.accelerating import accelerating
from shoal.training.optimisation import FitSettings

CPU = torch.device("cpu")


def test_accelerate_is_left_free_for_others():
    from accelerate.state import AcceleratorState

    for precision in ("bf16", "no"):
        with accelerating(CPU, FitSettings(mixed_precision=precision)) as accelerator:
            assert accelerator.mixed_precision == precision
        assert not AcceleratorState._shared_state


def test_an_accelerator_of_somebody_else_goes_on():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    try:
        Accelerator(cpu=True, mixed_precision="no")
        with accelerating(CPU, FitSettings()):
            pass
        assert AcceleratorState._shared_state
        with (
            pytest.raises(ConfigError, match="Accelerate is in use with other settings"),
            accelerating(CPU, FitSettings(mixed_precision="bf16")),
        ):
            pass
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_fp16_on_a_cpu_is_refused():
    with (
        pytest.raises(ConfigError, match="fp16' on a CPU: no and bf16 work"),
        accelerating(CPU, FitSettings(mixed_precision="fp16")),
    ):
        pass


def test_without_accelerate_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"shoal\[heal\]"), accelerating(CPU, FitSettings()):
        pass
