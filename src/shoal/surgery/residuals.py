"""What is left of a residual sum when one of its branches loses all its convolutions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from shoal.architectures.pieces import Piece

__all__ = ["left_of_sum"]

# What a branch may hold beside convolutions, so that nothing is left of it when these go.
_LIGHT = ("norm", "statistics", "activation", "identity", "shift", "pad")


def left_of_sum(piece: Piece, node: fx.Node, through: Mapping[fx.Node, fx.Node]) -> fx.Node | None:
    """Return the term that is all that is left of a sum, None where both terms are.

    A term goes if all convolutions have gone between it and the place where the two part. So a residual
    block whose branch goes gives what it was given, or its projection, and not twice that.

    Args:
        piece: The graph, as it was traced.
        node: The sum.
        through: Calls that put out what they take → what that is: convolutions that have gone, and sums
            of which one term is left.
    """
    first, second = piece.operations[node].inputs
    if _has_lost_all(piece, first, second, through):
        return second
    return first if _has_lost_all(piece, second, first, through) else None


def _has_lost_all(piece: Piece, term: fx.Node, other: fx.Node, through: Mapping[fx.Node, fx.Node]) -> bool:
    path = [term]
    while path[-1] in through or piece.operations[path[-1]].kind in _LIGHT:
        path.append(through.get(path[-1]) or piece.operations[path[-1]].inputs[0])
    if not any(node in through for node in path):
        return False
    fork = _meeting(piece, path, other)
    return any(node in through for node in path[:fork])


def _meeting(piece: Piece, path: list[fx.Node], other: fx.Node) -> int:
    """How many calls of a path, which goes back, lie behind all that another node comes from; 0 where it
    comes from none of them.
    """
    places = {node: number for number, node in enumerate(path)}
    seen, waiting, fork = {other}, [other], len(path)
    while waiting:
        node = waiting.pop()
        if node in places:
            fork = min(fork, places[node])
            continue
        before = [each for each in piece.operations[node].inputs if each not in seen]
        seen.update(before)
        waiting += before
    return fork if fork < len(path) else 0
