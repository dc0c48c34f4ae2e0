"""Rules by which fields of a config follow when layers go; pure data. `fields` says which field has which.

Shapes: L = layers before, `kept` = original numbers of those that stay, ascending.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "Cycle",
    "First",
    "Gone",
    "Indices",
    "Inexpressible",
    "Interval",
    "Last",
    "Overrides",
    "PerRoot",
    "Periodic",
    "Repeats",
    "Rule",
    "Slice",
    "Sources",
    "Sparse",
    "Stages",
]

Get = Callable[[str], Any]
Kept = Sequence[int]


class Inexpressible(ValueError):
    """These fields cannot describe the layers that would stay; says why."""


class Rule(Protocol):
    """How fields follow when layers go."""

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return new values by field.

        Args:
            get: Value of a field by its name; None where there is none.
            length: L.
            kept: Numbers of the layers that stay.

        Raises:
            Inexpressible: If no values describe what stays.
        """
        ...


@dataclass(frozen=True)
class Slice:
    """One entry a layer, in a list, a tuple or a string."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return the entries of the layers that stay."""
        value = get(self.name)
        if not isinstance(value, (list, tuple, str)) or (isinstance(value, str) and len(value) != length):
            return {}
        if len(value) < length:
            raise Inexpressible(f"its {self.name} has {len(value)} entries for {length} layers")
        entries = [value[index] for index in kept]
        return {self.name: "".join(entries) if isinstance(value, str) else type(value)(entries)}


@dataclass(frozen=True)
class Cycle:
    """A short list of kinds, repeated until every layer has one."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return a list that names the kind of every layer that stays."""
        value = get(self.name)
        if not isinstance(value, (list, tuple)) or not value:
            return {}
        return {self.name: type(value)(value[index % len(value)] for index in kept)}


@dataclass(frozen=True)
class Repeats:
    """Pairs of kinds and how often they are repeated: `[[["global", "local"], 12]]`."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return one pair that names the kind of every layer that stays."""
        value = get(self.name)
        if not isinstance(value, (list, tuple)):
            return {}
        kinds = [kind for names, times in value for _ in range(times) for kind in names]
        if len(kinds) < length:
            raise Inexpressible(f"its {self.name} names the kinds of {len(kinds)} of {length} layers")
        return {self.name: [[[kinds[index] for index in kept], 1]]}


@dataclass(frozen=True)
class Indices:
    """Numbers of the layers of a kind.

    Attributes:
        name: The field.
        needed: Whether these layers hand out results, so that none may go.
    """

    name: str
    needed: bool = False

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return the new numbers of those that stay."""
        value = get(self.name)
        if not isinstance(value, (list, tuple)) or not all(type(index) is int for index in value):
            return {}
        numbers = [index % length if -length <= index < 0 else index for index in value]
        gone = [index for index in numbers if index < length and index not in kept]
        if self.needed and gone:
            raise Inexpressible(f"the results of layers {gone} are handed out ({self.name}={list(value)})")
        places = {old: new for new, old in enumerate(kept)}
        return {self.name: type(value)(places[index] for index in numbers if index in places)}


@dataclass(frozen=True)
class First:
    """How many of the first layers are of a kind."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return how many of them stay."""
        value = get(self.name)
        return {self.name: sum(index < value for index in kept)} if type(value) is int else {}


@dataclass(frozen=True)
class Last:
    """How many of the last layers are of a kind."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return how many of them stay."""
        value = get(self.name)
        return {self.name: sum(index >= length - value for index in kept)} if type(value) is int else {}


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


@dataclass(frozen=True)
class PerRoot:
    """A factor that every layer divides by the root of the number of layers."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return the factor of which the quotient stays the same, but for the last bit."""
        value = get(self.name)
        if type(value) not in (int, float):
            return {}
        return {self.name: value / math.sqrt(length) * math.sqrt(len(kept))}


@dataclass(frozen=True)
class Overrides:
    """What single layers have otherwise than the config says for all."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return it by the new numbers of the layers that stay."""
        found = getattr(get(self.name), "per_layer_overrides", None)
        if found is None:
            return {}
        overrides = {new: dict(found[old]) for new, old in enumerate(kept) if old in found}
        return {"per_layer_config": overrides}


@dataclass(frozen=True)
class Sources:
    """For every layer the number of the layer whose keys and values it uses."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return the new numbers of the sources."""
        value = get(self.name)
        if not isinstance(value, (list, tuple)):
            return {}
        gone = sorted({value[index] for index in kept} - set(kept))
        if gone:
            raise Inexpressible(f"layers that stay use what layers {gone} keep ({self.name})")
        return {self.name: type(value)(kept.index(value[index]) for index in kept)}


@dataclass(frozen=True)
class Stages:
    """One stage a layer, named `stem, stage1, …`, of which some are handed out (vision backbones)."""

    name: str = "stage_names"

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return the names of the stages that stay; what is handed out after a removed layer is what
        the layer before it puts out.
        """
        value = get(self.name)
        if not isinstance(value, (list, tuple)) or len(value) != length + 1:
            return {}
        handed = get("_out_indices") or get("out_indices") or [length]
        places = [self._place(index % (length + 1), kept) for index in handed]
        handed = sorted(set(places))
        if len(handed) < len(places):
            raise Inexpressible("two stages that are handed out would become one")
        names = ["stem", *(f"stage{number}" for number in range(1, len(kept) + 1))]
        return {
            self.name: names,
            "_out_features": [names[index] for index in handed],
            "_out_indices": handed,
        }

    @staticmethod
    def _place(index: int, kept: Kept) -> int:
        return sum(old < index for old in kept)


@dataclass(frozen=True)
class Gone:
    """Heads that predict further tokens from layers of their own: they do not outlive a cut."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return none of them, where there were some."""
        value = get(self.name)
        return {self.name: 0} if type(value) is int and value else {}
