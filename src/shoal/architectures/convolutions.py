"""The convolutions of any network as layers in a row, and which segments of them may become one.

A segment may if, once the activations inside are gone, it is affine and nothing but its input goes in
and nothing but its output comes out: a single-entry single-exit region of the graph. Residual sums inside
belong to it, with the projections on their shortcuts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import fx, nn

from shoal.architectures.operations import AFFINE
from shoal.architectures.pieces import Piece, Pieces, find_pieces
from shoal.architectures.places import (
    Place,
    activation_behind,
    boundary_of,
    layer_at,
    place_of,
    shape_from,
    why_shared,
)
from shoal.architectures.projections import find_projections
from shoal.architectures.symbolic import shape_of
from shoal.calling import Inputs
from shoal.errors import UnknownArchitectureError
from shoal.layers import ConvShape, Layer
from shoal.units import Segment

__all__ = ["Convolutions", "Place", "Region", "find_convolutions", "shape_from"]

# Kinds that a region may hold, and kinds with which none ends behind its last convolution.
_INSIDE = AFFINE | {"activation", "statistics"}
_BEHIND = frozenset({"activation", "statistics", "pad", "average", "convolution"})


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
        return boundary_of(self.piece, self.exit)

    @property
    def activation(self) -> fx.Node | None:
        """The call of the activation behind the boundary; None for none."""
        return activation_behind(self.piece, self.boundary)


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

    @cached_property
    def shared(self) -> dict[fx.Node, str]:
        """Call of a convolution, projections included, whose weights others use → why it has to stay as it
        is.
        """
        standing = [(place.piece, place.node) for place in self.places]
        pieces = {node: piece for piece in self.pieces.pieces for node in piece.operations}
        standing += [(pieces[node], node) for node in self.projections]
        found = {node: why_shared(piece, node) for piece, node in standing}
        return {node: why for node, why in found.items() if why}

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
        return self._region(segment, self._needs(segment.start))

    def regions(self) -> Iterator[Region]:
        """Yield the regions of all segments that may become one convolution, single layers included."""
        for start in range(len(self.layers)):
            needs = self._needs(start)
            for stop in range(start + 1, len(self.layers) + 1):
                if stop > start + 1 and (self.layers[start].apart or self.layers[stop - 1].apart):
                    break
                if self.places[stop - 1].node not in needs:
                    # Without it, what lies behind cannot be part of one either.
                    break
                found = self._region(Segment(start, stop), needs)
                if found is not None:
                    yield found

    def _needs(self, start: int) -> dict[fx.Node, int]:
        """Calls that take what goes into a layer, or what such calls put out, and nothing else → the layer
        up to which they need those from that one on.
        """
        place = self.places[start]
        needs = {place.entry: start}
        begun = False
        for node in place.piece.traced.graph.nodes:
            operation = place.piece.operations[node]
            begun = begun or node is place.entry
            if not needs.keys().isdisjoint(operation.overwrites):
                # Behind this call, another map stands in that place.
                break
            if not begun or operation.kind not in _INSIDE or not operation.inputs:
                continue
            if not all(each in needs for each in operation.inputs):
                continue
            last = max(needs[each] for each in operation.inputs)
            if operation.kind == "convolution":
                last = max(last, self.index[node] if node in self.index else self.projections[node])
            needs[node] = last
        del needs[place.entry]
        return needs

    def _region(self, segment: Segment, needs: dict[fx.Node, int]) -> Region | None:
        first, last = self.places[segment.start], self.places[segment.stop - 1]
        inside = {node: None for node, number in needs.items() if number < segment.stop}
        if last.node not in inside:
            return None
        for exit in reversed(list(_exits(last, inside))):
            nodes = _between(first, exit, inside)
            if nodes and self._is_closed(first.piece, nodes, segment):
                return Region(segment=segment, piece=first.piece, entry=first.entry, exit=exit, nodes=nodes)
        return None

    def _is_closed(self, piece: Piece, nodes: tuple[fx.Node, ...], segment: Segment) -> bool:
        """Whether nothing but what the last call puts out is taken elsewhere, and all layers are there."""
        held = set(nodes)
        if any(user not in held for node in nodes[:-1] for user in node.users):
            return False
        kinds = {piece.operations[node].kind for node in nodes}
        if "statistics" in kinds and kinds & {"add", "concat"}:
            # Without its norm a branch would weigh otherwise in the sum.
            return False
        return {self.index[node] for node in nodes if node in self.index} == set(segment)


def _exits(last: Place, inside: Collection[fx.Node]) -> Iterator[fx.Node]:
    """The nodes at which a region that ends with this layer may end, the nearest first."""
    node, operations = last.node, last.piece.operations
    yield node
    while len(node.users) == 1:
        (node,) = node.users
        if node not in inside or operations[node].kind in _BEHIND:
            return
        yield node


def _between(first: Place, exit: fx.Node, inside: Collection[fx.Node]) -> tuple[fx.Node, ...]:
    """The calls that lead from what goes into a layer to the exit; none where others are needed."""
    needed, waiting = {exit}, [exit]
    while waiting:
        for each in first.piece.operations[waiting.pop()].inputs:
            if each not in needed and each is not first.entry:
                if each not in inside:
                    return ()
                needed.add(each)
                waiting.append(each)
    return tuple(node for node in inside if node in needed)


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
    notes = _notes(pieces) | pieces.untraced
    if not standing:
        told = "; ".join(f"{path or 'the network'}: {why}" for path, why in notes.items())
        raise UnknownArchitectureError(
            f"asked for the convolutions of {type(model).__name__}: there are none whose calls can be "
            f"followed ({told or 'it has none'}). Networks of Conv1d, Conv2d or Conv3d work whose code does "
            "not depend on the numbers in tensors."
        )
    aside = find_projections(standing)
    places = [place_of(piece, node) for piece, node in standing if node not in aside]
    numbers = {place.node: number for number, place in enumerate(places)}
    layers = tuple(layer_at(place, number) for number, place in enumerate(places))
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


def _notes(pieces: Pieces) -> dict[str, str]:
    """Path of a module → why it takes no part, for convolutions and what stands between them."""
    return {
        piece.name_of(node): piece.operations[node].why
        for piece in pieces.pieces
        for node in piece.traced.graph.nodes
        if node.op == "call_module" and piece.operations[node].why and (shape_of(node) or ())[2:]
    }
