"""Threads that go over files: what they have done so far, and SHA-256 of files while other work goes on.

Hashing, reading and writing leave Python's lock, so that they take place beside each other and beside
imports.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from shoal.architectures.shards import Shard
from shoal.errors import VerificationError
from shoal.progress import task

__all__ = ["CHUNK", "SourceHashes", "Workers", "changed", "check_unchanged", "cores", "hash_file"]

# Small enough to stay in a core's cache between reading, hashing and writing.
CHUNK = 1 << 20
# Between two chunks a thread waits for its turn, which imports give up rarely.
_SOURCE_CHUNK = 1 << 24
_MEGABYTE = 1 << 20
Found = TypeVar("Found")


def cores() -> int:
    """Return how many cores this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


class _Stopped(Exception):
    """Other work has failed, and this is of no use any more."""


class Workers:
    """Threads that count the bytes they have gone over, and end at their next step when they are to.

    Args:
        threads: How many.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._lock, self._bytes, self._told = threading.Lock(), 0, 0
        self._stop = threading.Event()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def start(self, function: Any, *arguments: Any) -> Future[Any]:
        """Let a thread call a function, and return what will be its result."""
        return self._pool.submit(function, *arguments)

    def step(self, size: int) -> None:
        """Count bytes; called by the threads."""
        if self._stop.is_set():
            raise _Stopped
        with self._lock:
            self._bytes += size

    def wait(self, futures: Sequence[Future[Found]], title: str, total: int) -> list[Found]:
        """Return the results when all are there, and report the bytes on the way.

        Args:
            futures: What `start` returned.
            title: What is being done.
            total: Bytes that will be gone over.
        """
        pending = set(futures)
        with task(f"{title} (MB)", total // _MEGABYTE) as advance:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                with self._lock:
                    news = self._bytes // _MEGABYTE - self._told
                    self._told += news
                advance(news)
        return [future.result() for future in futures]


def hash_file(path: Path, chunk: int, workers: Workers) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(chunk))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            workers.step(count)
    return digest.hexdigest()


class SourceHashes:
    """A `with` in which the SHA-256 of a checkpoint's files are taken in threads.

    It begins at once: what else there is to do before weights can be moved hides the time.

    Args:
        shards: The files.
        chunk: Bytes that are read at once.
        threads: How many files are read at once; half of the cores, at most 4, where it is None.
    """

    def __init__(
        self, shards: Sequence[Shard], *, chunk: int = _SOURCE_CHUNK, threads: int | None = None
    ) -> None:
        self._shards = shards
        self._workers = Workers(threads or max(1, min(4, cores() // 2)))
        self._chunk = chunk

    def __enter__(self) -> SourceHashes:
        self._futures = [self._workers.start(self._hash, shard) for shard in self._shards]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.__exit__(kind, error, trace)

    def _hash(self, shard: Shard) -> str:
        found = hash_file(shard.path, self._chunk, self._workers)
        check_unchanged(shard)
        return found

    def result(self) -> dict[str, str]:
        """Return the hashes by the names of the files, when all are there.

        Raises:
            VerificationError: If a file has changed since its header was read.
        """
        total = sum(shard.size for shard in self._shards)
        found = self._workers.wait(self._futures, "hashing the source", total)
        return {shard.name: each for shard, each in zip(self._shards, found, strict=True)}


def check_unchanged(shard: Shard) -> None:
    """Check that a file is still the one whose header was read.

    Raises:
        VerificationError: If it has changed.
    """
    state = shard.path.stat()
    if (state.st_size, state.st_mtime_ns) != (shard.size, shard.changed):
        raise changed(shard)


def changed(shard: Shard) -> VerificationError:
    """Return the error that a file has changed."""
    return VerificationError(
        f"asked to cut the checkpoint file {shard.path}: it changed while it was read. Try again when it is "
        "written."
    )
