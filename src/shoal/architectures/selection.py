"""Which modules of a traced network are its units. Nothing here runs the network.

Three kinds of network, tried in this order:

- residual: the outermost repeated modules that carry their input around their weights;
- branches: modules whose output their parent adds to the hidden state (bypassed by zeros);
- plain stacks: entries of lists that keep the shape, a layer together with the normalisation and
  activation that follow it.

Modules of the same make that change the shape belong to the chain too; they cannot be removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from shoal.architectures.tracing import Call, matrices
from shoal.units import After

__all__ = ["Candidate", "alike", "select", "weight"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# A module whose repeated blocks hold this share of its weights is a stage, not a block.
_STAGE_SHARE = 0.75
# A lone module with this share of all weights is the network itself, not a piece of it.
_WHOLE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Modules that make up one unit, in forward order, and how the network lives without them.

    Attributes:
        modules: The modules.
        container: What holds them.
        zeros: Whether zeros stand in for what they return.
        block: The unit that they are a branch of; None for a unit of its own.
        outputs: For a branch of a block: what stands in for its modules, as `Unit.outputs` says it.
        after: As `Unit.after`.
    """

    modules: tuple[nn.Module, ...]
    container: nn.Module
    zeros: bool = False
    block: Candidate | None = None
    outputs: Any = None
    after: After = ""


def select(model: nn.Module, calls: dict[nn.Module, Call]) -> list[Candidate]:
    """Return the units of a traced network in forward order; empty if it has none."""
    parents = _parents(model)
    chosen = _outermost(_Blocks(calls, parents).of(model), parents)
    zeros = False
    if not chosen:
        chosen, zeros = list(dict.fromkeys(_branches(model, calls))), True
    if chosen:
        chosen += _same_make(model, chosen, calls, parents)
        found = [Candidate(modules=(m,), container=parents[m], zeros=zeros) for m in chosen]
    else:
        found = list({candidate.modules[0]: candidate for candidate in _plain(model, calls)}.values())
    return sorted(found, key=lambda candidate: calls[candidate.modules[0]].order)


def alike(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules are of one make: same class, and alike in all weighted children they share.

    Example:
        >>> alike(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(4, 4)))
        True
        >>> alike(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Conv2d(2, 2, 1)))
        False
    """
    if type_before_parametrizations(first) is not type_before_parametrizations(second):
        return False
    theirs = {name: child for name, child in second.named_children() if matrices(child)}
    mine = {name: child for name, child in first.named_children() if matrices(child)}
    return all(alike(child, theirs[name]) for name, child in mine.items() if name in theirs)


def _parents(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Which module holds each module, by its first name."""
    return {
        module: model.get_submodule(name.rpartition(".")[0]) for name, module in model.named_modules() if name
    }


def weight(modules: list[nn.Module] | nn.Module) -> int:
    """Return the number of parameters that some module holds; shared ones count once."""
    group = modules if isinstance(modules, list) else [modules]
    unique = {id(p): p.numel() for module in group for p in module.parameters()}
    return sum(unique.values())


class _Blocks:
    """The outermost repeated modules that carry their input."""

    def __init__(self, calls: dict[nn.Module, Call], parents: dict[nn.Module, nn.Module]) -> None:
        self.calls = calls
        self.parents = parents

    def of(self, module: nn.Module) -> list[nn.Module]:
        blocks: list[nn.Module] = []
        for child in _children(module):
            inner = self.of(child)
            blocks += [child] if self._is_block(child, inner) else inner
        # A module may be held in several places.
        blocks = list(dict.fromkeys(blocks))
        alone = len(blocks) == 1 and module not in self.parents
        if alone and weight(blocks) > _WHOLE_SHARE * weight(module):
            return []
        return blocks

    def _is_block(self, module: nn.Module, inner: list[nn.Module]) -> bool:
        seen = self.calls.get(module)
        if seen is None or not (seen.keeps and seen.carries):
            return False
        if not inner or weight(inner) < _STAGE_SHARE * weight(module):
            return True
        if any(alike(a, b) for i, a in enumerate(inner) for b in inner[:i]):
            return False
        return len(inner) > 1 or self._is_repeated(module)

    def _is_repeated(self, module: nn.Module) -> bool:
        shape = self.calls[module].out_shape
        return any(
            other is not module and alike(other, module) and self.calls[other].out_shape == shape
            for other in _children(self.parents[module])
            if other in self.calls
        )


def _children(module: nn.Module) -> list[nn.Module]:
    """Its children with weights; what a layer computes its weight with (a weight norm) is no child."""
    if is_parametrized(module):
        return []
    return [child for child in module.children() if matrices(child)]


def _around(module: nn.Module, parents: dict[nn.Module, nn.Module]) -> list[nn.Module]:
    """The modules that hold this one, innermost first."""
    found: list[nn.Module] = []
    while module in parents:
        module = parents[module]
        found.append(module)
    return found


def _outermost(blocks: list[nn.Module], parents: dict[nn.Module, nn.Module]) -> list[nn.Module]:
    """The blocks that are no part of a module of another block's make.

    A gate (squeeze and excitation) carries its input too. In a block that changes the shape it would
    be taken for a block itself.
    """
    around = {block: _around(block, parents) for block in blocks}
    return [
        block
        for block in blocks
        if not any(
            _of_one_make(outer, other, parents)
            for outer in around[block]
            for other in blocks
            if outer not in around[other]
        )
    ] or blocks


def _branches(model: nn.Module, calls: dict[nn.Module, Call]) -> list[nn.Module]:
    """The outermost modules that keep the shape and are added to what goes past them."""
    found: list[nn.Module] = []
    for child in _children(model):
        seen = calls.get(child)
        if seen is not None and seen.keeps and seen.added:
            found.append(child)
        else:
            found += _branches(child, calls)
    return found


def _same_make(
    model: nn.Module,
    chosen: list[nn.Module],
    calls: dict[nn.Module, Call],
    parents: dict[nn.Module, nn.Module],
) -> list[nn.Module]:
    """Modules of the same make as a chosen one that are neither chosen, inside one, nor around one."""
    taken = {inner for block in chosen for inner in block.modules()}
    for block in chosen:
        taken.update(_around(block, parents))
    return [
        module
        for module in model.modules()
        if module in calls
        and module not in taken
        and any(_of_one_make(module, block, parents) for block in chosen)
    ]


def _of_one_make(module: nn.Module, block: nn.Module, parents: dict[nn.Module, nn.Module]) -> bool:
    made = type_before_parametrizations(block)
    stock = made.__module__.startswith("torch.nn.modules")
    if stock and not _children(block):
        # One convolution is like any other, which says nothing of what it is there for.
        return False
    if made not in _CONTAINERS and not stock:
        return type_before_parametrizations(module) is made
    return alike(module, block) and parents.get(module) is parents.get(block)


def _plain(module: nn.Module, calls: dict[nn.Module, Call]) -> Iterator[Candidate]:
    """Entries of lists: compound entries and runs of a layer with its normalisation and activation."""
    listed = isinstance(module, _CONTAINERS)
    twins = [
        child
        for child in _children(module)
        if any(alike(child, o) for o in _children(module) if o is not child)
    ]
    entries, weighted = list(module.children()), _children(module)
    for position, child in enumerate(entries):
        if child not in weighted:
            continue
        inner = list(_plain(child, calls))
        if len(inner) > 1 or (inner and isinstance(child, _CONTAINERS) and not (listed and child in calls)):
            yield from inner
        elif child in calls and (listed or (child in twins and any(child.children()))):
            follow = _followers(entries[position + 1 :], calls) if isinstance(module, nn.Sequential) else []
            yield Candidate(modules=(child, *follow), container=module)


def _followers(entries: list[nn.Module], calls: dict[nn.Module, Call]) -> list[nn.Module]:
    """The normalisations, activations and dropouts that directly follow a layer."""
    found: list[nn.Module] = []
    for entry in entries:
        seen = calls.get(entry)
        pools = any(word in type(entry).__name__ for word in ("Pool", "Flatten", "Upsample"))
        if seen is None or not seen.keeps or pools or matrices(entry):
            break
        found.append(entry)
    return found
