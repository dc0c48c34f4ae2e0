"""The most memory that a function holds at once beyond what was held before it.

On CUDA the caching allocator counts, kernels' own workspaces included. On a CPU there is no such
count: every storage that an operation makes is watched until it dies. That is exact for tensors,
the same on every machine, and leaves out what a kernel allocates and frees inside itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_memory"]


def peak_memory(function: Callable[[], object], device: torch.device | str = "cpu") -> int | None:
    """Return the most bytes held at once while `function` runs, beyond those held before.

    Args:
        function: What to call; call it in `torch.no_grad()` to leave out what autograd keeps.
        device: Where its tensors live.

    Returns:
        Bytes; None on devices other than CPU and CUDA, where they cannot be counted.

    Example:
        >>> peak_memory(lambda: torch.zeros(3) + torch.ones(3))
        36
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return max(0, torch.cuda.max_memory_allocated(device) - held)
    if device.type == "cpu":
        with _Storages() as storages:
            function()
        return storages.peak
    return None


class _Storages(TorchDispatchMode):
    """Adds up the bytes of the storages that operations make, from their birth to their death."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = _storages((args, kwargs))
        for key, storage in _storages(output).items():
            # A view, or what came in, was held before.
            if key not in given and key not in self._alive:
                self._watch(key, storage)
        return output

    def _watch(self, key: int, storage: UntypedStorage) -> None:
        size = storage.nbytes()
        self._alive.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, key, size).atexit = False

    def _release(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.held -= size


def _storages(tree: Any) -> dict[int, UntypedStorage]:
    """Return the memory of all CPU tensors in a structure, by identity."""
    found = (
        leaf.untyped_storage()
        for leaf in tree_leaves(tree)
        if isinstance(leaf, Tensor) and leaf.device.type == "cpu" and leaf.layout is torch.strided
    )
    return {id(storage): storage for storage in found}
