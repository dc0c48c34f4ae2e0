"""Where activations lie that are too many to be passed on at once: in memory, or in files mapped into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from shoal.errors import ConfigError

__all__ = ["ActivationStore", "activation_store"]


# Many tensors share a block of memory: small ones apart would leave holes in it.
_BLOCK = 64 * 2**20
_STEP = 64


class ActivationStore:
    """Keeps tensors: in memory up to a number of bytes, beyond it in files that are mapped into memory.

    They lie in blocks one behind the other; a block is given back with the last of its tensors.

    Args:
        folder: Where files are written.
        memory: Bytes that may lie in memory.
    """

    def __init__(self, folder: Path, memory: float) -> None:
        self.folder, self.memory = folder, memory
        self.kept = self.most = 0
        """Bytes kept now, and the most at once."""
        self._sizes: dict[int, int] = {}
        self._files = 0
        self._block, self._used = torch.empty(0, dtype=torch.uint8), 0

    def keep(self, tensor: Tensor) -> Tensor:
        """Return the tensor's numbers without its graph, on the CPU, where the store holds them.

        Raises:
            ConfigError: If there is no room for a file.
        """
        size = tensor.numel() * tensor.element_size()
        if self._used + size > len(self._block):
            self._block, self._used = self._new_block(max(size, _BLOCK)), 0
        place = self._block[self._used : self._used + size].view(tensor.dtype)
        # In the order in which the numbers lay, as kernels choose by it.
        strides = torch.empty_like(tensor, device="meta").stride()
        kept = place.as_strided(tensor.shape, strides, place.storage_offset()).copy_(tensor.detach())
        self._used += -(-size // _STEP) * _STEP
        self.kept += size
        self.most = max(self.most, self.kept)
        self._sizes[id(kept)] = size
        return kept

    def replace(self, old: Tensor, tensor: Tensor) -> Tensor:
        """Return the tensor's numbers as `keep` does, in the place of old ones where they fit there."""
        if old.shape == tensor.shape and old.dtype == tensor.dtype:
            return old.copy_(tensor.detach())
        self.drop(old)
        return self.keep(tensor)

    def drop(self, tensor: Tensor) -> None:
        """Count a tensor no longer: whoever held it lets go of it."""
        self.kept -= self._sizes.pop(id(tensor), 0)

    def _new_block(self, size: int) -> Tensor:
        if self.kept + size <= self.memory:
            return torch.empty(size, dtype=torch.uint8)
        path = self.folder / str(self._files)
        self._files += 1
        _reserve(path, size)
        block = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
        # Without a name the file is gone with its tensors, even if the process is killed; but some systems
        # keep the name while it is mapped.
        with suppress(PermissionError):
            path.unlink()
        return block


@contextmanager
def activation_store(memory: float, folder: Path | None = None) -> Iterator[ActivationStore]:
    """Open a store whose files are gone after the `with`, also if it fails.

    Args:
        memory: Bytes that may lie in memory; the rest lie in files.
        folder: Where to make a folder for the files; the system's for temporary files where it is None.

    Raises:
        ConfigError: If there is no such folder.

    Example:
        >>> with activation_store(memory=0) as store:
        ...     store.keep(torch.ones(2, 3)).sum()
        tensor(6.)
    """
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"asked to keep activations in {str(folder)!r}: there is no such folder.")
    with TemporaryDirectory(prefix="shoal-", dir=folder, ignore_cleanup_errors=True) as made:
        yield ActivationStore(Path(made), memory)


def _reserve(path: Path, size: int) -> None:
    """Make a file of this size: writing where a disk has no room would kill the process."""
    with path.open("wb") as file:
        try:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise ConfigError(
                f"asked to keep activations in {str(path.parent)!r}: {error.strerror} for {size:,} bytes. "
                "Name a folder on a larger disk, or give fewer or shorter samples."
            ) from error
