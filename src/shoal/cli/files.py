"""Files that verbs read and write, whole or not at all; folders are the business of surgery."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.cli.console import note
from shoal.errors import ConfigError
from shoal.journal import Journal

if TYPE_CHECKING:
    from shoal.plan import Plan

__all__ = [
    "beside",
    "check_file_target",
    "kept",
    "read_json",
    "read_plan",
    "write_text",
]


def beside(folder: Path, ending: str) -> Path:
    """Return the path of a file beside a folder, such as `out.journal.jsonl` for `out`.

    Example:
        >>> beside(Path("runs/out"), "journal.jsonl").as_posix()
        'runs/out.journal.jsonl'
    """
    return folder.with_name(f"{folder.name}.{ending}")


def check_file_target(path: Path | None, *, overwrite: bool) -> None:
    """Check, before long work is begun, that a file may be written.

    Raises:
        ConfigError: If it exists and may not be replaced.
    """
    if path is not None and path.exists() and (path.is_dir() or not overwrite):
        what = "a folder" if path.is_dir() else "it exists"
        hint = "" if path.is_dir() else ", or replace it with --overwrite"
        raise ConfigError(f"asked to write {str(path)!r}: {what}. Choose another name{hint}.")


@contextmanager
def kept(path: Path, *, resume: bool, overwrite: bool = False) -> Iterator[Journal]:
    """Yield a journal whose file is gone when the `with` ends well, and kept if it holds something else.

    Raises:
        ConfigError: If an interrupted run left one, and it may neither be gone on with nor thrown away.
    """
    left = len(Journal(path)) if path.exists() and not (resume or overwrite) else 0
    if left:
        raise ConfigError(
            f"asked to begin anew, and {path} holds {left} numbers that an interrupted run has measured: "
            "--resume goes on with them, --overwrite throws them away."
        )
    journal, done = Journal(path, resume=resume), False
    try:
        yield journal
        done = True
    finally:
        if done or not len(journal):
            path.unlink(missing_ok=True)
            # Checkpoints of training between rounds of choosing stand beside it.
            for checkpoint in path.parent.glob(f"{path.name}.*.safetensors"):
                checkpoint.unlink()
        else:
            note(f"what was measured is kept in {path}; --resume goes on with it")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path, what: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        ConfigError: If it is missing or no JSON.
    """
    text = _read(path, what)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"asked to read the {what} {path}: it is not JSON ({error}).") from error


def read_plan(path: Path) -> Plan:
    """Return the plan in a file.

    Raises:
        ConfigError: If there is no such file.
        PlanError: If it holds no plan.
    """
    from shoal.plan import Plan

    return Plan.from_json(_read(path, "plan"))


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(f"asked to read the {what} {path}: {reason}.") from error
