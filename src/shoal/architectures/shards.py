"""The headers of a folder's safetensors files: read and checked without reading a weight.

A file is 8 bytes with the length of its header, the header as JSON, and the bytes of all tensors one
behind the other, without gaps.

Reference: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from shoal.architectures.untrusted import LARGEST, file_inside, parse_json, read_json
from shoal.errors import VerificationError

__all__ = [
    "INDEX",
    "WEIGHTS",
    "Checkpoint",
    "Entry",
    "Shard",
    "read_checkpoint",
    "read_shard",
]

# More than torch knows.
_AXES = 100
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Attributes:
        dtype: As the format calls it, such as `BF16`.
        shape: Its shape.
        start, stop: Its bytes, counted from the end of the header.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file.

    Attributes:
        name: Its name in the folder.
        path: Where it is, links followed.
        data: Where in the file the tensors begin.
        size: Bytes of the file.
        changed: When it was last changed, in ns.
        entries: Its tensors by name, in the order of their bytes.
        metadata: What else the header says.
    """

    name: str
    path: Path
    data: int
    size: int
    changed: int
    entries: Mapping[str, Entry] = field(hash=False)
    metadata: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All files of a folder's weights.

    Attributes:
        folder: The folder.
        shards: The files, in the order of their names.
        metadata: What the index says beside the places of tensors.
    """

    folder: Path
    shards: tuple[Shard, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def entries(self) -> dict[str, Entry]:
        """All tensors by name."""
        return {name: entry for shard in self.shards for name, entry in shard.entries.items()}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(shard.size for shard in self.shards)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the headers of a folder's weights: of `model.safetensors`, else of what the index names.

    Raises:
        VerificationError: If there are none, a file is missing, damaged or leads out of the folder, or
            the index and the headers disagree.
    """
    if (folder / WEIGHTS).exists() or (folder / WEIGHTS).is_symlink():
        return Checkpoint(folder=folder, shards=(read_shard(folder, WEIGHTS),))
    if not (folder / INDEX).exists():
        raise VerificationError(
            f"asked to read the weights of {str(folder)!r}: there is no {WEIGHTS} and no {INDEX} in it."
        )
    index = read_json(file_inside(folder, INDEX))
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise VerificationError(f"asked to read {folder / INDEX}: it does not say where the tensors are.")
    shards = tuple(read_shard(folder, name) for name in sorted(set(places.values())))
    if len({shard.path for shard in shards}) < len(shards):
        raise VerificationError(f"asked to read {folder / INDEX}: two of its names are one file.")
    _check_places(folder, places, shards)
    more = index.get("metadata")
    return Checkpoint(folder=folder, shards=shards, metadata=more if isinstance(more, dict) else {})


def _check_places(folder: Path, places: Mapping[str, str], shards: Iterable[Shard]) -> None:
    found = {(name, shard.name) for shard in shards for name in shard.entries}
    wrong = sorted(found ^ set(places.items()))
    if wrong:
        name, file = wrong[0]
        has = "holds it and the index does not say so" if wrong[0] in found else "does not hold it"
        raise VerificationError(
            f"asked to read {folder / INDEX}: it and the files disagree in {len(wrong)} places: tensor "
            f"{name!r}: {file} {has}. Fetch the folder again."
        )


def read_shard(folder: Path, name: str) -> Shard:
    """Return the header of one file, checked: every byte behind it belongs to exactly one tensor.

    Raises:
        VerificationError: If it is missing, damaged, no safetensors file, or leads out of the folder.
    """
    if not name.endswith(".safetensors"):
        raise VerificationError(
            f"asked to read weights from {name!r} of {str(folder)!r}: only .safetensors files are read."
        )
    path = file_inside(folder, name)
    with path.open("rb") as stream:
        state = os.fstat(stream.fileno())
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(LARGEST, state.st_size - 8):
            raise _damaged(
                path,
                f"its header would take {length:,} bytes, and the file has {state.st_size:,} "
                f"(headers take at most {LARGEST:,})",
            )
        text = stream.read(length)
    if not text.startswith(b"{"):
        raise _damaged(path, "its header is no JSON object")
    fields = parse_json(text, str(path))
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata are not text by name")
    entries = {key: _entry(path, key, value) for key, value in fields.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_whole(path, ordered, state.st_size - 8 - length)
    return Shard(
        name=name,
        path=path,
        data=8 + length,
        size=state.st_size,
        changed=state.st_mtime_ns,
        entries=ordered,
        metadata=metadata,
    )


def _entry(path: Path, name: str, fields: Any) -> Entry:
    called = f"the tensor {name[:80]!r}"
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{called} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _damaged(path, f"{called} has the unknown dtype {str(dtype)[:80]!r}")
    if not _are_counts(shape, _AXES) or not _are_counts(offsets, 2) or len(offsets) < 2:
        raise _damaged(path, f"{called} has the shape {str(shape)[:80]} at the bytes {str(offsets)[:80]}")
    bits, stored = prod(shape) * _BITS[dtype], offsets[1] - offsets[0]
    if bits != 8 * stored:
        needed = f"{-(-bits // 8):,}"[:80]
        raise _damaged(path, f"{called} of {dtype} {str(shape)[:80]} takes {needed} bytes and has {stored:,}")
    return Entry(dtype, tuple(shape), *offsets)


def _are_counts(values: Any, most: int) -> bool:
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_whole(path: Path, entries: Mapping[str, Entry], size: int) -> None:
    end = 0
    for name, entry in entries.items():
        if entry.start != end:
            how = "overlaps the tensor before it" if entry.start < end else "leaves a gap before it"
            raise _damaged(
                path, f"the tensor {name[:80]!r} at byte {entry.start:,} {how}, which ends at {end:,}"
            )
        end = entry.stop
    if end != size:
        raise _damaged(path, f"its tensors take {end:,} bytes, and {size:,} are there")


def _damaged(path: Path, reason: str) -> VerificationError:
    return VerificationError(
        f"asked to read {path}: it is truncated, damaged or no safetensors file: {reason}. Fetch it again."
    )
