"""The expanded form of a segment, written into a graph: what is left of it, with zeros only at its start."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from shoal.surgery.rewriting import ENTRY, Pair, Rewrite, Step, margins, needed_by

__all__ = ["Writer"]


@dataclass(kw_only=True)
class Writer:
    """Writes the expanded form of a segment into a graph.

    Attributes:
        graph: The graph; nodes are put where it inserts now.
        traced: The module that holds the graph's modules; convolutions get other paddings in place.
        found: What is left of the segment.
        moved: Whether all zeros are put where the segment begins; otherwise they stay where they were.
        kinds: The kinds of the nodes that were written, as `Operation.kind`.
    """

    graph: fx.Graph
    traced: nn.Module
    found: Rewrite
    moved: bool
    kinds: dict[fx.Node, str] = field(default_factory=dict)

    def write(self, entry: fx.Node, terms: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """Write all steps, and return the node of the result.

        Args:
            entry: What goes in.
            terms: What is added inside, as it was called when the network was traced → as it is now.
        """
        found, none = self.found, ((0, 0),) * self.found.axes
        larger = margins(found) if self.moved else dict.fromkeys(range(len(found.steps)), none)
        values = {ENTRY: entry}
        for number, step in enumerate(found.steps):
            wanted = needed_by(found, step, larger[number])
            if step.kind == "convolution":
                self._set_padding(step, wanted)
            taken = []
            for each in step.inputs:
                pads = wanted if each == ENTRY or not self.moved else None
                node = values[each]
                taken.append(
                    self._cropped(node, larger[each], wanted)
                    if pads is None
                    else self._padded(node, step, pads)
                )
            values[number] = self._call(step, taken, terms)
            self.kinds.setdefault(values[number], step.kind)
        return values[found.result]

    def _set_padding(self, step: Step, wanted: tuple[Pair, ...]) -> None:
        """Let a convolution pad its input by itself where it can and has to."""
        module: Any = self.found.module(step)
        first = step.inputs[0] == ENTRY or not self.moved
        module.padding = tuple(before if first and _is_even(wanted) else 0 for before, _ in wanted)

    def _padded(self, node: fx.Node, step: Step, wanted: tuple[Pair, ...]) -> fx.Node:
        if (step.kind == "convolution" and _is_even(wanted)) or not any(map(any, wanted)):
            return node
        flat = [size for pair in reversed(wanted) for size in pair]
        return self.graph.call_function(F.pad, (node, flat))

    def _cropped(self, node: fx.Node, have: tuple[Pair, ...], wanted: tuple[Pair, ...]) -> fx.Node:
        excess = [(a - c, b - d) for (a, b), (c, d) in zip(have, wanted, strict=True)]
        if not any(map(any, excess)):
            return node
        window = [slice(before, -after or None) for before, after in excess]
        return self.graph.call_function(operator.getitem, (node, (slice(None), slice(None), *window)))

    def _call(self, step: Step, taken: list[fx.Node], terms: Mapping[fx.Node, fx.Node]) -> fx.Node:
        if step.kind == "pad":
            # Its zeros have been put where the segment begins, or just now.
            return taken[0]
        if step.kind == "add":
            return self.graph.call_function(operator.add, (taken[0], taken[1]))
        if step.kind == "shift":
            return self.graph.call_function(operator.add, (taken[0], terms[self.found.term(step)]))
        if step.kind == "concat":
            return self.graph.call_function(torch.cat, (taken, 1))
        name = str(step.node.target)
        if step.kind == "average":
            pool: Any = copy.copy(self.found.module(step))
            pool.padding, name = 0, f"{name}_{step.node.name}"
            self.traced.add_submodule(name, pool)  # type: ignore[operator]
        return self.graph.call_module(name, (taken[0],))


def _is_even(pads: tuple[Pair, ...]) -> bool:
    """Whether as many zeros stand before as behind."""
    return all(before == after for before, after in pads)
