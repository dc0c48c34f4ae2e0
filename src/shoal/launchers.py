"""What `accelerate launch`, torchrun or MPI say of the process that they have started.

torch is not imported here: planning, which has to know whether this is the main process, does without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["group", "is_main", "said_count", "started", "started_here"]

# What launchers set: torchrun and `accelerate launch` first, then kinds of MPI.
_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_NUMBER = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_HERE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")


def started() -> int:
    """Return how many processes were started together, this one included."""
    met = group()
    return met.get_world_size() if met else _said(_COUNT) or 1


def is_main() -> bool:
    """Return whether this process speaks and writes for all that were started together.

    Example:
        >>> is_main()
        True
    """
    met = group()
    return started() == 1 or (met.get_rank() if met else _said(_NUMBER) or 0) == 0


def group() -> Any:
    """Return `torch.distributed` where it connects processes, else None."""
    distributed = sys.modules.get("torch.distributed")
    usable = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if usable else None


def said_count() -> int | None:
    """Return how many processes the launcher says that it has started; None where it says nothing."""
    return _said(_COUNT)


def started_here() -> int:
    """Return how many of the processes that were started together run on this machine."""
    return _said(_HERE) or started()


def _said(names: Sequence[str]) -> int | None:
    found = (os.environ[name] for name in names if os.environ.get(name, "").isdecimal())
    return next(map(int, found), None)
