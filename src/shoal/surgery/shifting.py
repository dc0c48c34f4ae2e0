"""Something that was added inside a segment, the same at every place, led to the end of what it has become.

Axes: O = output channels of the segment, C = channels of what is added, F = features of a linear layer.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

from shoal.architectures.pieces import Piece
from shoal.architectures.symbolic import shape_of

__all__ = ["lead_"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def lead_(piece: Piece, term: fx.Node, now: fx.Node, matrix: Tensor, *, name: str, like: Tensor) -> fx.Node:
    """Return a node that puts out a matrix times a term; written where the graph inserts now.

    The linear layer that the term comes from takes the matrix in, if nothing else takes what it puts
    out; otherwise a convolution of one tap is put behind the term.

    Args:
        piece: The graph.
        term: What is added, as it was called when the network was traced.
        now: What it is called by now.
        matrix: `(O, C)`.
        name: Dotted path of the convolution, if there has to be one.
        like: A tensor of its dtype, on its device.
    """
    if matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, torch.eye(len(matrix)).to(matrix)):
        return now
    linear = _linear_behind(piece, now)
    if linear is None:
        axes = len(shape_of(term) or ()) - 2
        through = _CONVOLUTIONS[axes - 1](matrix.shape[1], matrix.shape[0], 1, bias=False, device="meta")
        weight = matrix.reshape(*matrix.shape, *[1] * axes).to(like.dtype).to(like.device)
        through.weight = nn.Parameter(weight, requires_grad=like.requires_grad)
        piece.traced.add_submodule(name, through)
        return piece.traced.graph.call_module(name, (now,))
    for parameter in ("weight", "bias"):
        value = getattr(linear, parameter)
        if value is not None:
            led = matrix @ value.detach().to(matrix.device).to(matrix.dtype)
            led = led.to(value.dtype).to(value.device)
            setattr(linear, parameter, nn.Parameter(led, requires_grad=value.requires_grad))
    linear.out_features = len(matrix)
    return now


def _linear_behind(piece: Piece, node: fx.Node) -> nn.Linear | None:
    """The linear layer that a term comes from, through nothing but new axes, if only it takes it."""
    while node.target in (operator.getitem, torch.unsqueeze, "unsqueeze"):
        if len(node.users) > 1 or not isinstance(node.args[0], fx.Node):
            return None
        if node.target is operator.getitem and not _only_adds_axes(node.args[1]):
            return None
        node = node.args[0]
    if node.op != "call_module" or len(node.users) > 1:
        return None
    module = piece.traced.get_submodule(str(node.target))
    nodes = piece.traced.graph.nodes
    calls = [each for each in nodes if (each.op, each.target) == (node.op, node.target)]
    own = len(calls) == 1 and not piece.reads(module)
    return module if type(module) is nn.Linear and own else None


def _only_adds_axes(index: object) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part == slice(None) or part is Ellipsis for part in parts)
