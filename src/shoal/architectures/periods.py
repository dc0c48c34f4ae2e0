"""Rules of fields that say at which places a kind of layer comes, by counting; pure data.

Shapes: L = layers before, `kept` = original numbers of those that stay, ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.architectures.rules import Get, Indices, Inexpressible, Kept

__all__ = ["Interval", "Periodic", "Sparse"]


@dataclass(frozen=True)
class Periodic:
    """Every so-many-th layer is of a kind: number i where `i % period == offset`.

    Attributes:
        period: Field of the period.
        offset: Field of the offset, where there is one.
        fixed: The offset where there is none; -1 for the last of every period.
    """

    period: str
    offset: str = ""
    fixed: int = -1

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return a period and an offset by which the layers that stay come in their order."""
        period = get(self.period)
        offset = get(self.offset) if self.offset else self.fixed
        if type(period) is not int or period < 1 or type(offset) is not int:
            return {}
        kinds = [index % period == offset % period for index in kept]
        tried = [(period, offset), *((p, o) for p in range(1, len(kept) + 2) for o in self._offsets(p))]
        for found, at in tried:
            if [place % found == at % found for place in range(len(kept))] == kinds:
                return {self.period: found} | ({self.offset: at} if self.offset else {})
        raise Inexpressible(
            f"a kind of layer stands at every {period}th place ({self.period}={period}"
            + (f", {self.offset}={offset}" if self.offset else "")
            + "), and would not come at equal distances any more"
        )

    def _offsets(self, period: int) -> Sequence[int]:
        return range(period) if self.offset else (self.fixed,)


@dataclass(frozen=True)
class Sparse:
    """Every so-many-th layer has experts, but for a list of layers that have none.

    Attributes:
        step: Field of the step: layer i has experts where `(i + 1) % step == 0`.
        dense: Field of the numbers of layers without experts.
    """

    step: str
    dense: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return the step where it still fits, else 1 and the list of all layers without experts."""
        step, dense = get(self.step), get(self.dense)
        if type(step) is not int or step < 1:
            return {}
        if dense is None:
            return Periodic(self.step).cut(get, length, kept)
        named = Indices(self.dense).cut(get, length, kept)
        if all((old + 1) % step == (new + 1) % step for new, old in enumerate(kept)):
            return named
        without = [new for new, old in enumerate(kept) if old in dense or (old + 1) % step]
        return {self.step: 1, self.dense: type(dense)(without)}


@dataclass(frozen=True)
class Interval:
    """Every so-many-th layer between two is of a kind: where `(i + 1) % interval == 0`.

    Attributes:
        interval: Field of the interval.
        first, last: Fields of the first and the last layer that may be of the kind.
    """

    interval: str
    first: str
    last: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return an interval and ends by which the layers that stay come in their order."""
        every, first, last = (get(name) for name in (self.interval, self.first, self.last))
        if not all(type(value) is int for value in (every, first, last)) or every < 1:
            return {}
        last = last % length if last < 0 else last
        kinds = [first <= index <= last and (index + 1) % every == 0 for index in kept]
        places = [place for place, kind in enumerate(kinds) if kind]
        ends = (places[0], places[-1]) if places else (len(kept), len(kept) - 1)
        for found in (every, *range(1, len(kept) + 1)):
            if [ends[0] <= at <= ends[1] and (at + 1) % found == 0 for at in range(len(kept))] == kinds:
                return {self.interval: found, self.first: ends[0], self.last: ends[1]}
        raise Inexpressible(
            f"a kind of layer stands at every {every}th place ({self.interval}={every}), and would not come "
            "at equal distances any more"
        )
