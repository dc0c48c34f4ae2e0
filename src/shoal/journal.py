"""Numbers that were dear to measure, appended to disk as they are made, so that a run can go on.

A journal is a file of JSON lines, `{"key": …, "value": …}`. Keys carry a hash of weights, data and
settings (`fingerprint`), so that a number is never used for anything but what it was measured on.
A line that a crash cut short is ignored.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["Journal", "fingerprint"]


class Journal:
    """A memory of measured values that survives the process.

    Args:
        path: The file; None keeps the values in memory only.
        resume: Whether to read what the file already holds; otherwise it is begun anew.
    """

    def __init__(self, path: Path | None = None, *, resume: bool = True) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            self._read(path)
        else:
            path.write_text("", encoding="utf-8")

    def _read(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            self._values[entry["key"]] = entry["value"]
        if text and not text.endswith("\n"):
            # A cut line must not swallow the next one.
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")


def fingerprint(*parts: object) -> str:
    """Return a short hash of the parts, stable between processes.

    Args:
        parts: JSON values, bytes, or anything whose `repr` says all that matters.

    Example:
        >>> fingerprint("a", 1) == fingerprint("a", 1), fingerprint("a") == fingerprint("b")
        (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        kind, written = ("bytes", part) if isinstance(part, bytes) else ("repr", repr(part).encode())
        # Kind and length keep parts apart, whatever bytes they hold.
        digest.update(f"{kind}:{len(written)}:".encode())
        digest.update(written)
    return digest.hexdigest()[:16]
