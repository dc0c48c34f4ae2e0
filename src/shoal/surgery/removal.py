"""Plan + model → a new model without the planned units. The model that came in stays as it was.

The copy is made without ever copying what is removed, so that a network that barely fits in memory
can still be cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from shoal.architectures.bypassing import uncompiled
from shoal.architectures.cache import numbers_of, renumber_, why_not_inside
from shoal.architectures.hidden import stand_ins
from shoal.architectures.huggingface import owner_of
from shoal.architectures.refitting import Refit, plan_refit, why_not
from shoal.architectures.skeletons import stand_ins_of
from shoal.errors import PlanError, SurgeryError, UnitError
from shoal.plan import Plan
from shoal.steps import Remove
from shoal.surgery.generation import repair_generation_
from shoal.surgery.hooks import rehook_, shared_by_hooks
from shoal.units import ends_in_zeros

__all__ = ["check_removals", "remove_units"]


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """What happens to one module: it leaves its container, or `stand_in` takes its place.

    `branch`: it belongs to a unit whose output is added to the hidden state outside of it.
    """

    path: str
    module: nn.Module
    stand_in: nn.Module | None
    branch: bool

    @property
    def container(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self.path.rpartition(".")[2]


class _Gone(nn.Module):
    """Marks, in a copy, the place of a module that leaves its container."""


def remove_units(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a new model without the units that the plan removes.

    It has the class, device, dtype and training mode of `model`. Entries that leave a list are
    followed by the rest, renumbered from 0; the config and layer numbers of a Hugging Face model
    follow. Where a sublayer was, stand-ins without parameters return zeros in its structure. An empty
    plan gives an equal copy. Gradients are not copied, and nothing of the copy is compiled: wrappers of
    `torch.compile` stay behind.

    Args:
        model: The network that the plan was made for; stays untouched.
        plan: What to remove.

    Raises:
        PlanError: If the plan does not fit the model.
        UnitError: If the model is a Hugging Face model whose config or cache shoal cannot repair.
        SurgeryError: If the model cannot be copied, or the result fails a post-condition.

    Example:
        >>> import torch
        >>> from shoal.architectures import find_units
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> len(remove_units(net, Plan.removing(find_units(net, torch.ones(1, 4)), [1])))
        2
    """
    with uncompiled(model) as written:
        return _without_units(written, plan)


def _without_units(model: nn.Module, plan: Plan) -> nn.Module:
    cuts, refits = _prepared(model, plan)
    small, copies = _copy(model, cuts)
    for path in _renumbered(model, plan):
        renumber_(small.get_submodule(path))
    shortened = {cut.container for cut in cuts if cut.stand_in is None}
    # Inner lists first: what stands behind a gap of an outer one bears another name when it is closed.
    for container in sorted(shortened, key=lambda path: f".{path}".rstrip(".").count("."), reverse=True):
        _close_gaps_(small.get_submodule(container))
    rehook_(small, model, copies)
    for path, refit in refits.items():
        owner = small.get_submodule(path)
        refit.apply_(owner)
        repair_generation_(owner, refit.kept)
        if stand_ins_of(owner):
            # Layers that lost their attention earlier take no place of the cache.
            renumber_(owner)
    apart = sum(refit.params for refit in refits.values())
    _check_result(small, expected=_remaining(model, cuts) - apart)
    return small


def check_removals(model: nn.Module, plan: Plan) -> None:
    """Check, without cutting anything, that `remove_units` can do what a plan says.

    Args:
        model: The network that the plan was made for.
        plan: What to remove.

    Raises:
        PlanError: If the plan does not fit the model.
        UnitError: If it is a Hugging Face model whose config cannot say what would be left; names the
            nearest cut that it can.
    """
    with uncompiled(model) as written:
        _prepared(written, plan)


def _prepared(model: nn.Module, plan: Plan) -> tuple[list[_Cut], dict[str, Refit]]:
    """The cuts, and how the Hugging Face models that lose layers are kept true, by their paths."""
    plan.check_removes(f"remove units of {type(model).__name__}")
    _check_fit(model, plan)
    cuts = [cut for step in plan.removals for cut in _cuts(model, step)]
    _check_lists(model, cuts)
    refits = _refits(model, [cut for cut in cuts if not cut.branch])
    _renumbered(model, plan)
    return cuts, refits


def _check_fit(model: nn.Module, plan: Plan) -> None:
    name = type(model).__name__
    params = _count(model.parameters())
    if params != plan.model.params:
        raise PlanError(
            f"asked to use a plan for {plan.model.name} with {plan.model.params:,} parameters on "
            f"{name} with {params:,}. Make a plan for this model."
        )
    sizes = dict(zip(plan.model.units, plan.model.unit_params, strict=False))
    taken: list[str] = []
    for step in plan.removals:
        modules = _modules(model, step)
        found = _count(p for module in modules for p in module.parameters())
        if found != sizes.get(step.unit):
            raise PlanError(
                f"asked to remove unit {step.index} ({step.unit}) of {sizes.get(step.unit, 0):,} parameters: "
                f"in this {name} it has {found:,}. Make a plan for this model."
            )
        for path in step.modules:
            if any(
                f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.") for other in taken
            ):
                raise PlanError(
                    f"asked to remove {path!r} of {name} twice, alone or with what it is a part of."
                )
            taken.append(path)


def _modules(model: nn.Module, step: Remove) -> list[nn.Module]:
    try:
        found = [model.get_submodule(path) for path in step.modules if path]
    except AttributeError as error:
        raise PlanError(
            f"asked to remove unit {step.index} ({step.unit}): {type(model).__name__} has no such module "
            f"({error}). Make a plan for this model."
        ) from error
    if not found:
        raise PlanError(f"asked to remove unit {step.index} ({step.unit}): the plan names no modules of it.")
    return found


def _cuts(model: nn.Module, step: Remove) -> list[_Cut]:
    """The cuts of one unit."""
    modules = _modules(model, step)
    instead: list[nn.Module | None] = [None] * len(modules)
    if step.removal == "bypass":
        instead = [*stand_ins(step.outputs, len(modules))]
    if len(instead) != len(modules):
        raise PlanError(
            f"asked to bypass unit {step.index} ({step.unit}) of {len(modules)} modules: the plan says what "
            f"stands in for {len(instead)}. Make the plan anew."
        )
    branch = step.removal == "bypass" and ends_in_zeros(step.outputs)
    cuts = []
    for path, module, stand_in in zip(step.modules, modules, instead, strict=True):
        if stand_in is not None:
            stand_in.train(module.training)
            if numbers := numbers_of(module):
                # It has no place in the cache, and says so.
                vars(stand_in)["layer_idx"] = min(numbers)
        cuts.append(_Cut(path=path, module=module, stand_in=stand_in, branch=branch))
    return cuts


def _check_lists(model: nn.Module, cuts: list[_Cut]) -> None:
    held: dict[nn.Module, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        held[module] = held.get(module, 0) + 1
    for cut in cuts:
        if held[cut.module] > 1:
            raise UnitError(
                f"asked to remove {cut.path!r} of {type(model).__name__}: the module stands in "
                f"{held[cut.module]} places (shared weights), and would leave all of them."
            )
        container = model.get_submodule(cut.container)
        if cut.stand_in is None and not isinstance(container, (nn.Sequential, nn.ModuleList)):
            raise PlanError(
                f"asked to delete {cut.path!r} of {type(model).__name__}: it stands in a "
                f"{type(container).__name__}, which is no list. Units outside lists are bypassed."
            )


def _refits(model: nn.Module, cuts: list[_Cut]) -> dict[str, Refit]:
    """How the Hugging Face models that lose layers are kept true, by their paths."""
    kept: dict[str, dict[str, list[int]]] = {}
    for container in dict.fromkeys(cut.container for cut in cuts):
        found = owner_of(model, container)
        if found is None:
            continue
        path, owner = found
        gone = {cut.key: cut.stand_in for cut in cuts if cut.container == container}
        keys = list(model.get_submodule(container)._modules)
        left = [number for number, key in enumerate(keys) if key not in gone]
        deletes = all(stand_in is None for stand_in in gone.values())
        reason = "" if deletes else why_not(owner, _inside(path, container), removal="bypass")
        if reason:
            raise UnitError(
                f"asked to remove {len(gone)} of {len(keys)} units in {container or 'the network'!r} of "
                f"{type(owner).__name__}: {reason}."
            )
        kept.setdefault(path, {})[_inside(path, container)] = left
    return {path: plan_refit(model.get_submodule(path), lists) for path, lists in kept.items()}


def _renumbered(model: nn.Module, plan: Plan) -> list[str]:
    """The paths of the transformers models that lose parts of layers with a place in the cache."""
    owners: dict[str, None] = {}
    for step in plan.removals:
        found = owner_of(model, step.modules[0]) if ends_in_zeros(step.outputs) else None
        if found is None or step.removal != "bypass":
            continue
        path, owner = found
        if reason := why_not_inside(owner, [_inside(path, module) for module in step.modules]):
            raise UnitError(
                f"asked to remove unit {step.index} ({step.unit}) of {type(owner).__name__}: {reason}. "
                "Remove whole layers (granularity block), or sublayers that do not use the cache."
            )
        if any(numbers_of(model.get_submodule(module)) for module in step.modules):
            owners[path] = None
    return list(owners)


def _copy(model: nn.Module, cuts: list[_Cut]) -> tuple[nn.Module, dict[int, object]]:
    """A copy without what is cut, and what stands in it for each module, by the module's id."""
    # What deepcopy finds in its memo it takes for copied: the removed modules never are.
    memo: dict[int, object] = {id(cut.module): cut.stand_in or _Gone() for cut in cuts}
    memo |= {id(each): each for each in shared_by_hooks(model)}
    try:
        return copy.deepcopy(model, memo), memo
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise SurgeryError(
            f"asked for a copy of {type(model).__name__}: it cannot be copied ({error}). Modules may hold "
            "no tensors with a gradient history beside their parameters, and no locks, files or generators."
        ) from error


def _close_gaps_(container: nn.Module) -> None:
    entries = container._modules
    kept = [(key, module) for key, module in entries.items() if not isinstance(module, _Gone)]
    numbered = list(entries) == [str(number) for number in range(len(entries))]
    entries.clear()
    for number, (key, module) in enumerate(kept):
        entries[str(number) if numbered else key] = module


def _inside(owner: str, path: str) -> str:
    return path.removeprefix(owner).removeprefix(".")


def _remaining(model: nn.Module, cuts: list[_Cut]) -> int:
    """Parameters of the model that some module holds which stays; shared ones count once."""
    gone = {inner for cut in cuts for inner in cut.module.modules()}
    return _count(
        p for module in model.modules() if module not in gone for p in module.parameters(recurse=False)
    )


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum({id(p): p.numel() for p in parameters}.values())


def _check_result(small: nn.Module, *, expected: int) -> None:
    left = [name for name, module in small.named_modules() if isinstance(module, _Gone)]
    if left:
        raise SurgeryError(
            f"asked to remove units of {type(small).__name__}: {', '.join(left)} still hold a removed "
            "module under a second name."
        )
    found = _count(small.parameters())
    if found != expected:
        raise SurgeryError(
            f"removed units of {type(small).__name__}: {expected:,} parameters should be left and "
            f"{found:,} are. Its modules are copied in a way of their own (__deepcopy__)."
        )
