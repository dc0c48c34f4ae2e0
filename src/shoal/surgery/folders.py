"""Folders that appear whole or not at all: written beside their name, renamed when complete."""

from __future__ import annotations

import importlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TextIO

from shoal.errors import ConfigError
from shoal.journal import Journal
from shoal.surgery.record import RECORD

__all__ = ["check_target", "resumable", "written_whole"]

_JOURNAL = ".journal.jsonl"
_KEY_LENGTH = 16


@contextmanager
def written_whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its name when the `with` ends well."""
    check_target(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    partial.mkdir()
    try:
        yield partial
        _take_name(partial, target, overwrite=overwrite)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def resumable(target: Path, key: str, *, overwrite: bool, resume: bool) -> Iterator[tuple[Path, Journal]]:
    """Yield a folder beside `target` that takes its name when the `with` ends well, and its journal.

    A process that is killed leaves the folder under a name that the key decides, where the next one
    finds it. After an interruption it stays too; after an error nothing is left.

    Args:
        target: The folder to make.
        key: A `shoal.journal.fingerprint` of all that decides what is written.
        overwrite: Whether a folder of that name that shoal wrote may be replaced.
        resume: Whether to go on with the files that a killed process has finished, which are those that
            its journal names; all else that it left is thrown away.

    Raises:
        ConfigError: If the folder may not be written, or another process is writing it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{key}.partial"
    for other in _left(target, ".partial"):
        with _locked(other / _JOURNAL):
            _put_back(other.with_suffix(".old"), target)
            if other != partial or not resume:
                shutil.rmtree(other)
    for old in _left(target, ".old"):
        _put_back(old, target)
    check_target(target, overwrite=overwrite)
    partial.mkdir(exist_ok=True)
    with _locked(partial / _JOURNAL):
        try:
            journal = Journal(partial / _JOURNAL, resume=resume)
            for path in partial.iterdir():
                # It may have been cut short.
                if path.name != _JOURNAL and path.name not in journal:
                    path.unlink()
            yield partial, journal
            (partial / _JOURNAL).unlink()
            _take_name(partial, target, overwrite=overwrite)
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _left(target: Path, ending: str) -> list[Path]:
    """What killed processes have left beside a folder."""
    pattern = f".{escape(target.name)}.{'?' * _KEY_LENGTH}{ending}"
    return sorted(target.parent.glob(pattern))


@contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """Keep other processes out of a partial folder, by its journal; the lock goes with the process."""
    with path.open("a", encoding="utf-8") as stream:
        try:
            fcntl = importlib.import_module("fcntl")
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            # Windows has no such locks; there two processes must not write one folder at once.
            pass
        except OSError as error:
            raise ConfigError(
                f"asked to write beside {path.parent}: another process is writing there. Wait for it, or "
                "choose another name."
            ) from error
        yield stream


def _put_back(old: Path, target: Path) -> None:
    """Undo a renaming that was cut short between its two steps, or finish one that was after them."""
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(target)


def _take_name(partial: Path, target: Path, *, overwrite: bool) -> None:
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
