"""Folders that appear whole or not at all: written beside their name, renamed when complete."""

from __future__ import annotations

import importlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType

from shoal.errors import ConfigError
from shoal.journal import Journal
from shoal.surgery.record import RECORD

__all__ = ["check_target", "check_writable", "left_beside", "resumable", "written_whole"]

_JOURNAL = ".journal.jsonl"


@contextmanager
def written_whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its name when the `with` ends well.

    Raises:
        ConfigError: If the folder may not be written, or another process is writing it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        _put_back(target)
        check_target(target, overwrite=overwrite)
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
        ConfigError: If the folder may not be written, another process is writing it, or someone else has
            put something where this one would be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{key}.cut"
    with _locked(target):
        _put_back(target)
        for left in left_beside(target):
            _check_own(left, target)
            if left != partial or not resume:
                shutil.rmtree(left)
        check_target(target, overwrite=overwrite)
        partial.mkdir(mode=0o700, exist_ok=True)
        _check_own(partial, target)
        partial.chmod(0o700)
        journal = _tidied(partial)
        try:
            yield partial, journal
            (partial / _JOURNAL).unlink()
            _open_up(partial)
            _take_name(partial, target, overwrite=overwrite)
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def left_beside(target: Path) -> list[Path]:
    """Return what `resumable` has left beside a folder where it was killed or interrupted."""
    return _beside(target, r"[0-9a-f]{16}\.cut")


def _beside(target: Path, ending: str) -> list[Path]:
    # A pattern of the shell would find what belongs to `out.small` when asked about `out`.
    name = re.compile(rf"\.{re.escape(target.name)}\.{ending}")
    return sorted(path for path in target.parent.glob(".*") if name.fullmatch(path.name))


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep other processes from writing a folder; the lock goes with the process."""
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        # Windows has no such locks; there two processes must not write one folder at once.
        yield
        return
    path = target.parent / f".{target.name}.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(
            f"asked to write {str(target)!r}: its lock {path} cannot be opened ({error.strerror}). Remove "
            "what is there, or write elsewhere."
        ) from error
    try:
        if not _is_taken(lock, fcntl):
            raise ConfigError(
                f"asked to write {str(target)!r}: another process is writing there. Wait for it, or choose "
                "another name."
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _is_taken(lock: int, fcntl: ModuleType) -> bool:
    """Take a lock if it is free, and return whether it was."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # This file system has no locks either.
        return True
    # Whoever had it may have removed it since it was opened, and another one may be there by now.
    return os.fstat(lock).st_nlink > 0


def _check_own(partial: Path, target: Path) -> None:
    """Check that what was left is a folder of this user's: others may write where the target is."""
    state, user = partial.lstat(), getattr(os, "getuid", None)
    if not stat.S_ISDIR(state.st_mode) or (user and state.st_uid != user()):
        raise ConfigError(
            f"asked to write {str(target)!r}: {partial} is in the way, which is no folder of this user's. "
            "Remove it, or choose another name."
        )


def _tidied(partial: Path) -> Journal:
    """Return the journal of a partial folder, without all that it does not name: it may be cut short."""
    for path in partial.iterdir():
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            shutil.rmtree(path)
        elif not stat.S_ISREG(kind):
            path.unlink()
    journal = Journal(partial / _JOURNAL)
    for path in partial.iterdir():
        if path.name != _JOURNAL and path.name not in journal:
            path.unlink()
    return journal


def _open_up(partial: Path) -> None:
    """Give a folder that only its owner could read the mode that new folders have."""
    usual = partial / ".mode"
    usual.mkdir()
    mode = stat.S_IMODE(usual.stat().st_mode)
    usual.rmdir()
    partial.chmod(mode)


def _put_back(target: Path) -> None:
    """Undo a renaming that was cut short between its two steps, or finish one that was after them."""
    for old in _beside(target, r"(?:[0-9a-f]{8}|[0-9a-f]{16})\.old"):
        if old.is_symlink() or not (old / RECORD).is_file():
            continue
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def _take_name(partial: Path, target: Path, *, overwrite: bool) -> None:
    check_target(target, overwrite=overwrite)
    old = partial.with_suffix(".old")
    if target.exists():
        with suppress(FileNotFoundError):
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
        ConfigError: If it exists and may not be replaced, shoal did not write it, or nothing can be written
            there.
    """
    check_writable(target)
    if not target.exists():
        return
    if not overwrite:
        raise ConfigError(
            f"asked to write the folder {str(target)!r}: it exists. Choose another name, or replace it with "
            "overwrite=True (on the command line --overwrite)."
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / RECORD).is_file()):
        raise ConfigError(
            f"asked to replace {str(target)!r}: it is not a folder that shoal wrote (there is no {RECORD} "
            "in it). Choose another name, or remove it yourself."
        )


def check_writable(target: Path) -> None:
    """Check that a folder could be made: the nearest one that is there takes a file.

    Raises:
        ConfigError: If not.
    """
    if target.is_symlink() and not target.exists():
        raise ConfigError(
            f"asked to write the folder {str(target)!r}: it is a link to {str(target.readlink())!r}, which "
            "is not there. Choose another name."
        )
    there = target.absolute()
    try:
        there = next((parent for parent in there.parents if parent.exists()), there)
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigError(
            f"asked to write the folder {str(target)!r}: nothing can be written in {str(there)!r} "
            f"({error.strerror}). Choose another name."
        ) from error
