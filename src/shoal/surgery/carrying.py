"""Bytes of tensors that stay, moved from shard to shard without being read as numbers.

New files are hashed as they are written.

Shapes: a tensor that holds a part for each of L layers along one axis is seen as `(outer, L, inner)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shoal.architectures.shards import Entry, Shard
from shoal.journal import Journal
from shoal.surgery.hashing import CHUNK, Workers, changed, check_unchanged, cores, hash_file

__all__ = ["Load", "Part", "Piece", "carry", "header_of"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The parts of one axis that stay, where it holds a part for every layer.

    Attributes:
        axis: Which axis.
        length: How many parts lie along it.
        kept: Numbers of those that stay, ascending.
    """

    axis: int
    length: int
    kept: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A tensor that stays.

    Attributes:
        key: Its new name.
        entry: What it was.
        part: Which part of it stays; None for all.
    """

    key: str
    entry: Entry
    part: Part | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its new shape."""
        if self.part is None:
            return self.entry.shape
        shape = list(self.entry.shape)
        shape[self.part.axis] = shape[self.part.axis] // self.part.length * len(self.part.kept)
        return tuple(shape)

    @property
    def size(self) -> int:
        """Its new bytes."""
        if self.part is None:
            return self.entry.size
        return self.entry.size // self.part.length * len(self.part.kept)


@dataclass(frozen=True, kw_only=True)
class Load:
    """A file to write.

    Attributes:
        name: Its name.
        source: Where its tensors come from.
        pieces: They, in the order of their bytes.
    """

    name: str
    source: Shard
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(piece.size for piece in self.pieces)


def header_of(load: Load) -> bytes:
    """Return length and header of a file, padded so that its tensors begin at a multiple of 8 bytes."""
    fields: dict[str, object] = {"__metadata__": {"format": "pt", **load.source.metadata}}
    end = 0
    for piece in load.pieces:
        offsets = [end, end + piece.size]
        fields[piece.key] = {"dtype": piece.entry.dtype, "shape": list(piece.shape), "data_offsets": offsets}
        end += piece.size
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def carry(
    loads: Sequence[Load], folder: Path, journal: Journal, *, chunk: int = CHUNK, threads: int | None = None
) -> dict[str, str]:
    """Write files, and return their SHA-256 by name.

    Args:
        loads: What to write.
        folder: Where to.
        journal: What is done is noted there; files that it knows stay if they are what would be written.
        chunk: Bytes that are moved at once.
        threads: How many files are written at once; as many as there are cores, at most 4, where it is
            None.

    Raises:
        VerificationError: If a source is shorter than its header said, or has changed since.
    """

    def write(load: Load) -> str:
        path = folder / load.name
        if load.name in journal and path.is_file():
            left = hash_file(path, chunk, workers)
            # Whoever could change the file could change the journal: the source has the last word.
            if left == journal[load.name] == _foreseen(load, chunk, workers):
                check_unchanged(load.source)
                return left
        found = _write(load, path, chunk, workers)
        check_unchanged(load.source)
        journal[load.name] = found
        return found

    with Workers(threads or min(4, cores())) as workers:
        futures = [workers.start(write, load) for load in loads]
        hashes = workers.wait(futures, "moving weights", sum(load.size for load in loads))
    return {load.name: found for load, found in zip(loads, hashes, strict=True)}


def _foreseen(load: Load, chunk: int, workers: Workers) -> str:
    """The SHA-256 that a file would have."""
    digest = hashlib.sha256()
    with load.source.path.open("rb", buffering=0) as source:
        for data in _contents(load, source, chunk):
            digest.update(data)
            # Its bytes have been counted where the file was read.
            workers.step(0)
    return digest.hexdigest()


def _write(load: Load, path: Path, chunk: int, workers: Workers) -> str:
    digest = hashlib.sha256()
    # A link would be followed.
    path.unlink(missing_ok=True)
    with load.source.path.open("rb", buffering=0) as source, path.open("wb", buffering=0) as target:
        for data in _contents(load, source, chunk):
            digest.update(data)
            _write_all(target, data)
            workers.step(len(data))
    return digest.hexdigest()


def _write_all(target: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]


def _contents(load: Load, source: BinaryIO, chunk: int) -> Iterator[bytes | memoryview]:
    """The bytes of a file; what is yielded is good until the next one."""
    yield header_of(load)
    buffer = memoryview(bytearray(chunk))
    for run in _runs(load.pieces):
        source.seek(load.source.data + run.entry.start)
        if run.part is None:
            yield from _read(source, run.entry.size, buffer, load.source)
        else:
            yield from _read_part(source, run, run.part, chunk, load.source)


def _runs(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces, with those that follow each other without a gap as one."""
    run: Piece | None = None
    for piece in pieces:
        if run and run.part is None and piece.part is None and run.entry.stop == piece.entry.start:
            run = replace(run, entry=replace(run.entry, stop=piece.entry.stop))
            continue
        if run:
            yield run
        run = piece
    if run:
        yield run


def _read(source: BinaryIO, size: int, buffer: memoryview, shard: Shard) -> Iterator[memoryview]:
    while size:
        count = source.readinto(buffer[: min(size, len(buffer))])  # type: ignore[attr-defined]
        if not count:
            raise changed(shard)
        yield buffer[:count]
        size -= count


def _read_part(source: BinaryIO, piece: Piece, part: Part, chunk: int, shard: Shard) -> Iterator[bytes]:
    outer = prod(piece.entry.shape[: part.axis])
    row = piece.entry.size // max(outer, 1)
    if not row:
        return
    at_once = max(1, chunk // row)
    kept = np.array(part.kept, dtype=np.intp)
    for first in range(0, outer, at_once):
        rows = min(at_once, outer - first)
        buffer = memoryview(bytearray(rows * row))
        whole = b"".join(map(bytes, _read(source, rows * row, buffer, shard)))
        yield np.frombuffer(whole, dtype=np.uint8).reshape(rows, part.length, -1)[:, kept].tobytes()
