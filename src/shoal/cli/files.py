"""What verbs write: folders that appear when they are verified, files that are written whole."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ConfigError, VerificationError
from shoal.journal import Journal

if TYPE_CHECKING:
    from torch import nn

    from shoal.calling import Inputs
    from shoal.plan import Plan
    from shoal.surgery import Verification

__all__ = [
    "beside",
    "check_file_target",
    "check_folder_target",
    "kept",
    "read_json",
    "read_plan",
    "write_text",
    "write_verified",
]

_RECORD = "shoal.json"


def beside(folder: Path, ending: str) -> Path:
    """Return the path of a file beside a folder, such as `out.journal.jsonl` for `out`.

    Example:
        >>> beside(Path("runs/out"), "journal.jsonl").as_posix()
        'runs/out.journal.jsonl'
    """
    return folder.with_name(f"{folder.name}.{ending}")


def check_folder_target(folder: Path, *, overwrite: bool) -> None:
    """Check, before long work is begun, that a folder may be written.

    Raises:
        ConfigError: If it exists and may not be replaced.
    """
    if not folder.exists():
        return
    if not overwrite:
        raise ConfigError(
            f"asked to write the folder {str(folder)!r}: it exists. Choose another name, or replace it with "
            "--overwrite."
        )
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _RECORD).is_file()):
        raise ConfigError(
            f"asked to replace {str(folder)!r}: shoal did not write it (there is no {_RECORD} in it). Choose "
            "another name, or remove it yourself."
        )


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
def kept(path: Path, *, resume: bool) -> Iterator[Journal]:
    """Yield a journal whose file is gone when the `with` ends well, and kept if it holds something else."""
    journal = Journal(path, resume=resume)
    try:
        yield journal
    except BaseException:
        if not len(journal):
            path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)


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
    try:
        return json.loads(_read(path, what))
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


def write_verified(
    model: nn.Module,
    folder: Path,
    *,
    example: Inputs,
    overwrite: bool,
    trust_remote_code: bool = False,
    **told: Any,
) -> Verification:
    """Write a model as a folder that appears only when it has been read back and found right.

    Args:
        model: The model.
        folder: The folder.
        example: What its forward takes; outputs are compared on it.
        overwrite: Whether a folder of that name that shoal wrote may be replaced.
        trust_remote_code: Whether code that comes with the model may run when it is read back.
        told: What `shoal.save` takes besides.

    Returns:
        What was checked.

    Raises:
        ConfigError: If the folder exists and may not be replaced.
        SurgeryError, VerificationError: If it cannot be written, or does not reproduce the model.
    """
    from shoal.surgery import Verification, record_verification, save, verify

    check_folder_target(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unproved = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.unverified")
    try:
        save(model, unproved, example=example, **told)
        try:
            verification = verify(unproved, trust_remote_code=trust_remote_code, reference=model)
        except VerificationError as error:
            raise VerificationError(str(error).replace(str(unproved), str(folder))) from error
        record_verification(verification)
        _take_place(unproved, folder)
    finally:
        shutil.rmtree(unproved, ignore_errors=True)
    return Verification(folder=folder, checks=verification.checks)


def _take_place(new: Path, folder: Path) -> None:
    old = new.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
