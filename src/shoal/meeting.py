"""How a process meets those that a launcher has started with it: by Accelerate, over torch.distributed."""

from __future__ import annotations

import atexit
import os
import warnings

from shoal.errors import ConfigError, MissingExtraError, ShoalWarning
from shoal.launchers import group, said_count, started, started_here

__all__ = ["meet"]


def meet() -> tuple[int, int]:
    """Connect this process with those that were started with it; return its number, and how many there
    are.

    Raises:
        ConfigError: If there are more processes than devices.
        MissingExtraError: If there are several processes and Accelerate is not installed.
    """
    if started() == 1:
        _warn_of_one()
        return 0, 1
    if group() is None:
        try:
            from accelerate import PartialState
        except ModuleNotFoundError as error:
            purpose = "to work in several processes"
            raise MissingExtraError("accelerate", extra="hf", purpose=purpose) from error
        PartialState(cpu=_over_cpus())
        # A connection that is still open when Python ends may abort the process.
        atexit.register(_leave)
    met = group()
    return (met.get_rank(), met.get_world_size()) if met else (0, 1)


def _over_cpus() -> bool:
    import torch

    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        return True
    if not torch.cuda.is_available():
        other = getattr(torch, "accelerator", None)
        return other is None or not other.is_available()
    here, devices = started_here(), torch.cuda.device_count()
    if here > devices:
        raise ConfigError(
            f"asked for {here} processes on a machine with {devices} GPUs: each takes one of its own. Start "
            f"{devices} or fewer, or set ACCELERATE_USE_CPU=true."
        )
    return False


def _leave() -> None:
    if met := group():
        met.destroy_process_group()


def _warn_of_one() -> None:
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and said_count() is None:
        warnings.warn(
            "`accelerate launch --cpu` starts one process, however many are asked for, unless it is given "
            "an --mpirun_hostfile. With --multi_gpu in place of --cpu it starts them all, on CPUs too.",
            ShoalWarning,
            stacklevel=5,
        )
