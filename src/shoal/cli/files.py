"""Files that verbs read and write, whole or not at all; folders are the business of surgery."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.cli.console import note
from shoal.errors import BudgetError, ConfigError
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

# Key of the journal under which it is said that no plan met the budget.
_REFUSED = "budget refused"


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

    What a run has measured whose budget could not be met is gone on with: the next one asks for another.

    Raises:
        ConfigError: If an interrupted run left one, and it may neither be gone on with nor thrown away.
    """
    earlier = Journal(path) if path.exists() else Journal()
    resume = resume or (not overwrite and _refused(earlier))
    if len(earlier) and not (resume or overwrite):
        raise ConfigError(
            f"asked to begin anew, and {path} holds {len(earlier)} numbers that an interrupted run has "
            "measured: --resume goes on with them, --overwrite throws them away."
        )
    journal, done = Journal(path, resume=resume), False
    if _refused(journal):
        journal[_REFUSED] = False
    try:
        yield journal
        done = True
    except BudgetError:
        if len(journal):
            journal[_REFUSED] = True
        raise
    finally:
        if done or not len(journal):
            path.unlink(missing_ok=True)
            # Checkpoints of training between rounds of choosing stand beside it.
            for checkpoint in path.parent.glob(f"{path.name}.*.safetensors"):
                checkpoint.unlink()
        elif _refused(journal):
            note(f"what was measured is kept in {path}, and used when a budget that can be met is asked for")
        else:
            note(f"what was measured is kept in {path}; --resume goes on with it")


def _refused(journal: Journal) -> bool:
    """Whether the run ended because its budget could not be met."""
    return _REFUSED in journal and bool(journal[_REFUSED])


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
