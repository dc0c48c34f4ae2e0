"""Folders that appear whole or not at all: written beside their name, renamed when complete."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.errors import ConfigError
from shoal.surgery.record import RECORD

__all__ = ["check_target", "written_whole"]


@contextmanager
def written_whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its name when the `with` ends well."""
    check_target(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    partial.mkdir()
    try:
        yield partial
        check_target(target, overwrite=overwrite)
        old = partial.with_suffix(".old")
        if target.exists():
            target.rename(old)
        try:
            partial.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check, best before long work is begun, that a folder may be written.

    Raises:
        ConfigError: If it exists and may not be replaced, or shoal did not write it.
    """
    if not target.exists():
        return
    if not overwrite:
        raise ConfigError(
            f"asked to write the folder {str(target)!r}: it exists. Choose another name, or allow "
            "replacing it (overwrite)."
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / RECORD).is_file()):
        raise ConfigError(
            f"asked to replace {str(target)!r}: it is not a folder that shoal wrote (there is no {RECORD} "
            "in it). Choose another name, or remove it yourself."
        )
