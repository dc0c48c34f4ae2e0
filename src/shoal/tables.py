"""What was measured of a chain, as plain data: importance of runs, latency of units.

Importance: higher = keep; the importance of a run of units is what its removal costs, in units of
the loss. Latency in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shoal.units import Segment

__all__ = ["ImportanceTable", "LatencyTable"]


@dataclass(frozen=True, kw_only=True)
class ImportanceTable:
    """What the removal of each run of units costs when exactly that run is removed.

    Runs that are not in the table cannot be removed as one run.

    Attributes:
        entries: Importance of every run.
        source: In words, where the numbers come from.
    """

    entries: Mapping[Segment, float] = field(hash=False)
    source: str = ""

    def __getitem__(self, run: Segment) -> float:
        return self.entries[run]

    def __contains__(self, run: object) -> bool:
        return run in self.entries

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def longest(self) -> int:
        """The length of the longest run in the table."""
        return max(map(len, self.entries), default=0)

    @classmethod
    def additive(
        cls,
        scores: Sequence[float],
        removable: Iterable[int],
        *,
        longest: int | None = None,
        source: str = "",
    ) -> ImportanceTable:
        """Return a table in which a run costs the sum of its units' scores.

        Args:
            scores: Importance of every unit, `(L,)`.
            removable: The units that may be removed; runs of others are left out.
            longest: The longest run listed; all where it is None.
            source: In words, where the scores come from.
        """
        allowed = set(removable)
        entries: dict[Segment, float] = {}
        for start in sorted(allowed):
            total, stop = 0.0, start
            while stop in allowed and (longest is None or stop - start < longest):
                total += scores[stop]
                stop += 1
                entries[Segment(start, stop)] = total
        return cls(entries=entries, source=source)

    def extended(self, removable: Iterable[int]) -> ImportanceTable:
        """Return a table that also holds the longer runs of removable units, estimated.

        A longer run [a, j) costs what [a, j - 1) costs and what the last unit adds to the longest
        measured run that ends before it.
        """
        allowed, longest = set(removable), max(1, self.longest)
        entries = dict(self.entries)
        for start in sorted(allowed):
            for stop in range(start + 2, start + len(allowed) + 1):
                if stop - 1 not in allowed:
                    break
                run, near = Segment(start, stop), max(start + 1, stop - longest)
                pieces = (Segment(start, stop - 1), Segment(near, stop), Segment(near, stop - 1))
                if run not in entries and all(piece in entries or not len(piece) for piece in pieces):
                    before, last, shared = (entries.get(piece, 0.0) for piece in pieces)
                    entries[run] = before + last - shared
        return ImportanceTable(entries=entries, source=self.source)


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """The measured latency of a network and of each of its units.

    Attributes:
        units: Median seconds of every unit, `(L,)`.
        whole: Median seconds of the whole network.
        device: Device and number of threads, in words.
    """

    units: tuple[float, ...]
    whole: float
    device: str = ""
