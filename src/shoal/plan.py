"""A plan: what to remove from a network or to merge in it, as pure data that is saved as JSON.

A plan holds no tensors. It can be replayed on a fresh copy of the model, on another machine, a
year later; it knows the units of the network that it was made for and refuses another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shoal.budget import Budget
from shoal.errors import PlanError, UnitError
from shoal.steps import Merge, Remove, Step, step_from
from shoal.units import Chain, Segment, Unit

__all__ = ["VERSION", "Merge", "ModelSummary", "Plan", "Remove", "Step"]

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """What a plan remembers of the network that it was made for.

    Attributes:
        name: Class name of the network.
        params: Its parameters.
        macs: Its multiply-accumulates for the example that the units were found with.
        units: Dotted names of its units in forward order.
        unit_params: Parameters of each unit.
        inputs: Shapes and dtypes of the example, as `shoal.calling.describe_inputs` writes them; None
            where the plan can be applied without running the network.
    """

    name: str
    params: int
    macs: int
    units: tuple[str, ...]
    unit_params: tuple[int, ...]
    inputs: Any = field(default=None, hash=False, compare=False)

    @classmethod
    def of(cls, chain: Chain) -> ModelSummary:
        """Return the summary of the network whose units are `chain`."""
        return cls(
            name=chain.model,
            params=chain.params,
            macs=chain.macs,
            units=tuple(unit.name for unit in chain),
            unit_params=tuple(unit.params for unit in chain),
            inputs=chain.inputs,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to remove from a network, or to merge in it.

    Attributes:
        model: The network that the plan is for.
        steps: The removals, or the segments of layers that are rewritten, in forward order.
        budget: The budget that was asked for; None where units were chosen by hand.
        method: Name of the method that chose; `by hand` where a person did.
        settings: The method's settings, as JSON values.
        predicted: What the method expects: params, macs, latency, loss…, as JSON values.
        made_by: Program and version.
    """

    model: ModelSummary
    steps: tuple[Step, ...]
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
        if any(unit.removal == "merge" for unit in chosen):
            return cls.merging(
                chain,
                [Merge.without(unit) for unit in chosen],
                budget=budget,
                method=method,
                settings=settings,
                predicted=predicted,
            )
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

    @classmethod
    def merging(
        cls,
        chain: Chain,
        steps: Iterable[Merge],
        *,
        budget: Budget | None = None,
        method: str = "by hand",
        settings: Mapping[str, Any] | None = None,
        predicted: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Return the plan that rewrites segments of a network's layers.

        Args:
            chain: The layers, `find_units(…, granularity="layer")`.
            steps: The segments; they do not overlap.
            budget, method, settings, predicted: As the attributes.

        Raises:
            PlanError: If the segments overlap, or are not of this chain.
            UnitError: If a layer goes that has to stay.
        """
        from shoal import __version__

        ordered = tuple(sorted(steps, key=lambda step: step.start))
        for step in ordered:
            whole = not step.kept and chain[step.start].in_shape == chain[step.stop - 1].out_shape
            if not (whole and len(step.segment) > 1):
                _check_removable(chain, [chain[index] for index in step.removed])
        plan = cls(
            model=ModelSummary.of(chain),
            steps=ordered,
            budget=budget,
            method=method,
            settings=dict(settings or {}),
            predicted={"units": _left(len(chain), ordered)} | dict(predicted or {}),
            made_by=f"shoal {__version__}",
        )
        _check_steps(plan)
        return plan

    @property
    def merges(self) -> tuple[Merge, ...]:
        """The segments of layers that are rewritten."""
        return tuple(step for step in self.steps if isinstance(step, Merge))

    @property
    def removals(self) -> tuple[Remove, ...]:
        """The units that are removed as units."""
        return tuple(step for step in self.steps if isinstance(step, Remove))

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices in the original chain, ascending, of the units that go; not of those that are merged."""
        return tuple(index for step in self.steps for index in step.removed)

    def check_removes(self, asked: str) -> None:
        """Check that this plan removes units, and merges nothing.

        Args:
            asked: What was asked, for the message.

        Raises:
            PlanError: If it merges layers.
        """
        if self.merges:
            raise PlanError(
                f"asked to {asked} by a plan that merges {len(self.merges)} segments of layers: only units "
                "can be removed there. Load the network and use apply."
            )

    @property
    def left(self) -> int:
        """How many units are left; of layers that are merged, how many convolutions."""
        if self.merges:
            return _left(len(self.model.units), self.merges)
        return len(self.model.units) - len(self.steps)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells the network that this plan makes from others that are made of the same one."""
        return self.merges or self.removed

    @property
    def runs(self) -> tuple[Segment, ...]:
        """The removed units as maximal contiguous runs."""
        return Segment.runs(self.removed)

    @property
    def index_map(self) -> dict[int, int]:
        """Original index → new index of every unit that stays; layers that become one share theirs."""
        gone = set(self.removed)
        joined: dict[int, int] = {}
        for step in self.merges:
            joined |= dict.fromkeys(step.kept[1:] if step.fused else (), step.kept[0] if step.kept else -1)
        numbers: dict[int, int] = {}
        for index in range(len(self.model.units)):
            if index in joined:
                numbers[index] = numbers[joined[index]]
            elif index not in gone:
                numbers[index] = len(set(numbers.values()))
        return numbers

    @property
    def surviving_names(self) -> dict[str, str]:
        """Original name → new name of every unit that stays as it is; entries of lists move down."""
        gone: dict[str, list[int]] = {}
        for step in self.removals:
            for path in step.modules if step.removal == "delete" else ():
                container, _, key = path.rpartition(".")
                if key.isdecimal():
                    gone.setdefault(container, []).append(int(key))
        merged = {name for step in self.merges for name in step.layers}
        stay = (self.model.units[index] for index in self.index_map)
        return {name: _moved(name, gone) for name in stay if name not in merged}

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
            "steps": [{"op": step.op, **asdict(step)} for step in self.steps],
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
                steps=tuple(step_from(step) for step in fields["steps"]),
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
        if self.merges:
            before, after = len(self.model.units), _left(len(self.model.units), self.merges)
            rewritten = ", ".join(str(step.segment) for step in self.merges)
            return f"{self.method}: {before} layers become {after}: {rewritten}"
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
    if plan.merges:
        _check_merges(plan)
        return
    units = dict(enumerate(plan.model.units))
    for step in plan.removals:
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


def _check_merges(plan: Plan) -> None:
    if plan.removals:
        raise PlanError(
            "asked to use a plan that removes units and merges layers: these are two plans, one after the "
            "other. Make the plan anew."
        )
    units, end = plan.model.units, 0
    for step in plan.merges:
        named = tuple(units[step.start : step.stop])
        if not 0 <= end <= step.start < step.stop <= len(units) or named != step.layers:
            raise PlanError(
                f"asked to use a plan that rewrites the layers {step.segment}, {list(step.layers)}: of its "
                f"{len(units)} layers, those behind the step before are {list(units[end:])[:4]}…. Make the "
                "plan anew."
            )
        if list(step.kept) != sorted(set(step.kept) & set(step.segment)):
            raise PlanError(
                f"asked to use a plan that keeps {list(step.kept)} of the layers {step.segment}: each is "
                "kept once, in forward order. Make the plan anew."
            )
        end = step.stop


def _left(layers: int, steps: Iterable[Merge]) -> int:
    """How many convolutions are left of so many layers."""
    for step in steps:
        layers -= len(step.segment) - (min(1, len(step.kept)) if step.fused else len(step.kept))
    return layers


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
        inputs=fields.get("inputs"),
    )
