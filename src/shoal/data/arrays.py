"""Arrays in an `.npz` file: images or token ids, with labels or without.

Shapes: N = samples, C H W = channels, height, width, T = tokens.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shoal.data.batches import Data, check_enough
from shoal.data.images import data_from_pixels
from shoal.data.settings import DataSettings
from shoal.data.text import data_from_rows
from shoal.errors import ConfigError, DataError
from shoal.measurement.losses import IGNORED

__all__ = ["data_from_arrays"]

_WORKS = (
    "Arrays that work: images (N, H, W, C) uint8 or (N, C, H, W) float with labels (N,) integer; "
    "or input_ids (N, T) integer, with labels (N,) or (N, T) integer."
)


def data_from_arrays(path: Path, settings: DataSettings) -> Data:
    """Return data of the arrays in an `.npz` file.

    `images` with `labels`, which may be left out: uint8 `(N, H, W, C)` or `(N, H, W)` becomes float
    in [0, 1]; float `(N, C, H, W)` is used as it is. Or `input_ids` `(N, T)`, with `attention_mask`
    where there is padding; every row is a sample. Their `labels` are classes `(N,)`, or tokens or classes
    of the single tokens `(N, T)`, -100 where none counts.

    Raises:
        DataError: If the file is damaged, or its arrays have other names, types or shapes.
        ConfigError: If a setting means nothing here.
    """
    arrays = _read(path)
    if "input_ids" in arrays:
        return _tokens(arrays, path, settings)
    if "images" not in arrays:
        raise DataError(f"asked to use {path}: it holds {', '.join(arrays) or 'no arrays'}. {_WORKS}")
    images = _images(arrays["images"], path)
    labels = None if "labels" not in arrays else _labels(arrays["labels"], len(images), path)
    return data_from_pixels(images, labels, str(path), settings)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"asked to use {path}: it cannot be read as .npz ({error}). {_WORKS}") from error


def _images(array: np.ndarray, path: Path) -> Tensor:
    found = f"asked to use {path}: its images are {array.dtype} {array.shape}"
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        pixels = torch.from_numpy(array if array.ndim == 4 else array[..., None])
        if pixels.shape[-1] not in (1, 3, 4):
            raise DataError(f"{found}, with channels that are not last. {_WORKS}")
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 255
    if not np.issubdtype(array.dtype, np.floating) or array.ndim != 4:
        raise DataError(f"{found}. {_WORKS}")
    if not np.isfinite(array).all():
        wrong = np.sum(~np.isfinite(array))
        raise DataError(
            f"{found}, with numbers that are not finite: {wrong:,} of {array.size:,}. Repair them."
        )
    return torch.from_numpy(array).to(torch.float32)


def _labels(array: np.ndarray, samples: int, path: Path) -> Tensor:
    found = f"asked to use {path}: its labels are {array.dtype} {array.shape}"
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (samples,):
        raise DataError(f"{found} for {samples} images. {_WORKS}")
    if array.min(initial=0) < 0:
        raise DataError(f"{found}, and the smallest is {array.min()}. Number the classes from 0.")
    return torch.from_numpy(array.astype(np.int64))


def _token_labels(array: np.ndarray, shape: tuple[int, ...], path: Path) -> Tensor:
    found = f"asked to use {path}: its labels are {array.dtype} {array.shape}"
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in (shape[:1], shape):
        raise DataError(f"{found} for input_ids {shape}. {_WORKS}")
    if wrong := array[(array < 0) & ((array != IGNORED) | (array.ndim < 2))].tolist():
        raise DataError(
            f"{found}, and one is {wrong[0]}. Number the classes from 0; {IGNORED}, for what does not count, "
            "works in labels of single tokens."
        )
    return torch.from_numpy(array.astype(np.int64))


def _tokens(arrays: dict[str, np.ndarray], path: Path, settings: DataSettings) -> Data:
    settings.refuse_image_settings(f"the token ids of {path}")
    rows, mask = arrays["input_ids"], arrays.get("attention_mask")
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.integer) or rows.min(initial=0) < 0:
        raise DataError(
            f"asked to use {path}: its input_ids are {rows.dtype} {rows.shape}"
            f"{f', the smallest {rows.min()}' if rows.size else ''}. {_WORKS}"
        )
    if mask is not None and (mask.shape != rows.shape or not np.isin(mask, (0, 1)).all()):
        raise DataError(
            f"asked to use {path}: its attention_mask {mask.shape} does not fit input_ids {rows.shape}. "
            "Give a 1 for every token and a 0 for padding."
        )
    if settings.seq_len not in (None, rows.shape[1]):
        raise ConfigError(
            f"asked for windows of {settings.seq_len} tokens of {path}: its rows hold {rows.shape[1]}, "
            "and each is a sample. Leave seq_len out."
        )
    labels = None if "labels" not in arrays else _token_labels(arrays["labels"], rows.shape, path)
    check_enough(rows.size and len(rows), settings.num_samples, str(path))
    count = settings.num_samples or len(rows)
    chosen = np.arange(count) * len(rows) // count
    ids = torch.from_numpy(rows[chosen].astype(np.int64))
    kept = None if mask is None else torch.from_numpy(mask[chosen].astype(np.int64))
    labels = None if labels is None else labels[torch.from_numpy(chosen)]
    return data_from_rows(ids, kept, str(path), settings.batch_size, labels)
