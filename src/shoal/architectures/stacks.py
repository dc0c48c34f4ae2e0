"""Stacks of layers in a model of transformers: which config counts them, in which field, and the config
without some of them.

A stack is found by trial: the field by which it is counted is the one with which what the class builds
gets shorter by a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import nn

from shoal.architectures.fields import ABOUT_PARTS, COUNTS, FIELDS, UNATTENDING, undeclared
from shoal.architectures.rules import Inexpressible, Rule
from shoal.architectures.skeletons import as_read, config_fields, configs_inside, refusals, skeleton

__all__ = ["Stack", "cut_config", "entries", "find_stack", "part_of"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A list of layers and the config that describes it.

    Attributes:
        container: Dotted path of the list inside the model.
        length: How many layers it has.
        path: Names that lead from the model's config to the one that describes the list.
        count: Field that counts the layers; empty where the lists that describe them do.
        stage: Entry of the count that counts them, where it is a list; None where it is a number.
    """

    container: str
    length: int
    path: tuple[str, ...]
    count: str
    stage: int | None = None


def entries(model: nn.Module, container: str) -> nn.ModuleList | nn.Sequential | None:
    """Return the list of this dotted path; None where there is none."""
    try:
        found = model.get_submodule(container)
    except AttributeError:
        return None
    return found if isinstance(found, (nn.ModuleList, nn.Sequential)) else None


def part_of(config: Any, stack: Stack) -> Any:
    """Return the config that describes a stack: the whole, or one inside it."""
    return reduce(getattr, stack.path, config)


def find_stack(kind: type[nn.Module], config: Any, container: str) -> Stack | None:
    """Return the stack of this list of layers; None where no field of the config counts it.

    Args:
        kind: The model's class.
        config: Its config, as it is read from a file.
        container: Dotted path of the list inside the model; it has two layers or more.
    """
    whole = skeleton(kind, config)
    layers = None if whole is None else entries(whole, container)
    if layers is None or len(layers) < 2:
        return None
    length = len(layers)
    # Most are counted whichever layer goes; some kinds of layers must be the first or the last.
    for gone in (length - 1, 0, *range(1, length - 1)):
        kept = [index for index in range(length) if index != gone]
        for stack in _candidates(config, container, length):
            if _is_counted(kind, config, stack, kept):
                return stack
    return None


def _is_counted(kind: type[nn.Module], config: Any, stack: Stack, kept: Sequence[int]) -> bool:
    try:
        shorter = skeleton(kind, cut_config(config, {stack: kept}))
    except Inexpressible:
        return False
    found = None if shorter is None else entries(shorter, stack.container)
    return found is not None and len(found) == len(kept)


def _candidates(config: Any, container: str, length: int) -> Iterator[Stack]:
    without: list[Stack] = []
    for path, part in configs_inside(config):
        fields = config_fields(part)
        named = [name for name in fields if any(word in name for word in COUNTS)]
        for name in sorted(named, key=lambda name: "hidden_layers" not in name):
            value = fields[name]
            if type(value) is int and value == length:
                yield Stack(container=container, length=length, path=path, count=name)
            if isinstance(value, (list, tuple)):
                stages = [
                    stage for stage, depth in enumerate(value) if type(depth) is int and depth == length
                ]
                for stage in stages:
                    yield Stack(container=container, length=length, path=path, count=name, stage=stage)
        without.append(Stack(container=container, length=length, path=path, count=""))
    yield from without


def cut_config(config: Any, kept: Mapping[Stack, Sequence[int]]) -> Any:
    """Return the config of a model whose stacks keep these layers, as it would be read from a file.

    Args:
        config: The model's config; stays as it is.
        kept: Numbers of the layers that stay, ascending, by stack.

    Raises:
        Inexpressible: If its fields cannot say what stays.
    """
    new = copy.deepcopy(config)
    try:
        for stack, numbers in kept.items():
            part = part_of(new, stack)
            _follow_(new, stack, numbers)
            changes = _changes(part, stack, numbers)
            overrides = changes.pop("per_layer_config", None)
            if overrides is not None:
                part.per_layer_config = None
            for name, value in changes.items():
                _set(part, name, value)
            if overrides is not None:
                # Checked against all other fields.
                part.per_layer_config = overrides
        new = as_read(new)
    except Inexpressible:
        raise
    except refusals() as error:
        first = " ".join(str(error).split())
        raise Inexpressible(f"its config class refuses what it would say ({first})") from error
    for stack in kept:
        before, after = (_attends(part_of(each, stack)) for each in (config, new))
        if before and not after:
            raise Inexpressible("no layer with attention would be left, by which its cache knows its length")
    return new


def _follow_(config: Any, stack: Stack, kept: Sequence[int]) -> None:
    """Change what configs around the one of a stack say about it."""
    for depth in range(len(stack.path)):
        around = reduce(getattr, stack.path[:depth], config)
        for word, rule in ABOUT_PARTS.values():
            if word in stack.path[depth]:
                for name, value in rule.cut(config_fields(around).get, stack.length, kept).items():
                    _set(around, name, value)


def _attends(part: Any) -> bool:
    kinds = getattr(part, "layer_types", None) or getattr(part, "layers_block_type", None) or ()
    return any(kind not in UNATTENDING for kind in kinds)


def _changes(part: Any, stack: Stack, kept: Sequence[int]) -> dict[str, Any]:
    fields = config_fields(part)
    if stack.stage is not None:
        counts = [*fields[stack.count]]
        counts[stack.stage] = len(kept)
        return {stack.count: type(fields[stack.count])(counts)}
    if unknown := undeclared(fields, stack.length):
        raise Inexpressible(
            f"its config may describe every layer in fields for which shoal has no rule: "
            f"{', '.join(unknown)}. Declare one: shoal.architectures.fields.declare({unknown[0]!r}, …)"
        )
    changes: dict[str, Any] = {}
    for rule in _rules(stack):
        changes |= rule.cut(fields.get, stack.length, kept)
    return changes | ({stack.count: len(kept)} if stack.count else {})


def _rules(stack: Stack) -> list[Rule]:
    """The rules of fields that may describe this stack: not those of the other side of a model."""
    other = "decoder_" if "encoder" in stack.count else "encoder_" if "decoder" in stack.count else ""
    return [rule for name, rule in FIELDS.items() if not (other and name.startswith(other))]


def _set(part: Any, name: str, value: Any) -> None:
    if name.startswith("_"):
        vars(part)[name] = value
    else:
        setattr(part, name, value)
