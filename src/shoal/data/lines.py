"""Text files and JSON lines, with messages that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoal.errors import DataError

__all__ = ["are_tokens", "json_lines", "read_text"]


def read_text(path: Path) -> str:
    """Return what a text file in UTF-8 holds.

    Raises:
        DataError: If it is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"asked to use {path} as text: it is not UTF-8 ({error}). Convert it to UTF-8."
        ) from error


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the value of every line of a file of JSON lines; empty ones are no lines.

    Raises:
        DataError: If a line is not JSON, or the file no UTF-8.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"asked to use {path}: line {number} is not JSON ({error}).") from error


def are_tokens(content: Any) -> bool:
    """Return whether a JSON value is a list of token ids.

    Example:
        >>> are_tokens([1, 403]), are_tokens([1, -1]), are_tokens([True])
        (True, False, False)
    """
    return isinstance(content, list) and all(type(token) is int and token >= 0 for token in content)
