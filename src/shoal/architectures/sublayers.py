"""Which parts of a residual block are added to its hidden state one by one: attention and MLP alone.

A branch begins at a hidden state x and ends in a sum with x: `x + f(x)`. Going back from every sum
through what feeds nothing else gives the modules that f consists of, the norm in front among them.
They leave together: all but the last hand x through, the last one returns zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from shoal.architectures.bypassing import forward_replaced
from shoal.architectures.flow import Flow, Key, record
from shoal.architectures.hidden import in_zeros, stand_ins
from shoal.architectures.selection import Candidate, weight
from shoal.architectures.tracing import Call, matrices
from shoal.architectures.trials import FAILURES
from shoal.calling import Inputs, call, evaluating
from shoal.units import After, ends_in_zeros

__all__ = ["in_sublayers"]

# Branches with less than this share of their block's weights leave too much of it behind.
_LEAST_SHARE = 0.5


def in_sublayers(
    model: nn.Module, example: Inputs, found: list[Candidate], calls: dict[nn.Module, Call]
) -> list[Candidate]:
    """Return the units, every block that consists of several branches replaced by these.

    A block stays whole that has one branch or none (residual CNNs), whose branches hold less than half
    of its weights, that is used more than once, or that does not run with stand-ins for its branches.

    Args:
        model: The network.
        example: What its forward takes.
        found: Its units.
        calls: What was seen of its modules.
    """
    flow = record(model, example)
    order = {module: seen.order for module, seen in calls.items()}
    drawn = _Branches(model, flow, order).found if any(each.zeros for each in found) else []
    parts = {
        number: _with_norm(each, drawn, flow) if each.zeros else _parts(each, flow, order)
        for number, each in enumerate(found)
    }
    if not _lives(model, example, [part for each in parts.values() for part in each]):
        parts = {number: each for number, each in parts.items() if _lives(model, example, each)}
    units = [part for number, each in enumerate(found) for part in parts.get(number) or [each]]
    return sorted(units, key=lambda unit: order[unit.modules[0]])


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """Modules that lead from a hidden state to a sum with it.

    Attributes:
        modules: In forward order; each feeds the next one, and nothing else.
        result: The sum of the state that the first of them takes with their output; None where it is a
            sum of more than these two.
    """

    modules: tuple[nn.Module, ...]
    result: Key | None


def _parts(found: Candidate, flow: Flow, order: dict[nn.Module, int]) -> list[Candidate]:
    """The branches that a block consists of; none if it stays whole."""
    block = found.modules[0]
    if len(found.modules) > 1 or flow.times.get(block) != 1:
        return []
    branches = _Branches(block, flow, order).found
    held = sum(weight(list(branch.modules)) for branch in branches)
    if len(branches) < 2 or held < _LEAST_SHARE * weight(block):
        return []
    following = [flow.passages[branch.modules[0]].takes for branch in branches[1:]]
    parts = []
    for branch, taken in zip(branches, [*following, None], strict=True):
        after: After = ""
        if branch.result is not None and branch.result == taken:
            after = "next"
        elif branch.result is not None and branch.result == flow.given(block):
            after = "container"
        parts.append(_candidate(branch, flow, found, container=block, after=after))
    return parts


def _with_norm(found: Candidate, branches: Sequence[_Branch], flow: Flow) -> list[Candidate]:
    """A branch around which the network draws the path itself, with the norm that feeds it alone."""
    (module,) = found.modules
    for branch in branches:
        others = [other for other in branch.modules if other is not module]
        if len(others) == len(branch.modules) - 1 and not any(map(matrices, others)):
            return [_candidate(branch, flow, found, container=found.container, after="")]
    return []


def _candidate(
    branch: _Branch, flow: Flow, block: Candidate, *, container: nn.Module, after: After
) -> Candidate:
    *earlier, last = (flow.passages[module].outputs for module in branch.modules)
    return Candidate(
        modules=branch.modules,
        container=container,
        block=block,
        zeros=True,
        outputs={"each": [*earlier, in_zeros(last)]} if earlier else in_zeros(last),
        after=after,
    )


class _Branches:
    """The outermost branches inside a block.

    Args:
        block: The block.
        flow: What went where in the network.
        order: When each module was first entered.

    Attributes:
        found: The branches in forward order.
    """

    def __init__(self, block: nn.Module, flow: Flow, order: dict[nn.Module, int]) -> None:
        self.block, self.flow = block, flow
        every = {branch.modules: branch for branch in self._all()}.values()
        outermost = [branch for branch in every if not any(self._inside(branch, other) for other in every)]
        # A network may put another module in a module's place when it is first run.
        met = [branch for branch in outermost if all(module in order for module in branch.modules)]
        self.found = sorted(met, key=lambda branch: order[branch.modules[0]])

    def _all(self) -> Iterator[_Branch]:
        terms: dict[Key, set[Key]] = {}
        for each in self.flow.sums:
            if not self.flow.within(each.inside, self.block):
                continue
            summands = [{operand} | terms.get(operand, set()) for operand in each.operands]
            terms[each.result] = summands[0] | summands[1]
            for number, operand in enumerate(each.operands):
                # What goes elsewhere too is the hidden state itself, and no branch.
                if self.flow.only_result(operand) is None:
                    continue
                past = {state for other in summands[1 - number] for state in self._scaled(other)}
                for end in summands[number]:
                    if modules := self._leading(end, from_any_of=past):
                        starts = self.flow.passages[modules[0]].takes
                        alone = end == operand and starts == each.operands[1 - number]
                        yield _Branch(modules=modules, result=each.result if alone else None)

    def _scaled(self, state: Key) -> Iterator[Key]:
        """A state, and those of which it is a scaled or reshaped form."""
        yield state
        while (source := self.flow.scaled.get(state)) is not None:
            yield (state := source)

    def _leading(self, end: Key, from_any_of: set[Key]) -> tuple[nn.Module, ...]:
        """The modules that lead from one of these states to that one; empty if there is no such way."""
        last = self._made_by(end, self.flow.scaled)
        if last is None or self.flow.only_result(end) is None:
            return ()
        modules = [last]
        while (key := self.flow.passages[modules[0]].takes) not in from_any_of:
            before = self._made_by(key, self.flow.of_one_shape)
            if before is None or not self.flow.feeds_only(key, modules[0]):
                break
            modules.insert(0, before)
        leads = key in from_any_of or self.flow.derives(key, from_any_of)
        return tuple(modules) if leads and self._can_leave(modules) else ()

    def _made_by(self, key: Key, functions: dict[Key, Key]) -> nn.Module | None:
        """The module that made a state, functions like these behind it, used for nothing else."""
        while (made := self.flow.maker(key, self.block)) is None:
            source = functions.get(key)
            if source is None or self.flow.only_result(source) != key:
                return None
            key = source
        return made

    def _can_leave(self, modules: list[nn.Module]) -> bool:
        passages = [self.flow.passages[module] for module in modules]
        first, last = passages[0], passages[-1]
        return (
            first.in_shape == last.out_shape
            and first.dtypes[0] == last.dtypes[1]
            and any(map(matrices, modules))
            and all(self.flow.times[module] == 1 for module in modules)
            and all(ends_in_zeros(in_zeros(passage.outputs)) for passage in passages)
            and not any(
                self.flow.used(extra, beyond=module)
                for module, passage in zip(modules, passages, strict=True)
                for extra in passage.extras
            )
        )

    def _inside(self, branch: _Branch, other: _Branch) -> bool:
        return any(
            module is not around and self.flow.within(module, around)
            for module in branch.modules
            for around in other.modules
        )


def _lives(model: nn.Module, example: Inputs, parts: Sequence[Candidate]) -> bool:
    """Whether the network does with stand-ins in the parts' places what it does when these are bypassed.

    It may look at more of its modules than what they return.
    """
    if not parts:
        return True
    instead = {
        module: other
        for part in parts
        for module, other in zip(part.modules, stand_ins(part.outputs, len(part.modules)), strict=True)
    }
    answers = [(module, other.forward) for module, other in instead.items()]
    try:
        expected = _run(model, example, forward_replaced(answers))
        found = _run(model, example, _replaced(model, instead))
    except FAILURES:
        return False
    return len(expected) == len(found) and all(map(torch.equal, expected, found))


def _run(model: nn.Module, example: Inputs, edited: AbstractContextManager[object]) -> list[Tensor]:
    with evaluating(model), torch.no_grad(), edited:
        return [leaf for leaf in tree_leaves(call(model, example)) if isinstance(leaf, Tensor)]


@contextmanager
def _replaced(model: nn.Module, instead: Mapping[nn.Module, nn.Module]) -> Iterator[None]:
    """Let other modules stand in the places of these inside the `with`."""
    places = [
        (parent, key, module)
        for parent in model.modules()
        for key, module in parent._modules.items()
        if module is not None and module in instead
    ]
    try:
        for parent, key, module in places:
            parent._modules[key] = instead[module]
        yield
    finally:
        for parent, key, module in places:
            parent._modules[key] = module
