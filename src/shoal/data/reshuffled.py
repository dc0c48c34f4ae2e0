"""Batches in another order each time they are gone through, as training wants them.

The order follows torch's random state, so that a run that is seeded is the same again.

Shapes: N = samples, B = batch, C H W = channels, height, width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from shoal.calling import Batch, check_batches
from shoal.data.batches import Batches, Data
from shoal.errors import ConfigError, DataError

__all__ = ["ReshuffledBatches", "reshuffled"]


def reshuffled(data: Data, *, augment: bool = False) -> Batches:
    """Return the batches of data for training: its samples in a new order each time.

    Batches of a user's own function are left as they are, since they may shuffle by themselves.

    Args:
        data: The data.
        augment: Whether images are shifted by up to an eighth of their side and mirrored at random.

    Raises:
        ConfigError: If something else than images of shoal's own loaders is to be augmented.
    """
    if augment and data.kind != "image":
        raise ConfigError(
            f"asked to augment {data.source}: only images of shoal's own loaders are shifted and mirrored. "
            "Augment in the function that makes the batches."
        )
    return data.batches if data.kind == "custom" else ReshuffledBatches(data.batches, augment=augment)


class ReshuffledBatches:
    """All samples of some batches, dealt out anew each time; the last batch may be smaller.

    Args:
        batches: Tensors, `(inputs, labels)` or dicts of tensors, all with B samples along their first axis.
        augment: Whether images `(B, C, H, W)` are shifted and mirrored.

    Example:
        >>> labelled = [(torch.arange(4.0), torch.arange(4)), (torch.arange(2.0), torch.arange(2))]
        >>> [len(labels) for _, labels in ReshuffledBatches(labelled)]
        [4, 2]
    """

    def __init__(self, batches: Batches, *, augment: bool = False) -> None:
        first, *rest = (_plain(batch) for batch in check_batches(batches))
        _check_shapes([first, *rest])
        self._whole = tree_map(lambda *leaves: torch.cat(leaves), first, *rest)
        leaves = tree_leaves(self._whole)
        self._samples, self._size = len(leaves[0]), len(tree_leaves(first)[0])
        self._augment = augment

    def __len__(self) -> int:
        return -(-self._samples // self._size)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(self._samples)
        for rows in order.split(self._size):
            batch = tree_map(lambda leaf, rows=rows: leaf[rows], self._whole)
            yield (_moved(batch[0]), *batch[1:]) if self._augment else batch


def _check_shapes(batches: list[Any]) -> None:
    shapes = [[tuple(leaf.shape[1:]) for leaf in tree_leaves(batch)] for batch in batches]
    if other := next((number for number, each in enumerate(shapes) if each != shapes[0]), None):
        raise DataError(
            f"asked to reshuffle batches of samples: those of batch 0 (from 0) have the shapes {shapes[0]}, "
            f"those of batch {other} {shapes[other]}. Samples of one shape work; or return the batches from "
            "a function (file.py:function), which are left as they are."
        )


def _plain(batch: Batch) -> Any:
    if isinstance(batch, Mapping):
        return dict(batch)
    return tuple(batch) if isinstance(batch, (tuple, list)) else batch


def _moved(images: Tensor) -> Tensor:
    """Shift each image by up to an eighth of its side, zeros coming in, and mirror it as often as not."""
    count, _, height, width = images.shape
    most = max(1, min(height, width) // 8)
    padded = torch.nn.functional.pad(images, (most,) * 4)
    down, right = torch.randint(2 * most + 1, (2, count, 1))
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = right + torch.arange(width)
    mirrored = torch.rand(count, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)[:, None, None, :]
    samples, channels = torch.arange(count)[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
    return padded[samples, channels, rows, columns]
