"""One call of a network up to one of its units, the units before it answering with what they returned.

The network's own forward is called, so that masks, positions and whatever else stands around the units
are its own doing. Only the unit at hand is computed, and what follows it is not begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from shoal.architectures import forward_replaced, hidden_input, hidden_output
from shoal.calling import Inputs, call
from shoal.errors import ConfigError
from shoal.units import Chain

__all__ = ["PartialCall", "Returned", "tensors_of"]

Forward = Callable[..., Any]
# By place and by name.
Arguments = dict[Any, Any]


@dataclass(frozen=True)
class _Given:
    """Stands for a tensor that a unit hands through: its place among the leaves of the arguments."""

    place: int


@dataclass(frozen=True)
class Returned:
    """What a unit gave back.

    Attributes:
        output: What its forward returned.
        entries: What it wrote into mappings that it was given, by argument and key; later units may
            read that.
    """

    output: Any
    entries: dict[Any, dict[Any, Any]] = field(default_factory=dict)

    def map(self, function: Callable[[Any], Any]) -> Returned:
        """Return the same with another leaf for each."""
        return Returned(tree_map(function, self.output), tree_map(function, self.entries))


class PartialCall:
    """One call of a network, up to the unit whose turn it is, or to its end.

    With gradients enabled, what earlier units returned are leaves of the graph that collect gradients.

    Args:
        model: The network, in evaluation mode.
        chain: Its units, each a single module.
        inputs: What its forward takes, on the device.
        returned: What the units before returned, of all units for a call to the end.
        device: Where the network computes.

    Attributes:
        outputs: What the network returned, of a call to the end.
        hidden: Hidden state that went into the last unit; `left`, which came out of it.
        returned: What that unit returned.

    Raises:
        ConfigError: If units are not called one after the other, or depend on each other beyond what
            they return.
    """

    outputs: Any = None
    hidden: Tensor
    left: Tensor
    returned: Returned

    def __init__(
        self,
        model: nn.Module,
        chain: Chain,
        inputs: Inputs,
        returned: Sequence[Returned],
        device: torch.device,
    ) -> None:
        self._chain, self._earlier, self._device = chain, returned, device
        self._called = 0
        self._lent: dict[int, tuple[Tensor, Tensor, int]] = {}
        modules = [model.get_submodule(unit.modules[0]) for unit in chain]
        stubs = [(module, self._stub(index, module.forward)) for index, module in enumerate(modules)]
        with forward_replaced(stubs), suppress(_Enough):
            self.outputs = call(model, inputs)
        self._check()

    def lend(self, tensor: Tensor) -> Tensor:
        """Return what stands in this call for a tensor that an earlier unit returned."""
        if id(tensor) not in self._lent:
            lent = tensor.to(self._device)
            if torch.is_grad_enabled():
                lent = lent.detach().requires_grad_(lent.is_floating_point())
            self._lent[id(tensor)] = (tensor, lent, lent._version)
        return self._lent[id(tensor)][1]

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Return the tensors of earlier units that gradients have reached, each with its gradient."""
        return [(tensor, lent.grad) for tensor, lent, _ in self._lent.values() if lent.grad is not None]

    def _stub(self, index: int, forward: Forward) -> Forward:
        def stub(*args: Any, **kwargs: Any) -> Any:
            if index != self._called:
                raise self._refusal(index, f"is called where {self._name(self._called)} should be")
            self._called += 1
            given: Arguments = {**dict(enumerate(args)), **kwargs}
            if index < len(self._earlier):
                return self._answer(self._earlier[index], given)
            self._compute(index, forward, given)
            raise _Enough

        return stub

    def _answer(self, returned: Returned, given: Arguments) -> Any:
        leaves = tree_leaves(given)

        def answer(leaf: Any) -> Any:
            if isinstance(leaf, _Given):
                return leaves[leaf.place]
            return self.lend(leaf) if isinstance(leaf, Tensor) else leaf

        found = returned.map(answer)
        for name, entries in found.entries.items():
            given[name].update(entries)
        return found.output

    def _compute(self, index: int, forward: Forward, given: Arguments) -> None:
        hidden = hidden_input((), _named(given))
        if hidden is None:
            raise self._refusal(index, "takes no hidden state")
        # What it is given is kept, and not to be written into.
        fresh = hidden.clone()
        given = {name: fresh if value is hidden else value for name, value in given.items()}
        leaves, before = tree_leaves(given), _Contents(given, besides=fresh)
        positional = [value for name, value in given.items() if isinstance(name, int)]
        output = forward(*positional, **{name: v for name, v in given.items() if isinstance(name, str)})
        entries = before.entries(given)
        if entries is None:
            raise self._refusal(index, "writes into what it is given, which later units may read")
        left = hidden_output(output)
        if left is None:
            raise self._refusal(index, "returns no hidden state")
        self.hidden, self.left = hidden, left
        places = {id(leaf): n for n, leaf in enumerate(leaves) if leaf is not fresh and leaf is not left}
        through = lambda x: _Given(places[id(x)]) if isinstance(x, Tensor) and id(x) in places else x  # noqa: E731
        self.returned = Returned(output, entries).map(through)

    def _check(self) -> None:
        if self._called < min(len(self._earlier) + 1, len(self._chain)):
            raise self._refusal(self._called, "is not called on this data")
        if any(lent._version != version for _, lent, version in self._lent.values()):
            raise self._refusal(
                len(self._earlier) - 1, "has what it returned overwritten by the network around it"
            )

    def _refusal(self, index: int, why: str) -> ConfigError:
        return ConfigError(
            f"asked to go through {self._chain.model} one unit at a time: {self._name(index)} {why}. "
            "Load the whole model instead."
        )

    def _name(self, index: int) -> str:
        return self._chain[index].name if index < len(self._chain) else "the end of the network"


class _Enough(BaseException):
    """Ends a call of which nothing more is wanted; no `Exception`, so that no network handles it."""


class _Contents:
    """What the arguments of a call hold before it."""

    def __init__(self, given: Arguments, *, besides: Tensor) -> None:
        self._leaves = _leaves(given)
        held = [leaf for parts in self._leaves.values() for leaves in parts.values() for leaf in leaves]
        self._versions = [(t, t._version) for t in tensors_of(held) if t is not besides]

    def entries(self, given: Arguments) -> dict[Any, dict[Any, Any]] | None:
        """Return the new entries of mappings after the call; None if anything else has changed."""
        if any(tensor._version != version for tensor, version in self._versions):
            return None
        found: dict[Any, dict[Any, Any]] = {}
        for name, parts in _leaves(given).items():
            before = self._leaves[name]
            changed = [key for key, leaves in parts.items() if not _same(leaves, before.get(key))]
            if before.keys() - parts.keys() or (changed and not isinstance(given[name], MutableMapping)):
                return None
            if changed:
                found[name] = {key: given[name][key] for key in changed}
        return found


def tensors_of(tree: Any) -> list[Tensor]:
    """Return the tensors of a structure, or of what a unit returned."""
    tree = (tree.output, tree.entries) if isinstance(tree, Returned) else tree
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _named(given: Arguments) -> Mapping[str, Any]:
    return {str(name): value for name, value in given.items()}


def _leaves(given: Arguments) -> dict[Any, dict[Any, list[Any]]]:
    return {
        name: {key: tree_leaves(part) for key, part in value.items()}
        if isinstance(value, MutableMapping)
        else {None: tree_leaves(value)}
        for name, value in given.items()
    }


def _same(leaves: list[Any], others: list[Any] | None) -> bool:
    return others is not None and len(leaves) == len(others) and all(map(is_, leaves, others))
