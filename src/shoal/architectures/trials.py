"""What runs of a network without some of its units show, and one look at it cannot.

A network may not run without a unit; and a list whose entries the network reaches by number, or
side by side with those of another list, must not lose any: a pass-through takes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from shoal.architectures.bypassing import bypassed
from shoal.calling import Inputs, call, evaluating
from shoal.errors import DataError, ShoalError
from shoal.units import Chain, Unit

__all__ = ["FAILURES", "check_runs", "mark_numbered_lists", "mark_vital"]

# What a forward raises when what reaches it is not what it expects.
FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)


def check_runs(model: nn.Module, example: Inputs) -> None:
    """Check that the network runs on the example.

    Raises:
        DataError: If it does not; the network's own error is its cause.
    """
    try:
        with evaluating(model), torch.no_grad():
            call(model, example)
    except ShoalError:
        raise
    except FAILURES as error:
        first = next(model.parameters(), None)
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"asked to run {type(model).__name__} on the example {_written(example)}: it failed with "
            f"{type(error).__name__}: {reason}. An example is what its forward takes: a tensor, a tuple of "
            "arguments or a dict of keywords"
            + (f"; the model's weights are {_name(first.dtype)}." if first is not None else ".")
        ) from error


def mark_vital(model: nn.Module, example: Inputs, chain: Chain) -> Chain:
    """Mark units as not removable without which the network does not run."""
    if _runs(model, example, chain, chain.removable):
        return chain
    units = list(chain.units)
    for index in chain.removable:
        if not _runs(model, example, chain, (index,)):
            units[index] = replace(units[index], removable=False, why="the network does not run without it")
    return replace(chain, units=tuple(units))


def mark_numbered_lists(model: nn.Module, example: Inputs, chain: Chain) -> Chain:
    """Let a pass-through stand in where deleting a list's entry is not the same as bypassing it.

    A list that is called as a whole can lose entries. One whose entries the network reaches itself
    may reach them by number.
    """
    units = list(chain.units)
    for container in dict.fromkeys(unit.container for unit in units):
        mine = [u for u in units if u.container == container and u.removable and u.removal == "delete"]
        if mine and not _can_lose(model, example, chain, mine[0]):
            for unit in mine:
                units[unit.index] = replace(unit, removal="bypass")
    return replace(chain, units=tuple(units))


def _runs(model: nn.Module, example: Inputs, chain: Chain, removed: tuple[int, ...]) -> bool:
    try:
        with evaluating(model), torch.no_grad(), bypassed(model, chain, removed):
            call(model, example)
    except FAILURES:
        return False
    return True


def _can_lose(model: nn.Module, example: Inputs, chain: Chain, unit: Unit) -> bool:
    gone = {inner for path in unit.modules for inner in model.get_submodule(path).modules()}
    try:
        visited, expected = _run(model, example, gone, bypassed(model, chain, (unit.index,)))
        met, found = _run(model, example, gone, _without(model, unit))
    except FAILURES:
        return False
    # Fresh weights may hide that a layer met another's norm; the order of calls does not.
    return visited == met and len(expected) == len(found) and all(map(torch.equal, expected, found))


def _run(
    model: nn.Module, example: Inputs, gone: set[nn.Module], edited: AbstractContextManager[object]
) -> tuple[list[nn.Module], list[Tensor]]:
    """Return the modules in the order of their calls, those in `gone` left out, and all results."""
    visited: list[nn.Module] = []
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(edited)
        for module in model.modules():
            if module not in gone:
                stack.callback(module.register_forward_pre_hook(_keeper(visited)).remove)
        output = call(model, example)
    return visited, [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _keeper(visited: list[nn.Module]) -> Callable[[nn.Module, Any], None]:
    return lambda module, args: visited.append(module)


@contextmanager
def _without(model: nn.Module, unit: Unit) -> Iterator[None]:
    """Take a unit's entries out of their list for a moment."""
    container = model.get_submodule(unit.container)
    kept = dict(container._modules)
    gone = {model.get_submodule(path) for path in unit.modules}
    rest = [(key, module) for key, module in kept.items() if module not in gone]
    container._modules.clear()
    for position, (key, module) in enumerate(rest):
        container._modules[str(position) if key.isdigit() else key] = module
    try:
        yield
    finally:
        container._modules.clear()
        container._modules.update(kept)


def _written(example: Inputs) -> str:
    """The example's structure and shapes, in words."""
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{name}: {_written(value)}" for name, value in example.items()) + "}"
    if isinstance(example, (tuple, list)):
        return "(" + ", ".join(map(_written, example)) + ")"
    if isinstance(example, Tensor):
        return f"{_name(example.dtype)}[{', '.join(map(str, example.shape))}]"
    return repr(example)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
