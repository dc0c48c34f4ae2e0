"""The part of a network that stands before a segment, run once for all that is tried with the segment.

A network that is one graph is parted behind the call whose output goes into the segment. What the calls
before have put out and calls behind still take is kept for every batch, as far as memory is allowed. Other
networks are parted at their inputs: there all of the network stands behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from shoal.architectures.convolutions import Convolutions
from shoal.calling import (
    Batch,
    Inputs,
    call,
    check_batches,
    device_of,
    evaluating,
    sample_count,
    split_batch,
    to_device,
)
from shoal.errors import DataError

__all__ = ["Batches", "Cut", "CutBatches", "cut_of", "parted", "whole_network"]

Batches = list[tuple[Inputs, Any]]
"""Inputs and labels of every batch."""


def whole_network(convolutions: Convolutions) -> nn.Module:
    """Return the network as it came, in evaluation mode: its graph where that holds all of it."""
    first = convolutions.pieces.pieces[0]
    return convolutions.pieces.model if first.path else first.traced


def cut_of(convolutions: Convolutions, layer: int) -> str:
    """Return the name of the call whose output goes into a layer; empty where all is not one graph."""
    place = convolutions.places[layer]
    return "" if place.piece.path else place.entry.name


class Cut:
    """A network parted in what comes before a call's output and what takes it.

    Args:
        network: The network as it came.
        entry: Name of the call in its graph; empty to part it at its inputs.
    """

    def __init__(self, network: nn.Module, entry: str = "") -> None:
        self.entry = entry
        self._network = network
        self._live: tuple[str, ...] = ()
        self._before: frozenset[str] = frozenset()
        self._head: nn.Module = nn.Identity()
        if not entry:
            return
        graph = _graph(network)
        before, behind = self._parted(graph)
        self._before = frozenset(node.name for node in before)
        # The feature map comes first: it says how many samples there are.
        used = [each.name for each in before if each.op != "get_attr" and not behind.isdisjoint(each.users)]
        self._live = (entry, *(name for name in used if name != entry))
        head = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in before:
            copies[node] = head.node_copy(node, copies.__getitem__)
        standing = {node.name: copy for node, copy in copies.items()}
        head.output(tuple(standing[name] for name in self._live))
        self._head = fx.GraphModule(network, head)

    def values(self, inputs: Inputs) -> Inputs:
        """Return what the part behind is called with, for these inputs of the network."""
        if not self.entry:
            return inputs
        with evaluating(self._network), torch.no_grad():
            return call(self._head, inputs)

    def behind(self, network: nn.Module) -> nn.Module:
        """Return the part behind of a copy of the network that is edited there; the two share modules."""
        if not self.entry:
            return network
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        # A branch that goes takes calls before the entry, and the entry itself, with it.
        standing = {node.name: node for node in _graph(network).nodes if node.name in self._before}
        for name in self._live:
            placed = graph.placeholder(name)
            if name in standing:
                copies[standing[name]] = placed
        for node in _graph(network).nodes:
            if node.name not in standing or node.op == "get_attr":
                copies[node] = graph.node_copy(node, copies.__getitem__)
        return fx.GraphModule(network, graph, class_name=type(network).__name__).train(network.training)

    def _parted(self, graph: fx.Graph) -> tuple[list[fx.Node], set[fx.Node]]:
        """The calls up to the entry, arguments of the network included, and those behind it."""
        nodes = list(graph.nodes)
        last = max(n for n, node in enumerate(nodes) if node.name == self.entry or node.op == "placeholder")
        return nodes[: last + 1], set(nodes[last + 1 :])


def _graph(network: nn.Module) -> fx.Graph:
    if not isinstance(network, fx.GraphModule):
        raise TypeError(f"{type(network).__name__} is no graph")
    return network.graph


class CutBatches:
    """Batches as what the part behind a cut is called with, and labels; they can be gone through again
    and again.

    Args:
        cut: Where the network is parted.
        batches: Inputs of the network and labels.
        network: Says on which device.
        most_bytes: How much may be kept; the rest is computed anew every time.
    """

    def __init__(
        self, cut: Cut, batches: Sequence[tuple[Inputs, Any]], network: nn.Module, most_bytes: float
    ) -> None:
        self._cut, self._batches, self._device = cut, batches, device_of(network)
        self._kept: dict[int, Any] = {}
        self._room = most_bytes

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        inputs, labels = to_device(self._batches[number], self._device)
        if number in self._kept:
            # Calls behind may overwrite what they are given.
            return _each_tensor(torch.clone, self._kept[number]), labels
        values = self._cut.values(inputs)
        size = sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
        if size <= self._room:
            self._room -= size
            self._kept[number] = _each_tensor(torch.clone, values)
        return values, labels

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return (self[number] for number in range(len(self)))


def _each_tensor(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def parted(batches: Iterable[Batch], tuning: Iterable[Batch] | None, samples: int) -> tuple[Batches, Batches]:
    """Return batches to judge on and others to tune on, as inputs and labels.

    Args:
        batches: To judge on.
        tuning: To tune on; where it is None, every other one of `batches`, or half of a single one.
        samples: The most samples of either.

    Raises:
        DataError: If there are no batches, or one sample for both.

    Example:
        >>> judged, tuned = parted([torch.zeros(4, 2), torch.ones(4, 2)], None, 3)
        >>> [inputs.shape for inputs, _ in judged], [inputs.mean().item() for inputs, _ in tuned]
        ([torch.Size([3, 2])], [1.0])
    """
    if tuning is not None:
        return _most(batches, samples), _most(tuning, samples)
    found = _most(batches, 2 * samples)
    if len(found) > 1:
        return _most(found[0::2], samples), _most(found[1::2], samples)
    count = sample_count(found[0][0])
    if count < 2:
        raise DataError(
            "asked to judge on some samples and to tune on others: there is a single one. Two or more work, "
            "or pass `tuning`."
        )
    return [_rows(found[0], count, slice(count // 2))], [_rows(found[0], count, slice(count // 2, count))]


def _most(batches: Iterable[Batch], samples: int) -> Batches:
    """The first samples, the last batch cut where there are more."""
    found: Batches = []
    with torch.random.fork_rng(devices=[]):
        # A loader that shuffles draws its order.
        for batch in check_batches(batches):
            inputs, labels = split_batch(batch)
            count = sample_count(inputs)
            found.append(_rows((inputs, labels), count, slice(min(count, samples))))
            samples -= count
            if samples <= 0:
                break
    return found


def _rows(tree: Any, count: int, rows: slice) -> Any:
    """Some samples of all tensors that have so many."""

    def few(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count
        return leaf[rows] if batched else leaf

    return tree_map(few, tree)
