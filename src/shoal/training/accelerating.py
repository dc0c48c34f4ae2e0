"""What Accelerate does for a training run: the precision, and the scaling of gradients in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from shoal.errors import ConfigError, MissingExtraError
from shoal.training.optimisation import FitSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerating"]


@contextmanager
def accelerating(device: torch.device, settings: FitSettings) -> Iterator[Accelerator]:
    """Yield an Accelerator for `device`, and leave no global state of Accelerate's behind.

    Raises:
        MissingExtraError: If Accelerate is not installed.
        ConfigError: If the device does not have the precision, or Accelerate is in use with another.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ModuleNotFoundError as error:
        raise MissingExtraError("accelerate", extra="heal", purpose="to train networks") from error
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError("asked to train with mixed_precision='fp16' on a CPU: no and bf16 work there.")
    was_set = bool(AcceleratorState._shared_state)
    try:
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=settings.mixed_precision)
    except ValueError as error:
        raise ConfigError(
            f"asked to train on {device} with mixed_precision={settings.mixed_precision!r}: Accelerate is "
            f"in use with other settings in this process ({error})."
        ) from error
    try:
        yield accelerator
    finally:
        if not was_set:
            AcceleratorState._reset_state(reset_partial_state=True)
