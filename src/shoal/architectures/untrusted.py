"""Files of a folder that nobody vouches for: regular files inside it, and JSON that stays small.

Nothing here opens what lies elsewhere, waits for a pipe, or lets a text exhaust the stack.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, VerificationError

__all__ = ["LARGEST", "check_config_fields", "file_inside", "parse_json", "read_json"]

# What the official reader of safetensors takes as the largest header.
LARGEST = 100_000_000
# Fields that say by which code a network computes; a name with a slash is fetched from a hub.
_KERNEL = re.compile(r"(attn|experts)_implementation(_internal)?$")
# Fields that name other files than the folder's own.
_FILES = ("transformers_weights", "configuration_files")


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
    blobs = [parent.parent / "blobs" for parent in home.parents[:2] if parent.name == "snapshots"]
    if path.parent not in (home, *blobs):
        raise VerificationError(
            f"{asked}: the link leads to {str(path)!r}, outside of the folder. Put the file itself there."
        )
    if not stat.S_ISREG(kind):
        raise VerificationError(f"{asked}: it is no regular file.")
    return path


def check_config_fields(fields: Any, source: str | Path) -> None:
    """Check that no field of a config, however deep inside, fetches code or leads to other files.

    Args:
        fields: What the config says: JSON.
        source: Where it stands, for messages.

    Raises:
        ConfigError: If one does, or is a name for one that does.

    Example:
        >>> check_config_fields({"text_config": {"attn_implementation": "sdpa"}}, "here")
    """
    waiting = [fields]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for name, inner in value.items():
                _check_field(name, inner, source)
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


def _check_field(name: str, value: Any, source: str | Path) -> None:
    what = None
    if _KERNEL.search(name) and not all(
        each is None or (isinstance(each, str) and re.fullmatch(r"[\w|]+", each))
        for each in (value.values() if isinstance(value, dict) else [value])
    ):
        told = value if isinstance(value, str) else type(value).__name__
        what = f"its {name} {told[:80]!r} would fetch code from a hub, or is no name"
    elif name in _FILES:
        what = f"its {name} names other files than the folder's"
    elif isinstance(value, str) and (_KERNEL.search(value) or value in _FILES):
        what = f"its field {name[:80]!r} is another name for {value[:80]}"
    if what is not None:
        raise ConfigError(f"asked to read {source}: {what}. Remove that field.")


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
