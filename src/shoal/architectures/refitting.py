"""Models of transformers that lost layers: made equal to what a stock loader builds of the config that
says so, or refused before anything is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from shoal.architectures.differences import (
    Differences,
    SlicedWeight,
    differences,
    original_name,
    slice_layers,
)
from shoal.architectures.fields import FIELDS, MIDWAY, POSITIONAL
from shoal.architectures.nearest import nearest
from shoal.architectures.rules import Inexpressible
from shoal.architectures.skeletons import as_read, config_fields, is_config, refusals, skeleton
from shoal.architectures.stacks import Stack, cut_config, entries, find_stack, part_of
from shoal.errors import UnitError
from shoal.units import Removal

__all__ = ["Refit", "plan_refit", "why_not"]

Kept = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Refit:
    """What has to change in a model of transformers whose lists have lost layers.

    Attributes:
        config: The config that describes what stays.
        before, after: What the class builds of the config before and of this one.
        kept: Numbers of the layers that stay, by the dotted path of their list.
        differences: What is not the same in the two.
    """

    config: Any
    before: nn.Module
    after: nn.Module
    kept: dict[str, tuple[int, ...]]
    differences: Differences

    @property
    def sliced(self) -> tuple[SlicedWeight, ...]:
        """Weights outside of the layers that lose parts."""
        return self.differences.sliced

    @property
    def params(self) -> int:
        """How many parameters leave with parts of weights outside of the layers."""
        sizes = [
            [m.get_parameter(each.name).numel() for m in (self.before, self.after)] for each in self.sliced
        ]
        return sum(whole - rest for whole, rest in sizes)

    def apply_(self, small: nn.Module) -> None:
        """Make a model whose lists lack the removed layers equal to what a stock loader builds.

        Args:
            small: The model; its configs, numbers of layers and weights with a part for each layer
                are changed in place.
        """
        modules = dict(small.named_modules(remove_duplicate=False))
        for name, values in self.differences.values.items():
            if name in modules:
                modules[name].__dict__.update(copy.deepcopy(values))
        for weight in self.sliced:
            owner, _, own = weight.name.rpartition(".")
            whole = modules[owner]._parameters[own]
            if whole is not None:
                part = slice_layers(whole.detach(), weight)
                modules[owner]._parameters[own] = nn.Parameter(part, requires_grad=whole.requires_grad)
        self._repair_configs_(modules)

    def _repair_configs_(self, modules: Mapping[str, nn.Module]) -> None:
        done: set[int] = set()
        was = dict(self.before.named_modules(remove_duplicate=False))
        for name, module in self.after.named_modules(remove_duplicate=False):
            if name not in modules:
                continue
            for attribute, config in vars(modules[name]).items():
                old, new = (
                    vars(each).get(attribute) for each in (was[original_name(name, self.kept)], module)
                )
                if is_config(config) and is_config(old) and is_config(new):
                    _repair_(config, old, new, done)


def _repair_(config: Any, old: Any, new: Any, done: set[int]) -> None:
    """Give a config, and those inside it, the values that differ between two others."""
    if id(config) in done:
        return
    done.add(id(config))
    before = config_fields(old)
    for name, value in config_fields(new).items():
        if name not in before or before[name] != value:
            vars(config)[name] = copy.deepcopy(value)
    for name, inner in vars(config).items():
        pair = [vars(each).get(name) for each in (old, new)]
        if is_config(inner) and all(map(is_config, pair)):
            _repair_(inner, pair[0], pair[1], done)


def why_not(model: Any, container: str, *, removal: Removal = "delete") -> str:
    """Return why no entries of `container` can be removed from a transformers model; empty if some can.

    Args:
        model: A transformers model.
        container: Dotted path, inside it, of the module that holds the entries.
        removal: How they would be removed; a pass-through cannot be written into a config.
    """
    kind = getattr(model.config, "model_type", "") or type(model).__name__
    if removal != "delete":
        return f"the config of a {kind} model cannot say that a pass-through stands in a layer's place"
    layers = entries(model, container)
    if layers is None:
        return f"the config of a {kind} model describes no list at {container or 'its root'!r}"
    if len(layers) < 2:
        return f"at least one of its {len(layers)} layers has to stay"
    stack = _stack(model, container)
    if isinstance(stack, str):
        return stack
    return ""


def _stack(model: Any, container: str) -> Stack | str:
    """The stack of a list of layers, or why it cannot be cut."""
    kind = type(model)
    named = getattr(model.config, "model_type", "") or kind.__name__
    try:
        config = as_read(model.config)
    except refusals() as error:
        return f"its config class refuses its config ({' '.join(str(error).split())})"
    built = skeleton(kind, config)
    if built is None:
        return f"transformers does not build a {named} model of its config alone"
    found = entries(built, container)
    if found is None:
        return f"the config of a {named} model describes no list at {container!r}"
    ours = entries(model, container)
    if ours is not None and len(ours) != len(found):
        return f"its config describes {len(found)} layers and it has {len(ours)}"
    stack = find_stack(kind, config, container)
    if stack is None:
        try:
            # The reason may be a field without a rule.
            for candidate in _plain_stacks(config, container, len(found)):
                cut_config(config, {candidate: range(len(found) - 1)})
        except Inexpressible as reason:
            return str(reason)
        return f"no field of the config of a {named} model counts the layers in {container!r}"
    part = part_of(config, stack)
    if getattr(part, "model_type", "") in MIDWAY:
        return f"what the layer in the middle of a {part.model_type} does depends on the number of layers"
    for name in POSITIONAL:
        if value := vars(part).get(name):
            return f"with {name}={value} what a layer does depends on its number"
    return stack


def _plain_stacks(config: Any, container: str, length: int) -> list[Stack]:
    return [Stack(container=container, length=length, path=(), count="")]


def plan_refit(model: Any, kept: Kept) -> Refit:
    """Return what has to change in a model of transformers when its lists lose layers.

    Args:
        model: The model before; stays as it is.
        kept: Numbers of the layers that stay, ascending, by the dotted path of their list.

    Raises:
        UnitError: If its config cannot say what stays; names the nearest cut that it can.
    """
    name = type(model).__name__
    stacks: dict[str, Stack] = {}
    for container in kept:
        if reason := why_not(model, container):
            raise UnitError(f"asked to remove layers in {container!r} of {name}: {reason}.")
        found = _stack(model, container)
        if isinstance(found, Stack):
            stacks[container] = found
    try:
        if empty := [container for container, numbers in kept.items() if not numbers]:
            length = stacks[empty[0]].length
            raise Inexpressible(f"at least one of its {length} layers has to stay")
        return _refit(model, stacks, kept)
    except Inexpressible as reason:
        raise UnitError(_refused(model, stacks, kept, str(reason))) from reason


def _refused(model: Any, stacks: Mapping[str, Stack], kept: Kept, reason: str) -> str:
    def works(other: Kept) -> bool:
        try:
            _refit(model, stacks, other)
        except Inexpressible:
            return False
        return True

    lengths = {container: stack.length for container, stack in stacks.items()}
    gone = {c: [i for i in range(lengths[c]) if i not in numbers] for c, numbers in kept.items()}
    asked = " and ".join(f"{numbers} of {container}" for container, numbers in gone.items())
    found = nearest(gone, lengths, works)
    if found is None:
        advice = "No cut near it works either."
    else:
        told = " and ".join(f"{numbers} of {container}" for container, numbers in found.items())
        advice = f"The nearest cut that works removes {told}."
    return f"asked to remove layers {asked} from {type(model).__name__}: {reason}. {advice}"


def _refit(model: Any, stacks: Mapping[str, Stack], kept: Kept) -> Refit:
    config, kind = as_read(model.config), type(model)
    new = cut_config(config, {stacks[container]: numbers for container, numbers in kept.items()})
    before, after = skeleton(kind, config), skeleton(kind, new)
    if before is None or after is None:
        raise Inexpressible(f"transformers builds no {kind.__name__} of the config that would be left")
    return Refit(
        config=new,
        before=before,
        after=after,
        kept={container: tuple(numbers) for container, numbers in kept.items()},
        differences=differences(before, after, kept, _told(config, new, stacks.values())),
    )


def _told(before: Any, after: Any, stacks: Iterable[Stack]) -> dict[str, tuple[Any, Any]]:
    """What the configs' lists that describe layers say before and after."""
    told: dict[str, tuple[Any, Any]] = {}
    for stack in stacks:
        old, new = (config_fields(part_of(config, stack)) for config in (before, after))
        told |= {name: (old[name], new.get(name)) for name in FIELDS if name in old}
    return told
