"""`shoal.json`: what a written folder says of itself. Plain JSON values, versioned, never pickle."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shoal.architectures.functions import file_hash
from shoal.architectures.shards import WEIGHTS
from shoal.errors import VerificationError

__all__ = [
    "PROBE",
    "RECORD",
    "TOLERANCES",
    "VERSION",
    "WEIGHTS",
    "hashes",
    "plain",
    "read_record",
    "share",
    "versions",
    "write_record",
]

VERSION = 1
RECORD = "shoal.json"
# Largest difference of outputs that is rounding, relative to the largest output.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
# Servers read every safetensors file at the top of a folder as weights: the probe lies below.
PROBE = "shoal/probe.safetensors"


def plain(value: Any) -> Any:
    """Return a value as strict JSON values: arrays become lists, what is not finite becomes null.

    Example:
        >>> plain({"loss": float("nan"), "axes": (1, 2), 3: Path("a")})
        {'loss': None, 'axes': [1, 2], '3': 'a'}
    """
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        value = value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    return str(value)


def versions() -> dict[str, str]:
    """Return the versions of what was at work: Python, torch, shoal, and transformers where loaded."""
    from shoal import __version__

    found = {"python": platform.python_version(), "torch": torch.__version__, "shoal": __version__}
    transformers = sys.modules.get("transformers")
    return found if transformers is None else found | {"transformers": transformers.__version__}


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every safetensors file in a folder, by path relative to it."""
    files = sorted(folder.rglob("*.safetensors"))
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def share(folder: Path) -> None:
    """Let whoever may read a folder's `shoal.json` read its weights too."""
    # safetensors makes files that only their owner can read, whatever the umask says.
    mode = (folder / RECORD).stat().st_mode
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def write_record(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write a folder's `shoal.json`, whole or not at all."""
    partial = folder / f".{RECORD}.partial"
    text = json.dumps(plain({"version": VERSION, **fields}), indent=2, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / RECORD)


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a folder's `shoal.json` says.

    Raises:
        VerificationError: If there is none, it is damaged, or a newer version wrote it.
    """
    path = folder / RECORD
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise VerificationError(
            f"asked to read {str(folder)!r}: there is no {RECORD} in it, so shoal did not write it."
        ) from error
    except ValueError as error:
        raise VerificationError(f"asked to read {path}: it is damaged ({error}).") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("version"), int):
        raise VerificationError(f"asked to read {path}: it is damaged (it says no version).")
    if fields["version"] > VERSION:
        wrote = (fields.get("versions") or {}).get("shoal", "unknown")
        raise VerificationError(
            f"asked to read {path} of version {fields['version']}: this shoal reads version {VERSION}. "
            f"Use the shoal that wrote it ({wrote}), or a newer one."
        )
    return fields
