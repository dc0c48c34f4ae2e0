"""How freed memory goes back to the system: the C library may keep it, with holes, for later."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["lean_heap", "trim_heap"]

# Blocks from this size on are mapped apart and given back when they are freed; the number is malloc.h's.
_THRESHOLD = -3
_LEAN, _USUAL = 2**20, 2**25


@contextmanager
def lean_heap() -> Iterator[None]:
    """Let the memory of freed tensors go back to the system at once, inside the `with`.

    It takes effect with the C library of GNU, which else keeps blocks of up to 32 MiB, a limit that it
    comes to by itself. Elsewhere nothing changes.
    """
    library = _library("mallopt")
    if library is None:
        yield
        return
    library.mallopt(_THRESHOLD, _LEAN)
    try:
        yield
    finally:
        library.mallopt(_THRESHOLD, _USUAL)
        trim_heap()


def trim_heap() -> None:
    """Give back what was freed of the memory that small objects share."""
    library = _library("malloc_trim")
    if library is not None:
        library.malloc_trim(0)


def _library(function: str) -> Any | None:
    """The C library, where it has a function."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, function) else None
