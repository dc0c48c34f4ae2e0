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
    "Last",
    "Overrides",
    "PerRoot",
    "Repeats",
    "Rule",
    "Slice",
    "Sources",
    "Stages",
    "States",
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
        # Where hidden states are numbered, the last one has the number of layers.
        places = {old: new for new, old in enumerate(kept)} | {length: len(kept)}
        gone = [index for index in numbers if index not in places]
        if self.needed and gone:
            raise Inexpressible(f"the results of layers {gone} are handed out ({self.name}={list(value)})")
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
class States:
    """Which hidden states of a stack are used, by their numbers: 0 goes into the first layer, -1 comes out
    of the last.
    """

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return the numbers of what stands in those places; behind a removed layer that is what stands
        before it.
        """
        value = get(self.name)
        if type(value) is int:
            return {self.name: self._place(value, length, kept)}
        if not isinstance(value, (list, tuple)) or not all(type(index) is int for index in value):
            return {}
        return {self.name: type(value)(self._place(index, length, kept) for index in value)}

    @staticmethod
    def _place(index: int, length: int, kept: Kept) -> int:
        place = sum(old < index % (length + 1) for old in kept)
        return place - len(kept) - 1 if index < 0 else place


@dataclass(frozen=True)
class Gone:
    """Heads that predict further tokens from layers of their own: they do not outlive a cut."""

    name: str

    def cut(self, get: Get, length: int, kept: Kept) -> dict[str, Any]:
        """Return none of them, where there were some."""
        value = get(self.name)
        return {self.name: 0} if type(value) is int and value else {}
