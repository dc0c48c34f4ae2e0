"""What a loader hands on: batches that can be gone through again, and words that say what they are.

Shapes: N = samples, B = batch, C H W = channels, height, width, T = tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from shoal.calling import Batch, Inputs, join_batch
from shoal.errors import DataError

__all__ = ["Batches", "Data", "Kind", "TensorBatches", "check_enough", "choose", "digest"]

Kind = Literal["image", "text", "custom"]


class Batches(Protocol):
    """Batches that can be counted, and gone through again and again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True, kw_only=True)
class Data:
    """Data as shoal's stages take it.

    Attributes:
        batches: `(inputs, labels)` for images, `{"input_ids", "attention_mask"}` for text, with `labels`
            where there are some; whatever the user's function returned otherwise.
        kind: `image`, `text` or `custom`.
        source: The reference, with the part that was used.
        samples: How many samples the batches hold; None where only going through them would tell.
        sha256: The first 16 digits of a hash of the data, for the record.
        labels: Whether the batches carry labels.
        example: Inputs of one sample, for shapes and costs; text is cut to 128 tokens.
    """

    batches: Batches = field(hash=False)
    kind: Kind
    source: str
    samples: int | None
    sha256: str
    labels: bool
    example: Inputs = field(hash=False)

    @property
    def description(self) -> str:
        """What was used, in words."""
        count = "" if self.samples is None else f"{self.samples:,} samples, "
        return f"{self.source}: {count}{len(self.batches):,} batches, sha256 {self.sha256}"


class TensorBatches(Sequence[Batch]):
    """Samples held in memory, cut into batches when they are asked for.

    Args:
        inputs: A tensor `(N, …)`, or a dict of them.
        labels: One of each sample, `(N, …)`; None where there are none. In batches of a dict they are its
            entry `labels`.
        batch_size: B; the last batch may be smaller.

    Example:
        >>> import torch
        >>> [len(images) for images, _ in TensorBatches(torch.zeros(5, 1), torch.arange(5), batch_size=2)]
        [2, 2, 1]
    """

    def __init__(
        self, inputs: Tensor | Mapping[str, Tensor], labels: Tensor | None, *, batch_size: int
    ) -> None:
        self._inputs = inputs
        self._labels = labels
        self._size = batch_size
        self._samples = len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))

    def __len__(self) -> int:
        return -(-self._samples // self._size)

    def __getitem__(self, index: Any) -> Batch:
        """Return the batch of this index, or a list of batches for a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        start = range(len(self))[index] * self._size
        rows = slice(start, start + self._size)
        labels = None if self._labels is None else self._labels[rows]
        if isinstance(self._inputs, Tensor):
            return join_batch(self._inputs[rows], labels)
        return join_batch({name: tensor[rows] for name, tensor in self._inputs.items()}, labels)


def choose(total: int, num_samples: int | None, seed: int, source: str) -> np.ndarray:
    """Return the indices of the samples to use: the first `num_samples` of a seeded shuffle.

    Raises:
        DataError: If there are fewer samples than were asked for.

    Example:
        >>> sorted(choose(3, None, 0, "digits").tolist())
        [0, 1, 2]
    """
    check_enough(total, num_samples, source)
    return np.random.default_rng(seed).permutation(total)[:num_samples]


def check_enough(total: int, num_samples: int | None, source: str) -> None:
    """Check that there are samples, and as many as were asked for.

    Raises:
        DataError: If not.
    """
    if total == 0:
        raise DataError(f"asked to use {source}: it holds no samples. Give data with at least one.")
    if num_samples is not None and num_samples > total:
        raise DataError(
            f"asked for {num_samples:,} samples of {source}: it has {total:,}. "
            f"Ask for {total:,} or fewer, or leave num_samples out to use all."
        )


def digest(*parts: bytes | str) -> str:
    """Return the first 16 hexadecimal digits of the parts' SHA-256."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else part)
        state.update(b"\x00")
    return state.hexdigest()[:16]
