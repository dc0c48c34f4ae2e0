"""Where the code or the folder lies that a network is made of: noted in a folder, and found again from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shoal.architectures.functions import HOW_TO_BUILD, file_hash
from shoal.errors import ConfigError

__all__ = ["check_file", "located", "noted"]


def noted(source: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the note of where a model came from as it is written into a folder: where a file or folder is
    named, it says too where that lies, seen from the folder that is written.
    """
    note = dict(source)
    note.pop("beside", None)
    path = _path_in(source)
    if path is not None and path.exists():
        # On Windows no such way leads to another drive.
        with suppress(ValueError):
            note["beside"] = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    if "original" in note:
        note["original"] = noted(note["original"], folder)
    return note


def located(source: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the note that stands in a folder with paths that lead there from here.

    What is not found as it was typed, or has changed since, is looked for where it lay seen from the folder.

    Args:
        source: What `noted` wrote.
        folder: The folder.
    """
    note = {name: value for name, value in source.items() if name != "beside"}
    path, near = _path_in(note), _near(source, folder)
    if path is not None and _state(note, path) and near is not None and not _state(note, near):
        function = str(note["reference"]).rpartition(":")[2]
        note["reference"] = f"{near}:{function}" if note["kind"] == "file" else str(near)
    if isinstance(note.get("original"), Mapping):
        note["original"] = located(note["original"], folder)
    return note


def check_file(written: Mapping[str, Any], folder: Path | None, source: Mapping[str, Any]) -> None:
    """Check that the file that builds a network is there, as it was.

    Args:
        written: What `noted` wrote.
        folder: The folder that it stands in; None where it stands in none.
        source: What `located` made of it.

    Raises:
        ConfigError: If it is not; names all places.
    """
    path = _path_in(source)
    if path is None or not _state(source, path):
        return
    states, near = {path.absolute(): _state(source, path)}, _near(written, folder)
    if near is not None:
        states.setdefault(near, _state(source, near))
    told = ", and ".join(f"{place} {state}" for place, state in states.items())
    raise ConfigError(f"asked to build the model {written.get('reference')!r} again: {told}. {HOW_TO_BUILD}")


def _path_in(source: Mapping[str, Any]) -> Path | None:
    """The file or folder that a note names; None where it names none."""
    reference = str(source.get("reference"))
    if source.get("kind") == "file":
        return Path(reference.rpartition(":")[0]).expanduser()
    if source.get("kind") == "shoal" or (source.get("kind") == "huggingface" and not source.get("hub")):
        return Path(reference).expanduser()
    return None


def _near(source: Mapping[str, Any], folder: Path | None) -> Path | None:
    """Where a file or folder lay seen from the folder that notes it; None where it does not say."""
    if folder is None or source.get("beside") is None:
        return None
    near = Path(os.path.normpath(folder.absolute() / str(source["beside"])))
    # Code that comes in the folder itself is not run: whoever made the folder wrote the hash, too.
    return None if near.resolve().is_relative_to(folder.resolve()) else near


def _state(source: Mapping[str, Any], path: Path) -> str:
    """What keeps the network from being built of this path; empty for nothing."""
    if source.get("kind") != "file":
        return "" if path.is_dir() else "is not there"
    if not path.is_file():
        return "is not there"
    return "" if file_hash(path) == source.get("sha256") else "has changed since"
