"""Files of a folder that nobody vouches for: regular files inside it, and JSON that stays small.

Nothing here opens what lies elsewhere, waits for a pipe, or lets a text exhaust the stack.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shoal.errors import VerificationError

__all__ = ["LARGEST", "check_links", "file_inside", "parse_json", "read_json"]

# What the official reader of safetensors takes as the largest header.
LARGEST = 100_000_000


def file_inside(folder: Path, name: str) -> Path:
    """Return the regular file of this name in a folder, its links followed.

    A link may lead to a file of the same folder, or from a snapshot of the hub's cache to its blobs.

    Args:
        folder: The folder.
        name: A plain file name.

    Raises:
        VerificationError: If it is no plain name, leads elsewhere, is missing, or is no regular file.
    """
    asked = f"asked to read {name!r} of {str(folder)!r}"
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0:"):
        raise VerificationError(f"{asked}: files are named without folders. Nothing was opened.")
    home = folder.resolve()
    try:
        path = (home / name).resolve(strict=True)
        kind = path.stat().st_mode
    except (OSError, RuntimeError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise VerificationError(f"{asked}: {reason}. Fetch the folder again.") from error
    cached = home.parent.name == "snapshots"
    if path.parent != home and not (cached and path.parent == home.parent.parent / "blobs"):
        raise VerificationError(
            f"{asked}: the link leads to {str(path)!r}, outside of the folder. Put the file itself there."
        )
    if not stat.S_ISREG(kind):
        raise VerificationError(f"{asked}: it is no regular file.")
    return path


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Check that no file of these names, where there is one, leads out of the folder.

    Raises:
        VerificationError: As `file_inside`.
    """
    for name in names:
        if (folder / name).is_symlink() or (folder / name).exists():
            file_inside(folder, name)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        VerificationError: If it is larger than 100 MB, or as `parse_json`.
        OSError: If it cannot be read.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise VerificationError(f"asked to read {path}: {size:,} bytes; at most {LARGEST:,} are read.")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, name: str) -> Any:
    """Return the value of a JSON text in which no object names a key twice.

    Args:
        text: The text.
        name: Where it stands, for messages.

    Raises:
        VerificationError: If it is no such text, or is nested too deeply.

    Example:
        >>> parse_json(b'{"a": [1]}', "here")
        {'a': [1]}
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise VerificationError(f"asked to read {name}: its JSON is nested too deeply.") from error
    except ValueError as error:
        raise VerificationError(f"asked to read {name}: it is damaged ({error}).") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:80]!r} stands there twice")
        found[name] = value
    return found
