"""Batches that a function in the user's own file returns: `file.py:function`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from shoal.calling import check_batches, first_sample, sample_count, split_batch
from shoal.data.batches import Batches, Data, digest
from shoal.data.settings import DataSettings
from shoal.errors import ConfigError, DataError

__all__ = ["data_from_function"]


def data_from_function(reference: str, settings: DataSettings) -> Data:
    """Return the batches that `file.py:function` returns, as they are.

    The function takes no arguments and returns batches that can be gone through again and again: a
    list or a DataLoader of tensors, `(inputs, labels)` or dicts. It decides about their size and
    number, so settings for those are refused. The hash is of the file's text.

    Raises:
        ConfigError: If there is no such file or function, or a setting was given.
        DataError: If what it returns is no list of batches, is empty, or can be gone through only once; or
            if a batch holds no samples, as far as can be seen without going through all of them twice.
    """
    given = ("batch_size", "num_samples", "seq_len", "size", "crop", "mean", "std", "channels")
    settings.refuse(f"{reference}, which makes its batches itself", *given)
    name, _, function = reference.rpartition(":")
    path = Path(name)
    batches = _call(path, function)
    check_batches(batches)
    if not hasattr(batches, "__len__"):
        raise DataError(
            f"asked to use {reference}: it returned {type(batches).__name__}, which has no length. "
            "Return a list or a DataLoader of batches."
        )
    _check_full(reference, batches)
    inputs, labels = split_batch(next(iter(batches)))
    return Data(
        batches=batches,
        kind="custom",
        source=reference,
        samples=_samples(batches),
        sha256=digest(path.read_bytes(), function),
        labels=labels is not None,
        example=first_sample(inputs),
    )


def _call(path: Path, function: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"asked for batches from {path}:{function}: there is no file {path}.")
    module = _load(path)
    made = getattr(module, function, None)
    if not callable(made):
        public = [
            name for name, value in vars(module).items() if callable(value) and not name.startswith("_")
        ]
        raise ConfigError(
            f"asked for batches from {path}:{function}: the file has no function {function!r}. "
            f"It has {', '.join(public) or 'none'}."
        )
    try:
        inspect.signature(made).bind()
    except TypeError as error:
        raise ConfigError(
            f"asked for batches from {path}:{function}: it is called without "
            f"arguments, and wants some ({error})."
        ) from error
    return made()


def _load(path: Path) -> ModuleType:
    name = f"shoal_user_file_{digest(str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"asked to run {path}: it is no Python file. Give file.py:function.")
    module = importlib.util.module_from_spec(spec)
    # Workers and dataclasses look the module up by name; its neighbours are imported beside it.
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def _check_full(reference: str, batches: Batches) -> None:
    """Check that the batches of a list, and the first of anything else, hold samples."""
    seen = batches if isinstance(batches, (list, tuple)) else islice(batches, 1)
    for number, batch in enumerate(seen):
        if sample_count(split_batch(batch)[0]) == 0:
            raise DataError(
                f"asked to use {reference}: batch {number} of the {len(batches)} that it returned holds no "
                "samples. Return batches of one sample or more."
            )


def _samples(batches: Batches) -> int | None:
    if not isinstance(batches, (list, tuple)):
        return None
    return sum(sample_count(split_batch(batch)[0]) for batch in batches)
