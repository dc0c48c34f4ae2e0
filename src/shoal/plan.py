"""A plan: what to remove from a network or to merge in it, as pure data that is saved as JSON.

A plan holds no tensors. It can be replayed on a fresh copy of the model, on another machine, a
year later; it knows the units of the network that it was made for and refuses another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shoal.budget import Budget
from shoal.errors import PlanError
from shoal.plan_checks import check_removable, check_same, check_steps
from shoal.steps import Merge, Remove, Step, step_from
from shoal.summary import ModelSummary, summary_from
from shoal.units import Chain, Segment

__all__ = ["VERSION", "Merge", "ModelSummary", "Plan", "Remove", "Step"]

VERSION = 1


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
        check_removable(chain, chosen)
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
                check_removable(chain, [chain[index] for index in step.removed])
        plan = cls(
            model=ModelSummary.of(chain),
            steps=ordered,
            budget=budget,
            method=method,
            settings=dict(settings or {}),
            predicted={"units": _left(len(chain), ordered)} | dict(predicted or {}),
            made_by=f"shoal {__version__}",
        )
        check_steps(plan.model, plan.steps, plan.predicted)
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
    def of_layers(self) -> bool:
        """Whether its units are single convolutions, which may merge."""
        return self.model.inputs is not None

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
        check_same(self.model, ModelSummary.of(chain))

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
                model=summary_from(fields["model"]),
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
        check_steps(plan.model, plan.steps, plan.predicted)
        return plan

    def __str__(self) -> str:
        if self.merges:
            before, after = len(self.model.units), _left(len(self.model.units), self.merges)
            rewritten = ", ".join(str(step.segment) for step in self.merges)
            return f"{self.method}: {before} layers become {after}: {rewritten}"
        runs = ", ".join(map(str, self.runs)) or "nothing"
        return f"{self.method}: remove {len(self.steps)} of {len(self.model.units)} units: {runs}"


def _left(layers: int, steps: Iterable[Merge]) -> int:
    """How many convolutions are left of so many layers."""
    for step in steps:
        layers -= len(step.segment) - (min(1, len(step.kept)) if step.fused else len(step.kept))
    return layers


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
