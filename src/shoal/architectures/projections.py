"""Convolutions on the shortcuts of residual blocks: they stand beside the layers, not among them."""

from __future__ import annotations

from math import prod

from torch import fx

from shoal.architectures.pieces import Piece
from shoal.architectures.places import is_pooled

__all__ = ["find_projections"]

_LIGHT = ("norm", "statistics", "identity")


def find_projections(standing: list[tuple[Piece, fx.Node]]) -> dict[fx.Node, fx.Node]:
    """Return the convolutions on shortcuts → the last convolution of the branch that is added to them.

    Args:
        standing: Graphs and the calls of convolutions in them.
    """
    found: dict[fx.Node, fx.Node] = {}
    for piece, node in standing:
        add = _added_at(piece, node)
        if add is None or node in found.values():
            continue
        others = [each for each in piece.operations[add].inputs if not _leads(piece, each, node)]
        if len(others) != 1:
            continue
        depth, last = _branch(piece, _source(piece, node), others[0])
        if last is not None and (depth > 1 or _taps(piece, last) > _taps(piece, node)):
            found[node] = last
    # Branches may be shortcuts beside others.
    return {node: _end(found, node) for node in found}


def _end(found: dict[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    while node in found:
        node = found[node]
    return node


def _source(piece: Piece, node: fx.Node) -> fx.Node:
    """What goes into a shortcut, before it is padded or averaged."""
    source = piece.operations[node].inputs[0]
    while piece.operations[source].kind in ("pad", "average", "identity"):
        source = piece.operations[source].inputs[0]
    return source


def _added_at(piece: Piece, node: fx.Node) -> fx.Node | None:
    """The sum that a convolution goes into with no activation between."""
    while len(node.users) == 1:
        (node,) = node.users
        if piece.operations[node].kind == "add":
            return node
        if piece.operations[node].kind not in _LIGHT:
            return None
    return None


def _leads(piece: Piece, node: fx.Node, back: fx.Node) -> bool:
    """Whether a call gives what another one has put out, normed or as it was."""
    while node is not back and piece.operations[node].kind in _LIGHT:
        node = piece.operations[node].inputs[0]
    return node is back


def _branch(piece: Piece, source: fx.Node, node: fx.Node) -> tuple[int, fx.Node | None]:
    """How many convolutions of maps follow each other at most between a source and a node, and the last
    of them; None where there are none.
    """
    depths: dict[fx.Node, tuple[int, fx.Node | None]] = {source: (0, None)}
    for each in piece.traced.graph.nodes:
        ways = [depths[before] for before in piece.operations[each].inputs if before in depths]
        if not ways or each in depths:
            continue
        depth, last = max(ways, key=lambda way: way[0])
        counts = piece.operations[each].kind == "convolution" and not is_pooled(piece, each)
        depths[each] = (depth + 1, each) if counts else (depth, last)
        if each is node:
            break
    return depths.get(node, (0, None))


def _taps(piece: Piece, node: fx.Node) -> int:
    return prod(piece.traced.get_submodule(str(node.target)).kernel_size)  # type: ignore[arg-type]
