"""Whether the steps of a plan that someone may have edited fit the network that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.errors import PlanError, UnitError
from shoal.steps import Merge, Remove, Step
from shoal.summary import ModelSummary, holds_tensor
from shoal.units import Chain, Unit

__all__ = ["check_removable", "check_same", "check_steps"]


def check_removable(chain: Chain, chosen: Sequence[Unit]) -> None:
    """Check that units can be removed.

    Raises:
        UnitError: If one cannot; says which could be instead.
    """
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


def check_same(mine: ModelSummary, theirs: ModelSummary) -> None:
    """Check that two networks have the same units.

    Args:
        mine: The network that a plan was made for.
        theirs: The one that it is to be used on.

    Raises:
        PlanError: If they differ; says in what.
    """
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


def _first_difference(mine: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    for index, (ours, other) in enumerate(zip(mine, theirs, strict=False)):
        if ours != other:
            return f"; unit {index} is {ours!r} in the plan and {other!r} in the model"
    return ""


def check_steps(model: ModelSummary, steps: Sequence[Step], predicted: Mapping[str, Any]) -> None:
    """Check that the steps of a plan name its units, in forward order, and leave what it says.

    Args:
        model: The network that the plan is for.
        steps: What it does.
        predicted: What it says that will remain.

    Raises:
        PlanError: If they do not.
    """
    merges = [step for step in steps if isinstance(step, Merge)]
    removals = [step for step in steps if isinstance(step, Remove)]
    if merges and removals:
        raise PlanError(
            "asked to use a plan that removes units and merges layers: these are two plans, one after the "
            "other. Make the plan anew."
        )
    if merges:
        _check_merges(model, merges)
    else:
        _check_removals(model, removals)
        _check_promise(model, removals, predicted)


def _check_removals(model: ModelSummary, steps: Sequence[Remove]) -> None:
    for step in steps:
        found = next((name for index, name in enumerate(model.units) if index == step.index), None)
        if found != step.unit:
            raise PlanError(
                f"asked to read a plan that removes unit {step.index}, {step.unit!r}: of its "
                f"{len(model.units)} units that one is {found!r}. Make the plan anew."
            )
        if step.unit.partition(":")[0] not in step.modules:
            raise PlanError(
                f"asked to read a plan that removes unit {step.index}, {step.unit!r}, by the modules "
                f"{list(step.modules)}: they are not its own. Make the plan anew."
            )
    removed = [step.index for step in steps]
    if removed != sorted(set(removed)):
        raise PlanError(
            f"asked to read a plan that removes the units {removed}: each is removed once, "
            "in forward order. Make the plan anew."
        )


def _check_promise(model: ModelSummary, steps: Sequence[Remove], predicted: Mapping[str, Any]) -> None:
    """Check that what a plan says will remain is what its steps leave."""
    sizes = model.unit_params
    left = {
        "units": len(sizes) - len(steps),
        "params": model.params - sum(sizes[step.index] for step in steps),
    }
    for name, count in left.items():
        said = predicted.get(name, count)
        if said != count:
            raise PlanError(
                f"asked to read a plan that leaves {said!r} {name}: its steps leave {count:,}. Make the plan "
                "anew."
            )


def _check_merges(model: ModelSummary, steps: Sequence[Merge]) -> None:
    if not holds_tensor(model.inputs):
        raise PlanError(
            f"asked to use a plan that merges layers of {model.name}, whose inputs are {model.inputs!r}: "
            "layers are found by running the network on inputs with a tensor in them. Make the plan anew, "
            'for the chain of find_units(…, granularity="layer").'
        )
    units, end = model.units, 0
    for step in steps:
        named = units[step.start : step.stop]
        if not 0 <= end <= step.start < step.stop <= len(units) or named != step.layers:
            raise PlanError(
                f"asked to use a plan that rewrites the layers [{step.start}, {step.stop}), "
                f"{list(step.layers)}: of its {len(units)} layers, those behind the step before are "
                f"{list(units[end:])[:4]}…. Make the plan anew."
            )
        if any(type(index) is not int for index in step.kept) or list(step.kept) != [
            index for index in step.segment if index in step.kept
        ]:
            raise PlanError(
                f"asked to use a plan that keeps {list(step.kept)} of the layers {step.segment}: each is "
                "kept once, in forward order. Make the plan anew."
            )
        end = step.stop
