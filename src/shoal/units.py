"""The smallest removable pieces of a network, as plain data: no tensors, no modules, no torch.

A `Unit` is one removable piece, a `Chain` all units of a network in forward order, a `Segment`
a contiguous run of units, a `Segmentation` the best cuts of a chain for every number of segments.

Units are numbered from 0; segments are half-open, `[start, stop)`, here and everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, SupportsIndex

from shoal.errors import ConfigError, UnitError

__all__ = ["GRANULARITIES", "Chain", "Granularity", "Segment", "Segmentation", "Unit", "ends_in_zeros"]

Granularity = Literal["block", "sublayer", "layer"]
GRANULARITIES: tuple[Granularity, ...] = ("block", "sublayer", "layer")
Removal = Literal["delete", "bypass", "merge"]
After = Literal["", "next", "container"]


@dataclass(frozen=True, order=True)
class Segment:
    """The contiguous run of units `start, start + 1, …, stop - 1`.

    Example:
        >>> list(Segment(2, 5)), len(Segment(2, 5)), 5 in Segment(2, 5)
        ([2, 3, 4], 3, False)
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"a segment [start, stop) needs 0 <= start <= stop: got {self}.")

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __contains__(self, index: object) -> bool:
        # numpy's integers are no `int`.
        return isinstance(index, SupportsIndex) and self.start <= index.__index__() < self.stop

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"

    @staticmethod
    def runs(indices: Iterable[int]) -> tuple[Segment, ...]:
        """Return the maximal runs of consecutive numbers in `indices`, in order.

        Example:
            >>> [str(run) for run in Segment.runs([7, 2, 3])]
            ['[2, 4)', '[7, 8)']
        """
        runs: list[Segment] = []
        for index in sorted(set(indices)):
            if runs and runs[-1].stop == index:
                runs[-1] = Segment(runs[-1].start, index + 1)
            else:
                runs.append(Segment(index, index + 1))
        return tuple(runs)


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The best division of L units into k contiguous segments, for every k = 1 … K.

    Attributes:
        losses: `losses[k - 1]` is the within-segment scatter of the best division into k segments;
            never increases with k.
        starts: `starts[k - 1]` holds the k first units of those segments; always begins with 0.
        length: L, the number of units.
    """

    losses: tuple[float, ...]
    starts: tuple[tuple[int, ...], ...]
    length: int

    def segments(self, k: int) -> tuple[Segment, ...]:
        """Return the k segments of the best division into k.

        Raises:
            ConfigError: If k is not in 1 … K.
        """
        if not 1 <= k <= len(self.starts):
            raise ConfigError(
                f"asked for {k} segments of {self.length} units: "
                f"divisions into 1 to {len(self.starts)} segments were computed."
            )
        starts = self.starts[k - 1]
        return tuple(map(Segment, starts, (*starts[1:], self.length)))


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One removable piece of a network: a residual block, a decoder layer, attention or MLP alone, a
    convolution with its normalisation and activation.

    Attributes:
        name: Dotted path of its module; a run of list entries is written `features.3:6`, and a sublayer
            bears the name of its largest module.
        index: Position in the chain, from 0.
        modules: Dotted paths of the modules it consists of, in forward order.
        container: Dotted path of the module that holds them, for a sublayer its block; empty for the
            network itself.
        group: The stage: units of one group, or their blocks, stand in one container and share the
            shape of their hidden state.
        kind: Class name of the module, or those of a run joined with `+`.
        params: Parameters (numbers, not bytes).
        macs: Multiply-accumulates for the example that the units were found with.
        removable: Whether shoal can take it out.
        why: Why not, in words; empty where it can.
        removal: `delete`: the entry leaves its list. `bypass`: a pass-through takes its place
            (units held as attributes, and lists whose entries the network reaches by number). `merge`: it
            is a layer, and goes as a segment of its own that becomes the identity.
        in_shape, out_shape: Shape of the hidden state that goes in and comes out.
        outputs: What it returns, as `architectures.hidden` describes: where each returned value
            comes from when the unit is bypassed.
        after: Of a branch, where the hidden state with its output added is met: it is what goes into
            the `next` unit, or what the `container` returns. Empty where it is met nowhere, and for
            units that return it themselves.
    """

    name: str
    index: int
    modules: tuple[str, ...]
    container: str
    group: str
    kind: str
    params: int
    macs: int
    removable: bool
    why: str = ""
    removal: Removal = "delete"
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    outputs: Any = field(default="hidden", hash=False)
    after: After = ""

    @property
    def is_branch(self) -> bool:
        """Whether its output is added to the hidden state outside of it: zeros stand in for it."""
        return ends_in_zeros(self.outputs)


def ends_in_zeros(outputs: Any) -> bool:
    """Return whether zeros stand in for what a unit returned, by its `outputs`.

    Example:
        >>> ends_in_zeros({"each": ["hidden", {"tuple": ["zeros", {"value": None}]}]})
        True
        >>> ends_in_zeros({"tuple": ["hidden", {"value": "zeros"}]})
        False
    """
    if isinstance(outputs, dict):
        parts = [part for form, part in outputs.items() if form in ("each", "tuple", "list", "dict")]
        inner = [list(part.values()) if isinstance(part, dict) else part for part in parts]
        return any(ends_in_zeros(entry) for entries in inner for entry in entries)
    return bool(outputs == "zeros")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """All units of a network in forward order.

    Attributes:
        units: The units, `units[i].index == i`.
        model: Class name of the network.
        params: Parameters of the whole network.
        macs: Multiply-accumulates of the whole network for the example.
        uncounted: Operations whose multiply-accumulates could not be counted, with how often each
            was met.
        left_out: Dotted path of a module → why it takes no part, for layers that may be merged.
        inputs: What the layers were found with, as `shoal.calling.describe_inputs` writes it; None for
            other units.
    """

    units: tuple[Unit, ...]
    model: str
    params: int
    macs: int
    uncounted: dict[str, int] = field(default_factory=dict, hash=False)
    left_out: dict[str, str] = field(default_factory=dict, hash=False)
    inputs: Any = field(default=None, hash=False, compare=False)

    def __len__(self) -> int:
        return len(self.units)

    def __iter__(self) -> Iterator[Unit]:
        return iter(self.units)

    def __getitem__(self, key: int | str) -> Unit:
        """Return the unit of this index (from 0) or dotted name.

        Raises:
            UnitError: If there is none; the nearest name is given.
        """
        if not self.units:
            raise UnitError(f"asked for the unit {key!r}: {self.model} has no units.")
        if isinstance(key, str):
            found = next((unit for unit in self.units if unit.name == key), None)
            if found is None:
                near = get_close_matches(key, [unit.name for unit in self.units], n=1, cutoff=0.0)
                raise UnitError(
                    f"asked for the unit {key!r}: {self.model} has {len(self)} units and none of "
                    f"that name. The nearest is {near[0]!r}."
                )
            return found
        if not -len(self) <= key < len(self):
            raise UnitError(
                f"asked for unit {key}: {self.model} has {len(self)} units, numbered 0 to {len(self) - 1}."
            )
        return self.units[key]

    @property
    def removable(self) -> tuple[int, ...]:
        """Indices of the units that can be removed."""
        return tuple(unit.index for unit in self.units if unit.removable)

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """The indices of the units of every group, in forward order."""
        groups: dict[str, tuple[int, ...]] = {}
        for unit in self.units:
            groups[unit.group] = (*groups.get(unit.group, ()), unit.index)
        return groups

    def select(self, keys: Iterable[int | str]) -> tuple[Unit, ...]:
        """Return the units of these indices or names, in forward order, each once.

        Raises:
            UnitError: If there is no such unit.
        """
        chosen = {self[key].index for key in keys}
        return tuple(self.units[index] for index in sorted(chosen))
