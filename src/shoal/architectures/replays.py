"""Graphs held against the modules that they were traced from: with the inputs as they were, with twice the
batch, and with maps of other sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from shoal.architectures.symbolic import Untraceable, shape_of
from shoal.architectures.trials import FAILURES
from shoal.calling import evaluating

__all__ = ["Call", "answers_alike", "check_same", "hold_sizes_"]

# By how much maps are made larger: what was even becomes odd, and other remainders change too.
_MORE = (1, 5)
_ROUNDING = 64 * torch.finfo(torch.float32).eps


@dataclass(kw_only=True)
class Call:
    """How a module was called.

    Attributes:
        args, kwargs: What it was given.
        times: How often it was called.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    times: int = 1

    def inputs(self, times: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return copies of the arguments, the batch repeated: modules may overwrite what they are given."""
        tensors = [each for each in tree_leaves((self.args, self.kwargs)) if isinstance(each, Tensor)]
        batch = next((len(each) for each in tensors if each.dim()), 0)

        def given(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.cat([value] * times) if value.dim() and len(value) == batch else value.clone()

        return tree_map(given, self.args), tree_map(given, self.kwargs)

    def larger(self, more: int) -> Call:
        """Return the same with maps that are larger along every spatial axis; they begin again at the end."""

        def given(value: Any) -> Any:
            if not isinstance(value, Tensor) or not _is_map(tuple(value.shape)):
                return value
            for axis, size in enumerate(value.shape[2:], 2):
                places = torch.arange(size + more, device=value.device) % size
                value = value.index_select(axis, places)
            return value

        return Call(args=tree_map(given, self.args), kwargs=tree_map(given, self.kwargs))


def _is_map(shape: tuple[int, ...]) -> bool:
    """Whether a shape has spatial axes along which there is more than one place."""
    return len(shape) > 2 and all(size > 1 for size in shape[2:])


def check_same(module: nn.Module, traced: fx.GraphModule, noted: Call) -> None:
    """Check that a graph answers as its module, for the inputs as they are and for twice the batch.

    Raises:
        Untraceable: If it does not.
    """
    for times in (1, 2):
        # One after the other, with random numbers going on.
        with evaluating(module), torch.no_grad():
            try:
                expected = _answer(module, noted, times)
            except FAILURES:
                # It takes this many samples and no others.
                continue
            try:
                found = _answer(traced.forward, noted, times)
            except FAILURES as error:
                raise Untraceable("", f"what it does depends on the batch size ({error})") from error
        if _flat(found)[1] != _flat(expected)[1]:
            raise Untraceable("", f"what it returns ({type(expected).__name__}) cannot be written down")
        if not answers_alike(found, expected):
            raise Untraceable(
                "", "its calls, replayed, answer otherwise (it depends on the batch size or on chance)"
            )


def hold_sizes_(module: nn.Module, traced: fx.GraphModule, noted: Call) -> None:
    """Let a graph refuse maps of other sizes than it was traced with, where it does not answer to them as
    its module does: the module's code asks for sizes.
    """
    if all(_is_alike(module, traced, noted.larger(more)) for more in _MORE):
        return
    graph = traced.graph
    maps = [node for node in graph.nodes if _is_given(node) and _is_map(shape_of(node) or ())]
    if not maps:
        return
    with graph.inserting_before(maps[-1].next):
        for node in maps:
            traced_with = (shape_of(node) or ())[2:]
            shape = graph.call_function(getattr, (node, "shape"))
            size = graph.call_function(operator.getitem, (shape, slice(2, None)))
            same = graph.call_function(operator.eq, (size, traced_with))
            told = f"the maps {_named(node)} were of the size {traced_with} when this was traced"
            graph.call_function(torch._assert, (same, f"{told}, and its code asks for sizes"))
    traced.recompile()


def _is_alike(module: nn.Module, traced: fx.GraphModule, noted: Call) -> bool:
    with evaluating(module), torch.no_grad():
        try:
            expected = _answer(module, noted)
        except FAILURES:
            # It takes maps of one size.
            return True
        try:
            return answers_alike(_answer(traced.forward, noted), expected)
        except FAILURES:
            # Nobody is misled.
            return True


def _is_given(node: fx.Node) -> bool:
    """Whether a node is an argument, or a part of one that is no tensor."""
    if node.op == "placeholder":
        return True
    source = node.args[0] if node.target is operator.getitem else None
    return isinstance(source, fx.Node) and shape_of(source) is None and _is_given(source)


def _named(node: fx.Node) -> str:
    if node.op == "placeholder":
        return str(node.target).lstrip("*")
    source, key = node.args
    return f"{_named(source)}[{key!r}]"  # type: ignore[arg-type]


def _answer(called: Callable[..., Any], noted: Call, times: int = 1) -> Any:
    # The forward of a graph is called as such: a call of the graph prints where it fails.
    args, kwargs = noted.inputs(times)
    return called(*args, **kwargs)


def answers_alike(one: Any, other: Any, small: float = _ROUNDING) -> bool:
    """Return whether two answers are the same, but for so small a share of the numbers."""
    (ours, structure), (theirs, same) = _flat(one), _flat(other)
    return structure == same and all(_equal(a, b, small) for a, b in zip(ours, theirs, strict=True))


def _flat(value: Any) -> tuple[list[Any], list[Any]]:
    """What is in a structure, dataclasses included, and the structure."""
    leaves, spec = tree_flatten(value)
    found: list[Any] = []
    structure: list[Any] = [spec]
    for leaf in leaves:
        if is_dataclass(leaf) and not isinstance(leaf, type):
            inner, inside = _flat(vars(leaf))
            found += inner
            structure += [type(leaf), inside]
        else:
            found.append(leaf)
            structure.append(type(leaf))
    return found, structure


def _equal(one: Any, other: Any, small: float) -> bool:
    if not isinstance(one, Tensor):
        # Types have been compared; what else an object holds is its own matter.
        return not isinstance(one, (bool, int, float, str)) or bool(one == other)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    scale = float(other.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(one, other, rtol=small, atol=small * scale, equal_nan=True)
