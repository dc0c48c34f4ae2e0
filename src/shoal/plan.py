"""A plan: what to remove from a network, as pure data that is saved as JSON.

A plan holds no tensors. It can be replayed on a fresh copy of the model, on another machine, a
year later; it knows the units of the network that it was made for and refuses another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from shoal.budget import Budget
from shoal.errors import PlanError, UnitError
from shoal.units import Chain, Removal, Segment, Unit

__all__ = ["VERSION", "ModelSummary", "Plan", "Remove"]

VERSION = 1


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


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """What a plan remembers of the network that it was made for.

    Attributes:
        name: Class name of the network.
        params: Its parameters.
        macs: Its multiply-accumulates for the example that the units were found with.
        units: Dotted names of its units in forward order.
        unit_params: Parameters of each unit.
    """

    name: str
    params: int
    macs: int
    units: tuple[str, ...]
    unit_params: tuple[int, ...]

    @classmethod
    def of(cls, chain: Chain) -> ModelSummary:
        """Return the summary of the network whose units are `chain`."""
        return cls(
            name=chain.model,
            params=chain.params,
            macs=chain.macs,
            units=tuple(unit.name for unit in chain),
            unit_params=tuple(unit.params for unit in chain),
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to remove from a network.

    Attributes:
        model: The network that the plan is for.
        steps: The removals, in forward order.
        budget: The budget that was asked for; None where units were chosen by hand.
        method: Name of the method that chose; `by hand` where a person did.
        settings: The method's settings, as JSON values.
        predicted: What the method expects: params, macs, latency, loss…, as JSON values.
        made_by: Program and version.
    """

    model: ModelSummary
    steps: tuple[Remove, ...]
    budget: Budget | None = None
    method: str = "by hand"
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    predicted: Mapping[str, Any] = field(default_factory=dict, hash=False)
    made_by: str = ""

    @classmethod
    def removing(
        cls,
        chain: Chain,
        units: Iterable[int | str],
        *,
        budget: Budget | None = None,
        method: str = "by hand",
        settings: Mapping[str, Any] | None = None,
        predicted: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Return the plan that removes these units, given by index (from 0) or dotted name.

        Removing nothing is a plan too. Parameters and MACs that remain are predicted.

        Raises:
            UnitError: If there is no such unit, or it cannot be removed.
        """
        from shoal import __version__

        chosen = chain.select(units)
        _check_removable(chain, chosen)
        steps = tuple(Remove.of(unit) for unit in chosen)
        counts = {
            "units": len(chain) - len(chosen),
            "params": chain.params - sum(unit.params for unit in chosen),
            "macs": chain.macs - sum(unit.macs for unit in chosen),
        }
        return cls(
            model=ModelSummary.of(chain),
            steps=steps,
            budget=budget,
            method=method,
            settings=dict(settings or {}),
            predicted=counts | dict(predicted or {}),
            made_by=f"shoal {__version__}",
        )

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the removed units in the original chain, ascending."""
        return tuple(step.index for step in self.steps)

    @property
    def runs(self) -> tuple[Segment, ...]:
        """The removed units as maximal contiguous runs."""
        return Segment.runs(self.removed)

    @property
    def index_map(self) -> dict[int, int]:
        """Original index → new index of every unit that stays."""
        gone = set(self.removed)
        kept = [index for index in range(len(self.model.units)) if index not in gone]
        return {old: new for new, old in enumerate(kept)}

    @property
    def surviving_names(self) -> dict[str, str]:
        """Original name → new name of every unit that stays; entries of shortened lists move down."""
        gone: dict[str, list[int]] = {}
        for step in self.steps:
            for path in step.modules if step.removal == "delete" else ():
                container, _, key = path.rpartition(".")
                if key.isdecimal():
                    gone.setdefault(container, []).append(int(key))
        return {name: _moved(name, gone) for name in (self.model.units[index] for index in self.index_map)}

    def check(self, chain: Chain) -> None:
        """Check that this plan was made for the network whose units are `chain`.

        Raises:
            PlanError: If the units differ; says in what.
        """
        mine, theirs = self.model, ModelSummary.of(chain)
        if mine.units != theirs.units:
            raise PlanError(
                f"asked to use a plan for {mine.name} with {len(mine.units)} units "
                f"on {theirs.name} with {len(theirs.units)} units"
                f"{_first_difference(mine.units, theirs.units)}. Make a plan for this model."
            )
        if mine.unit_params != theirs.unit_params:
            raise PlanError(
                f"asked to use a plan for {mine.name} with {mine.params:,} parameters on "
                f"{theirs.name} with {theirs.params:,}: the units have the same names but other "
                "sizes. Make a plan for this model."
            )

    def to_json(self) -> str:
        """Return the plan as versioned JSON text, which `from_json` reads back to an equal plan."""
        fields = {
            "version": VERSION,
            "model": asdict(self.model),
            "steps": [{"op": "remove", **asdict(step)} for step in self.steps],
            "budget": None if self.budget is None else asdict(self.budget),
            "method": self.method,
            "settings": dict(self.settings),
            "predicted": dict(self.predicted),
            "made_by": self.made_by,
            "index_map": {str(old): new for old, new in self.index_map.items()},
        }
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that `to_json` wrote.

        Raises:
            PlanError: If the text is no plan, or a newer version wrote it.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"asked to read a plan: this is not JSON ({error}).") from error
        if not isinstance(fields, dict) or "version" not in fields:
            raise PlanError("asked to read a plan: this JSON holds no plan (it has no version).")
        if fields["version"] != VERSION:
            raise PlanError(
                f"asked to read a plan of version {fields['version']}: this shoal reads version "
                f"{VERSION}. Use the shoal that wrote it ({fields.get('made_by', 'unknown')})."
            )
        try:
            plan = cls(
                model=_summary(fields["model"]),
                steps=tuple(_step(step) for step in fields["steps"]),
                budget=None if fields["budget"] is None else Budget(**fields["budget"]),
                method=str(fields["method"]),
                settings=dict(fields["settings"]),
                predicted=dict(fields["predicted"]),
                made_by=str(fields["made_by"]),
            )
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"asked to read a plan: a part is missing or malformed ({error}).") from error
        _check_steps(plan)
        return plan

    def __str__(self) -> str:
        runs = ", ".join(map(str, self.runs)) or "nothing"
        return f"{self.method}: remove {len(self.steps)} of {len(self.model.units)} units: {runs}"


def _check_removable(chain: Chain, chosen: Sequence[Unit]) -> None:
    """Check that units can be removed; the message says which could be instead."""
    fixed = [unit for unit in chosen if not unit.removable]
    if not fixed:
        return
    taken = {unit.index for unit in chosen if unit.removable}
    for unit in fixed:
        free = [index for index in chain.removable if index not in taken]
        if free:
            taken.add(min(free, key=lambda index: abs(index - unit.index)))
    advice = f"The nearest cut that works removes {sorted(taken)}." if taken else "None of its units can be."
    unit = fixed[0]
    raise UnitError(
        f"asked to remove unit {unit.index} ({unit.name}): it cannot be removed: {unit.why}. {advice}"
    )


def _check_steps(plan: Plan) -> None:
    """Check that the steps of a plan that someone may have edited name its units, in forward order."""
    units = dict(enumerate(plan.model.units))
    for step in plan.steps:
        if units.get(step.index) != step.unit:
            raise PlanError(
                f"asked to read a plan that removes unit {step.index}, {step.unit!r}: of its {len(units)} "
                f"units that one is {units.get(step.index)!r}. Make the plan anew."
            )
        if step.unit.partition(":")[0] not in step.modules:
            raise PlanError(
                f"asked to read a plan that removes unit {step.index}, {step.unit!r}, by the modules "
                f"{list(step.modules)}: they are not its own. Make the plan anew."
            )
    if list(plan.removed) != sorted(set(plan.removed)):
        raise PlanError(
            f"asked to read a plan that removes the units {list(plan.removed)}: each is removed once, "
            "in forward order. Make the plan anew."
        )
    _check_promise(plan)


def _check_promise(plan: Plan) -> None:
    """Check that what a plan says will remain is what its steps leave."""
    sizes, gone = plan.model.unit_params, set(plan.removed)
    left = {"units": len(sizes) - len(gone), "params": plan.model.params - sum(sizes[i] for i in gone)}
    for name, count in left.items():
        if plan.predicted.get(name, count) != count:
            raise PlanError(
                f"asked to read a plan that leaves {plan.predicted[name]:,} {name}: its steps leave "
                f"{count:,}. Make the plan anew."
            )


def _moved(name: str, gone: Mapping[str, list[int]]) -> str:
    """Return a unit's name, `layers.3` or `features.3:6`, after the entries `gone` left their lists."""
    parts = name.split(".")
    moved = []
    for depth, part in enumerate(parts):
        left = gone.get(".".join(parts[:depth]), [])
        ends = part.split(":")
        if left and all(end.isdecimal() for end in ends):
            part = ":".join(str(int(end) - sum(number < int(end) for number in left)) for end in ends)
        moved.append(part)
    return ".".join(moved)


def _first_difference(mine: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    for index, (ours, other) in enumerate(zip(mine, theirs, strict=False)):
        if ours != other:
            return f"; unit {index} is {ours!r} in the plan and {other!r} in the model"
    return ""


def _summary(fields: dict[str, Any]) -> ModelSummary:
    return ModelSummary(
        name=fields["name"],
        params=fields["params"],
        macs=fields["macs"],
        units=tuple(fields["units"]),
        unit_params=tuple(fields["unit_params"]),
    )


def _step(fields: dict[str, Any]) -> Remove:
    if fields["op"] != "remove":
        raise PlanError(f"asked to read a plan with a step {fields['op']!r}: this shoal knows 'remove'.")
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
