"""Where the convolutions of a network stand in its graphs, and what belongs to each of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx
from torch.nn.modules.conv import _ConvNd

from shoal.architectures.operations import activation_name
from shoal.architectures.pieces import Piece
from shoal.architectures.symbolic import shape_of
from shoal.layers import ConvShape, Layer

__all__ = [
    "Place",
    "activation_behind",
    "boundary_of",
    "is_pooled",
    "layer_at",
    "place_of",
    "shape_from",
    "why_shared",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """Where a layer stands.

    Attributes:
        piece: The graph.
        node: The call of the convolution.
        norm: The call of its batch norm; None for none.
        entry: What goes into the layer, before zeros are put around it.
        exit: What comes out, before its activation.
    """

    piece: Piece
    node: fx.Node
    norm: fx.Node | None
    entry: fx.Node
    exit: fx.Node


def place_of(piece: Piece, node: fx.Node) -> Place:
    """Return the place of a convolution that is called."""
    operations = piece.operations
    entry = operations[node].inputs[0]
    while operations[entry].kind == "pad" and len(entry.users) == 1:
        entry = operations[entry].inputs[0]
    norm = _sole_user(piece, node, "norm")
    return Place(piece=piece, node=node, norm=norm, entry=entry, exit=norm or node)


def _sole_user(piece: Piece, node: fx.Node, kind: str) -> fx.Node | None:
    if len(node.users) != 1:
        return None
    (user,) = node.users
    return user if piece.operations[user].kind == kind else None


def is_pooled(piece: Piece, node: fx.Node) -> bool:
    """Return whether a convolution works on what is left of a map that was pooled to a single place."""
    while prod((shape_of(node) or ())[2:]) == 1:
        operation = piece.operations[node]
        if not operation.inputs:
            return False
        node = operation.inputs[0]
        if prod((shape_of(node) or ())[2:]) > 1:
            return operation.kind != "convolution"
    return False


def boundary_of(piece: Piece, exit: fx.Node) -> fx.Node:
    """Return what an activation behind an exit works on: the exit, or the sum that it is added to."""
    node: fx.Node | None = exit
    while node is not None:
        added = _sole_user(piece, node, "add")
        if added is not None:
            return added
        node = _sole_user(piece, node, "identity")
    return exit


def activation_behind(piece: Piece, boundary: fx.Node) -> fx.Node | None:
    """Return the activation behind a boundary if nothing else takes what comes out, a norm aside."""
    node: fx.Node | None = boundary
    while node is not None:
        found = _sole_user(piece, node, "activation")
        if found is not None:
            return found
        between = (_sole_user(piece, node, kind) for kind in ("statistics", "identity", "shift"))
        node = next((each for each in between if each is not None), None)
    return None


def layer_at(place: Place, index: int) -> Layer:
    """Return the layer of this number that stands in a place."""
    piece, node = place.piece, place.node
    module = piece.traced.get_submodule(str(node.target))
    if not isinstance(module, _ConvNd):
        raise TypeError(f"{node.target} is no convolution")
    before, after = shape_of(place.entry) or (), shape_of(node) or ()
    activation = activation_behind(piece, boundary_of(piece, place.exit))
    # With the zeros that are put before it: they are not in its own padding.
    size = (shape_of(piece.operations[node].inputs[0]) or ())[2:]
    shape = shape_from(module, size, "" if activation is None else activation_name(piece.traced, activation))
    weight = module.weight.detach()
    folded = weight
    if place.norm is not None:
        norm: Any = piece.traced.get_submodule(str(place.norm.target))
        gamma = 1.0 if norm.weight is None else norm.weight.detach()
        scale = gamma / (norm.running_var + norm.eps).sqrt()
        folded = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    return Layer(
        index=index,
        name=piece.name_of(node),
        shape=shape,
        norm="" if place.norm is None else piece.name_of(place.norm),
        fixed=_why_fixed(shape, before, after),
        apart=_why_apart(place),
        after_resize=_after_resize(place),
        magnitude=float(weight.abs().sum(dtype=torch.float64)),
        folded_magnitude=float(folded.abs().mean(dtype=torch.float64)),
    )


def _why_fixed(shape: ConvShape, before: tuple[int, ...], after: tuple[int, ...]) -> str:
    if shape.in_channels != shape.out_channels:
        return f"it makes {shape.out_channels} channels of {shape.in_channels}"
    if set(shape.stride) != {1}:
        return f"it has stride {max(shape.stride)}"
    if before[2:] != after[2:]:
        return f"it changes the size of the map from {before[2:]} to {after[2:]}"
    return ""


def _why_apart(place: Place) -> str:
    """Why a layer is merged with no other."""
    if is_pooled(place.piece, place.node):
        return "it works on a single place, as the convolutions of squeeze-excite do"
    return why_shared(place.piece, place.node)


def why_shared(piece: Piece, node: fx.Node) -> str:
    """Return why a convolution that is called must stay as it is, since others use its weights; empty where
    none do.
    """
    traced, name = piece.traced, str(node.target)
    calls = [each for each in traced.graph.nodes if (each.op, each.target) == (node.op, node.target)]
    if len(calls) > 1:
        return f"it is used {len(calls)} times (shared weights)"
    if piece.reads(traced.get_submodule(name)):
        return "its weights are read elsewhere"
    weight = traced.get_submodule(name).weight
    owners = (path for path, each in traced.named_modules() if each._parameters.get("weight") is weight)
    other = next((path for path in owners if path != name), None)
    return f"it shares its weights with {other}" if other else ""


def _after_resize(place: Place) -> bool:
    node, operations = place.entry, place.piece.operations
    while operations[node].kind == "identity":
        node = operations[node].inputs[0]
    return operations[node].kind == "resize"


def shape_from(module: _ConvNd, in_size: tuple[int, ...], activation: str = "") -> ConvShape:
    """Return the shape of a convolution that is given maps of this size."""
    axes = module.weight.dim() - 2
    return ConvShape(
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        padding=_padding(module, axes),
        groups=module.groups,
        in_size=in_size,
        activation=activation,
    )


def _padding(module: _ConvNd, axes: int) -> tuple[tuple[int, int], ...]:
    """Zeros before and after, a pair an axis."""
    if not isinstance(module.padding, str):
        return tuple((int(p), int(p)) for p in module.padding)
    if module.padding == "valid":
        return ((0, 0),) * axes
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return tuple((total // 2, total - total // 2) for total in reach)
