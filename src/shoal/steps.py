"""What a plan does, step by step: a unit is removed, or a segment of convolutions becomes one. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from shoal.errors import PlanError, UnitError
from shoal.units import Removal, Segment, Unit

__all__ = ["Merge", "Remove", "Step", "step_from"]

# What a merge's JSON has to hold.
_MERGE_KINDS: dict[str, type] = {"start": int, "stop": int, "fused": bool, "added": str}
_TOLD = {int: "a whole number", bool: "true or false", str: "text"}


@dataclass(frozen=True, kw_only=True)
class Remove:
    """The step that takes one unit out.

    Attributes:
        unit: Dotted name of the unit in the original network.
        index: Its index in the original chain, from 0.
        modules: Dotted paths of its modules in the original network.
        removal: `delete` or `bypass`; see `shoal.units.Unit.removal`.
        outputs: What stands in for its output when it is bypassed.
    """

    unit: str
    index: int
    modules: tuple[str, ...]
    removal: Removal = "delete"
    outputs: Any = field(default="hidden", hash=False)

    op = "remove"

    @classmethod
    def of(cls, unit: Unit) -> Remove:
        """Return the step that removes `unit`.

        Raises:
            UnitError: If the unit cannot be removed.
        """
        if not unit.removable:
            raise UnitError(
                f"asked to remove unit {unit.index} ({unit.name}): it cannot be removed: {unit.why}."
            )
        return cls(
            unit=unit.name,
            index=unit.index,
            modules=unit.modules,
            removal=unit.removal,
            outputs=unit.outputs,
        )

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the units that go."""
        return (self.index,)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """The step that rewrites a segment of convolutions: activations inside go, and layers that are not kept.

    Attributes:
        start, stop: The segment `[start, stop)` of layers in the original network.
        kept: The layers of it that stay; none where it becomes the identity.
        layers: Dotted names of the segment's layers.
        fused: Whether what stays becomes one convolution; otherwise it runs one after the other.
        added: The activation that is put behind it where none was; empty for none.
    """

    start: int
    stop: int
    kept: tuple[int, ...]
    layers: tuple[str, ...]
    fused: bool = True
    added: str = ""

    op = "merge"

    @classmethod
    def without(cls, unit: Unit) -> Merge:
        """Return the step that leaves one layer out."""
        return cls(start=unit.index, stop=unit.index + 1, kept=(), layers=(unit.name,))

    @property
    def segment(self) -> Segment:
        """The layers."""
        return Segment(self.start, self.stop)

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the layers that go."""
        return tuple(index for index in self.segment if index not in self.kept)


Step = Remove | Merge


def step_from(fields: Mapping[str, Any]) -> Step:
    """Return the step that a plan's JSON writes.

    Raises:
        PlanError: If there is no such step.
    """
    op = fields["op"]
    if op == "merge":
        for name, kind in _MERGE_KINDS.items():
            _check_kind(name, fields[name], kind)
        return Merge(
            start=fields["start"],
            stop=fields["stop"],
            kept=tuple(fields["kept"]),
            layers=tuple(fields["layers"]),
            fused=fields["fused"],
            added=fields["added"],
        )
    if op != "remove":
        raise PlanError(f"asked to read a plan with a step {op!r}: this shoal knows 'remove' and 'merge'.")
    if fields["removal"] not in ("delete", "bypass"):
        raise PlanError(
            f"asked to read a plan that removes {fields['unit']!r} by {fields['removal']!r}: "
            "this shoal knows 'delete' and 'bypass'."
        )
    return Remove(
        unit=fields["unit"],
        index=fields["index"],
        modules=tuple(fields["modules"]),
        removal=cast(Removal, fields["removal"]),
        outputs=fields["outputs"],
    )


def _check_kind(name: str, value: Any, kind: type) -> None:
    # True is an integer to Python.
    if type(value) is not kind:
        raise PlanError(
            f"asked to read a plan that merges layers with {name}={value!r}: {_TOLD[kind]} works. Make the "
            "plan anew."
        )
