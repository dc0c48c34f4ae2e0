"""The convolutions of any network as layers in a row, and which segments of them may become one.

A segment may if, once the activations inside are gone, it is affine and nothing but its input goes in
and nothing but its output comes out: a single-entry single-exit region of the graph. Residual sums inside
belong to it, with the projections on their shortcuts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from shoal.architectures.operations import AFFINE, activation_name
from shoal.architectures.pieces import Piece, Pieces, find_pieces
from shoal.architectures.symbolic import shape_of
from shoal.calling import Inputs
from shoal.errors import UnknownArchitectureError
from shoal.layers import ConvShape, Layer
from shoal.units import Segment

__all__ = ["Convolutions", "Place", "Region", "find_convolutions", "shape_from"]


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """The calls that a segment of layers consists of.

    Attributes:
        segment: The layers.
        piece: The graph.
        entry: What goes in.
        exit: What comes out, before the activation behind it.
        nodes: All calls between, in the order in which they run; the exit is the last.
    """

    segment: Segment
    piece: Piece
    entry: fx.Node
    exit: fx.Node
    nodes: tuple[fx.Node, ...]

    @property
    def boundary(self) -> fx.Node:
        """What an activation behind the region works on: its exit, or the sum that the exit is added to."""
        return _boundary(self.piece, self.exit)

    @property
    def activation(self) -> fx.Node | None:
        """The call of the activation behind the boundary; None for none."""
        return _activation(self.piece, self.boundary)


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolutions:
    """The convolutions of a network.

    Attributes:
        pieces: The graphs in which they stand.
        layers: The convolutions in the order in which they run, projection shortcuts aside.
        places: Where each of them stands.
        projections: Calls of convolutions on shortcuts → the layer at whose end they are added.
        notes: Path of a module → why it takes no part in merging.
    """

    pieces: Pieces
    layers: tuple[Layer, ...]
    places: tuple[Place, ...]
    projections: dict[fx.Node, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @cached_property
    def index(self) -> dict[fx.Node, int]:
        """Call of a convolution → number of its layer."""
        return {place.node: number for number, place in enumerate(self.places)}

    def copy(self) -> Convolutions:
        """Return the same with graphs and modules of its own, so that they can be edited."""
        pieces, nodes = self.pieces.copy()
        standing = {piece.path: piece for piece in pieces.pieces}

        def moved(place: Place) -> Place:
            norm = None if place.norm is None else nodes[place.norm]
            return Place(
                piece=standing[place.piece.path],
                node=nodes[place.node],
                norm=norm,
                entry=nodes[place.entry],
                exit=nodes[place.exit],
            )

        return replace(
            self,
            pieces=pieces,
            places=tuple(map(moved, self.places)),
            projections={nodes[node]: at for node, at in self.projections.items()},
        )

    def shape(self, piece: Piece, node: fx.Node) -> ConvShape:
        """Return the shape of a convolution as it stands in the network, without what follows it."""
        module, before = piece.traced.get_submodule(str(node.target)), piece.operations[node].inputs[0]
        return shape_from(module, (shape_of(before) or ())[2:])  # type: ignore[arg-type]

    def region(self, segment: Segment) -> Region | None:
        """Return the region of a segment that may become one convolution, None where there is none."""
        first, last = self.places[segment.start], self.places[segment.stop - 1]
        if first.piece is not last.piece:
            return None
        inside = self._reachable(first.piece, first.entry, segment)
        exits = list(self._exits(last, inside))
        for exit in reversed(exits):
            nodes = self._between(first.piece, first.entry, exit, inside)
            if self._is_closed(nodes, exit, segment):
                return Region(segment=segment, piece=first.piece, entry=first.entry, exit=exit, nodes=nodes)
        return None

    def regions(self) -> Iterator[Region]:
        """Yield the regions of all segments that may become one convolution, single layers included."""
        for start in range(len(self.layers)):
            for stop in range(start + 1, len(self.layers) + 1):
                segment = Segment(start, stop)
                if len(segment) > 1 and (self.layers[start].apart or self.layers[stop - 1].apart):
                    break
                inside = self._reachable(self.places[start].piece, self.places[start].entry, segment)
                if self.places[stop - 1].node not in inside:
                    # What lies behind cannot be reached either.
                    break
                found = self.region(segment)
                if found is not None:
                    yield found

    def _reachable(self, piece: Piece, entry: fx.Node, segment: Segment) -> set[fx.Node]:
        """The calls that take what goes in, or what such calls put out, and nothing else."""
        inside: set[fx.Node] = set()
        known = {entry}
        begun = False
        for node in piece.traced.graph.nodes:
            begun = begun or node is entry
            operation = piece.operations[node]
            if not begun or operation.kind not in AFFINE | {"activation", "statistics"}:
                continue
            if not operation.inputs or not all(each in known for each in operation.inputs):
                continue
            if operation.kind == "convolution":
                number = self.index.get(node, self.projections.get(node, -1))
                if number not in segment:
                    continue
            inside.add(node)
            known.add(node)
        return inside

    def _exits(self, last: Place, inside: set[fx.Node]) -> Iterator[fx.Node]:
        """The nodes at which a region that ends with this layer may end, the nearest first."""
        node = last.node
        if node not in inside:
            return
        operations = last.piece.operations
        yield node
        while len(node.users) == 1:
            (user,) = node.users
            if user not in inside or operations[user].kind in ("activation", "statistics", "pad", "average"):
                return
            if operations[user].kind == "convolution":
                return
            node = user
            yield node

    def _between(
        self, piece: Piece, entry: fx.Node, exit: fx.Node, inside: set[fx.Node]
    ) -> tuple[fx.Node, ...]:
        """The calls that lead from the entry to the exit."""
        needed, waiting = {exit}, [exit]
        while waiting:
            for each in piece.operations[waiting.pop()].inputs:
                if each is not entry and each not in needed:
                    needed.add(each)
                    waiting.append(each)
        if not needed <= inside:
            return ()
        return tuple(node for node in piece.traced.graph.nodes if node in needed)

    def _is_closed(self, nodes: tuple[fx.Node, ...], exit: fx.Node, segment: Segment) -> bool:
        if not nodes or any(user not in nodes for node in nodes if node is not exit for user in node.users):
            return False
        kinds = {self.places[segment.start].piece.operations[node].kind for node in nodes}
        if "statistics" in kinds and kinds & {"add", "concat"}:
            # Without its norm a branch would weigh otherwise in the sum.
            return False
        return {self.index[node] for node in nodes if node in self.index} == set(segment)


def find_convolutions(model: nn.Module, example: Inputs) -> Convolutions:
    """Return the convolutions of a network, where they stand, and what stays out and why.

    Args:
        model: Any network; it is left as it was found.
        example: What its forward takes.

    Raises:
        DataError: If the network does not run on the example.
        UnknownArchitectureError: If none of its convolutions can be followed; names the reasons.
    """
    pieces = find_pieces(model, example)
    standing = [
        (piece, node)
        for piece in pieces.pieces
        for node in piece.traced.graph.nodes
        if piece.operations[node].kind == "convolution"
    ]
    notes = dict(pieces.untraced) | _notes(pieces)
    if not standing:
        told = "; ".join(f"{path or 'the network'}: {why}" for path, why in notes.items())
        raise UnknownArchitectureError(
            f"asked for the convolutions of {type(model).__name__}: there are none whose calls can be "
            f"followed ({told or 'it has none'}). Networks of Conv1d, Conv2d or Conv3d work whose code does "
            "not depend on the numbers in tensors."
        )
    aside = _projections(standing)
    main = [(piece, node) for piece, node in standing if node not in aside]
    places = [_place(piece, node) for piece, node in main]
    numbers = {node: number for number, (_, node) in enumerate(main)}
    layers = tuple(_layer(number, place) for number, place in enumerate(places))
    for layer in layers:
        if layer.apart:
            notes[layer.name] = layer.apart
    return Convolutions(
        pieces=pieces,
        layers=layers,
        places=tuple(places),
        projections={node: numbers[at] for node, at in aside.items()},
        notes=notes,
    )


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


def _place(piece: Piece, node: fx.Node) -> Place:
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


def _boundary(piece: Piece, exit: fx.Node) -> fx.Node:
    node: fx.Node | None = exit
    while node is not None:
        added = _sole_user(piece, node, "add")
        if added is not None:
            return added
        node = _sole_user(piece, node, "identity")
    return exit


def _activation(piece: Piece, boundary: fx.Node) -> fx.Node | None:
    """The activation behind a boundary, if nothing else takes what comes out; a norm may stand between."""
    node: fx.Node | None = boundary
    while node is not None:
        found = _sole_user(piece, node, "activation")
        if found is not None:
            return found
        between = (_sole_user(piece, node, kind) for kind in ("statistics", "identity", "shift"))
        node = next((each for each in between if each is not None), None)
    return None


def _layer(number: int, place: Place) -> Layer:
    piece, node = place.piece, place.node
    module = piece.traced.get_submodule(str(node.target))
    if not isinstance(module, _ConvNd):
        raise TypeError(f"{node.target} is no convolution")
    before, after = shape_of(place.entry) or (), shape_of(node) or ()
    activation = _activation(piece, _boundary(piece, place.exit))
    shape = shape_from(
        module, before[2:], "" if activation is None else activation_name(piece.traced, activation)
    )
    weight = module.weight.detach()
    folded = weight
    if place.norm is not None:
        norm: Any = piece.traced.get_submodule(str(place.norm.target))
        gamma = 1.0 if norm.weight is None else norm.weight.detach()
        scale = gamma / (norm.running_var + norm.eps).sqrt()
        folded = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    return Layer(
        index=number,
        name=piece.name_of(node),
        shape=shape,
        norm="" if place.norm is None else piece.name_of(place.norm),
        fixed=_why_fixed(shape, before, after),
        apart=_why_apart(place),
        after_resize=_after_resize(place),
        magnitude=float(weight.abs().sum()),
        folded_magnitude=float(folded.abs().mean()),
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
    """Why a layer is merged with no other: it works on one place of the map (squeeze-excite, a head)."""
    sizes = (shape_of(place.node) or ())[2:], (shape_of(place.entry) or ())[2:]
    if all(prod(size) == 1 for size in sizes):
        return "it works on a single place, as the convolutions of squeeze-excite do"
    calls = [node for node in place.piece.traced.graph.nodes if node.target == place.node.target]
    if len(calls) > 1:
        return f"it is used {len(calls)} times (shared weights)"
    return ""


def _after_resize(place: Place) -> bool:
    node, operations = place.entry, place.piece.operations
    while operations[node].kind == "identity":
        node = operations[node].inputs[0]
    return operations[node].kind == "resize"


def _projections(standing: list[tuple[Piece, fx.Node]]) -> dict[fx.Node, fx.Node]:
    """Convolutions on the shortcuts of residual blocks → the last convolution of the block's branch."""
    found: dict[fx.Node, fx.Node] = {}
    for piece, node in standing:
        add = _added_at(piece, node)
        if add is None or node in found.values():
            continue
        source = _place(piece, node).entry
        others = [each for each in piece.operations[add].inputs if not _leads(piece, each, node)]
        if len(others) != 1:
            continue
        branch = _branch(piece, others[0], source)
        if branch and (len(branch) > 1 or _taps(piece, branch[0]) > _taps(piece, node)):
            found[node] = branch[0]
    return found


def _added_at(piece: Piece, node: fx.Node) -> fx.Node | None:
    """The sum that a convolution goes into with no activation between."""
    while len(node.users) == 1:
        (user,) = node.users
        kind = piece.operations[user].kind
        if kind == "add":
            return user
        if kind not in ("norm", "statistics", "identity"):
            return None
        node = user
    return None


def _leads(piece: Piece, node: fx.Node, back: fx.Node) -> bool:
    """Whether a call gives what another one has put out, normed or as it was."""
    while node is not back and piece.operations[node].kind in ("norm", "statistics", "identity"):
        node = piece.operations[node].inputs[0]
    return node is back


def _branch(piece: Piece, node: fx.Node, source: fx.Node) -> list[fx.Node]:
    """The convolutions between a source and a node, the last first; none where no path leads there."""
    seen, waiting, convolutions = {node}, [node], []
    reached = False
    while waiting:
        each = waiting.pop(0)
        if each is source:
            reached = True
            continue
        if piece.operations[each].kind == "convolution":
            convolutions.append(each)
        for before in piece.operations[each].inputs:
            if before not in seen:
                seen.add(before)
                waiting.append(before)
        if len(convolutions) > 64:
            return []
    return convolutions if reached else []


def _taps(piece: Piece, node: fx.Node) -> int:
    return prod(piece.traced.get_submodule(str(node.target)).kernel_size)  # type: ignore[arg-type]


def _notes(pieces: Pieces) -> dict[str, str]:
    """Path of a module → why it takes no part, for convolutions and what stands between them."""
    return {
        piece.name_of(node): piece.operations[node].why
        for piece in pieces.pieces
        for node in piece.traced.graph.nodes
        if node.op == "call_module" and piece.operations[node].why and (shape_of(node) or ())[2:]
    }
