"""Plan + network → the network that is trained, and the one with merged convolutions that it becomes.

The expanded network has the convolutions of the original, without the activations and layers that go;
the zeros around a segment are put at its beginning, and nothing inside is padded. So the merged network
computes the very same.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from shoal.architectures.convolutions import Convolutions
from shoal.architectures.pieces import Piece
from shoal.architectures.symbolic import shape_of
from shoal.errors import SurgeryError
from shoal.steps import Merge
from shoal.surgery.merge import Affine, convolution, fold_norm, to_convolution
from shoal.surgery.rewriting import ENTRY, Pair, Rewrite, Step, as_affine, margins, needed_by, rewrite

__all__ = ["expand_", "merge_", "rewritten"]


def rewritten(convolutions: Convolutions, step: Merge) -> Rewrite:
    """Return what a step leaves of its segment.

    Raises:
        SurgeryError: If the segment cannot become one convolution.
    """
    region = convolutions.region(step.segment)
    if region is None:
        raise SurgeryError(
            f"asked to rewrite the layers {step.segment}: they are no region with one way in and one way "
            "out. Make a plan for this model."
        )
    return rewrite(convolutions, region, step.kept)


def expand_(convolutions: Convolutions, steps: Sequence[Merge]) -> nn.Module:
    """Return the network to be trained, made in place of the traced copy that `convolutions` holds."""
    edit = _Edit(convolutions)
    found = [(rewritten(convolutions, step), step) for step in steps]
    for each, step in found:
        if step.fused or step.added or each.norm is not None or len(step.segment) > 1 or not step.kept:
            edit.expand(each, step)
    return edit.finish()


def merge_(convolutions: Convolutions, steps: Sequence[Merge]) -> nn.Module:
    """Return the network with merged convolutions and folded batch norms, made in place of the traced
    copy that `convolutions` holds.

    Raises:
        UnitError: If a segment is no single convolution.
    """
    edit = _Edit(convolutions)
    found = [(rewritten(convolutions, step), step) for step in steps]
    for each, step in found:
        if step.fused:
            edit.merge(each, step)
        else:
            edit.expand(each, step)
    edit.fold_norms()
    return edit.finish()


@dataclass(kw_only=True)
class _Writer:
    """Writes the expanded form of a segment into a graph."""

    graph: fx.Graph
    traced: nn.Module
    found: Rewrite
    fused: bool
    values: dict[int, fx.Node] = field(default_factory=dict)

    def write(self, entry: fx.Node, terms: dict[fx.Node, fx.Node]) -> fx.Node:
        """Write all steps, and return the node of the result."""
        self.values = {ENTRY: entry}
        larger = margins(self.found)
        none = ((0, 0),) * self.found.axes
        for number, step in enumerate(self.found.steps):
            margin = larger[number] if self.fused else none
            wanted = needed_by(self.found, step, margin)
            taken = [self._taken(each, wanted, larger, step) for each in step.inputs]
            self.values[number] = getattr(self, f"_{step.kind}")(step, taken, wanted, terms)
        return self.values[self.found.result]

    def _taken(
        self, number: int, wanted: tuple[Pair, ...], larger: dict[int, tuple[Pair, ...]], step: Step
    ) -> fx.Node:
        """What a step takes: the segment's input with zeros around it, or a step's output cropped."""
        node = self.values[number]
        if not self.fused:
            pads = step.kind in ("pad", "convolution", "average")
            return self._padded(node, step.pads) if pads and not self._pads_itself(step, step.pads) else node
        if number == ENTRY:
            return node if self._pads_itself(step, wanted) else self._padded(node, wanted)
        excess = [
            (have - need, more - enough)
            for (have, more), (need, enough) in zip(larger[number], wanted, strict=True)
        ]
        if not any(before or after for before, after in excess):
            return node
        window = [slice(before, -after or None) for before, after in excess]
        return self.graph.call_function(operator.getitem, (node, (slice(None), slice(None), *window)))

    def _pads_itself(self, step: Step, wanted: tuple[Pair, ...]) -> bool:
        return step.kind == "convolution" and all(before == after for before, after in wanted)

    def _padded(self, node: fx.Node, wanted: tuple[Pair, ...]) -> fx.Node:
        if not any(before or after for before, after in wanted):
            return node
        flat = [size for pair in reversed(wanted) for size in pair]
        return self.graph.call_function(F.pad, (node, flat))

    def _convolution(
        self, step: Step, taken: list[fx.Node], wanted: tuple[Pair, ...], terms: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        module = self.found.module(step)
        if not isinstance(module, _ConvNd):
            raise TypeError(f"{step.node.target} is no convolution")
        first = step.inputs[0] == ENTRY or not self.fused
        around = wanted if self.fused else step.pads
        own = (
            [before for before, _ in around]
            if first and self._pads_itself(step, around)
            else [0] * self.found.axes
        )
        module.padding = tuple(own)
        return self.graph.call_module(str(step.node.target), (taken[0],))

    def _norm(
        self, step: Step, taken: list[fx.Node], wanted: tuple[Pair, ...], terms: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        return self.graph.call_module(str(step.node.target), (taken[0],))

    def _average(
        self, step: Step, taken: list[fx.Node], wanted: tuple[Pair, ...], terms: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        pool = copy.copy(self.found.module(step))
        pool.padding = 0  # type: ignore[assignment]
        name = f"{step.node.target}_{step.node.name}"
        self.traced.add_submodule(name, pool)  # type: ignore[operator]
        return self.graph.call_module(name, (taken[0],))

    def _add(
        self, step: Step, taken: list[fx.Node], wanted: tuple[Pair, ...], terms: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        return self.graph.call_function(operator.add, (taken[0], taken[1]))

    def _shift(
        self, step: Step, taken: list[fx.Node], wanted: tuple[Pair, ...], terms: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        (wide,) = self.found.region.piece.operations[step.node].inputs
        (term,) = (each for each in step.node.all_input_nodes if each is not wide)
        return self.graph.call_function(operator.add, (taken[0], terms[term]))

    def _pad(
        self, step: Step, taken: list[fx.Node], wanted: tuple[Pair, ...], terms: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        # The zeros have been put where the segment begins, or just now.
        return taken[0]

    def _concat(
        self, step: Step, taken: list[fx.Node], wanted: tuple[Pair, ...], terms: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        return self.graph.call_function(torch.cat, (list(taken), 1))


class _Edit:
    """The graphs of a network while segments of them are replaced."""

    def __init__(self, convolutions: Convolutions) -> None:
        self.convolutions = convolutions
        self._instead: dict[fx.Node, fx.Node] = {}
        self._rewritten: set[fx.Node] = set()

    def _now(self, node: fx.Node) -> fx.Node:
        while node in self._instead:
            node = self._instead[node]
        return node

    def expand(self, found: Rewrite, step: Merge) -> None:
        """Replace a segment by its expanded form."""
        piece = found.region.piece
        graph = piece.traced.graph
        fused = step.fused
        with graph.inserting_before(found.region.nodes[-1].next):
            writer = _Writer(graph=graph, traced=piece.traced, found=found, fused=fused)
            result = writer.write(self._now(found.region.entry), self._terms(found))
        self._replace(found, result, step)

    def merge(self, found: Rewrite, step: Merge) -> None:
        """Replace a segment by one convolution."""
        piece = found.region.piece
        if found.result == ENTRY:
            self._replace(found, self._now(found.region.entry), step)
            return
        merged = as_affine(found)
        name = str(found.convolutions[0].node.target)
        like = next(found.module(found.convolutions[0]).parameters())
        module = to_convolution(merged.affine, padding=merged.padding, dtype=like.dtype)
        piece.traced.set_submodule(name, module.to(like.device))
        graph = piece.traced.graph
        with graph.inserting_before(found.region.nodes[-1].next):
            result = graph.call_module(name, (self._now(found.region.entry),))
            for number, (term, matrix) in enumerate(merged.shifts.items()):
                result = self._shifted(
                    piece, f"{name}_shift{number or ''}", result, self._now(term), matrix.to(like)
                )
        self._replace(found, result, step)

    def _shifted(
        self, piece: Piece, name: str, node: fx.Node, term: fx.Node, matrix: torch.Tensor
    ) -> fx.Node:
        """Add a term that is the same at every place, led through a matrix; a linear layer takes it in."""
        graph, linear = piece.traced.graph, _linear_behind(piece, term)
        if linear is None:
            axes = len(shape_of(term) or ()) - 2
            kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
            through = kind(matrix.shape[1], matrix.shape[0], 1, bias=False)
            through.weight = nn.Parameter(matrix.reshape(*matrix.shape, *[1] * axes))
            piece.traced.add_submodule(name, through)
            term = graph.call_module(name, (term,))
        else:
            wide = matrix.double()
            linear.weight = nn.Parameter((wide @ linear.weight.detach().double()).to(matrix.dtype))
            if linear.bias is not None:
                linear.bias = nn.Parameter((wide @ linear.bias.detach().double()).to(matrix.dtype))
            linear.out_features = len(matrix)
        return graph.call_function(operator.add, (node, term))

    def _terms(self, found: Rewrite) -> dict[fx.Node, fx.Node]:
        return {each: self._now(each) for step in found.steps for each in step.node.all_input_nodes}

    def _replace(self, found: Rewrite, result: fx.Node, step: Merge) -> None:
        """Let what took a segment's output take the result, with the norm and activation that are due."""
        region, piece = found.region, found.region.piece
        graph = piece.traced.graph
        if found.norm is not None and found.kept and not _is_normed(piece, region.exit):
            result = self._with_norm(found, result)
        bend = region.activation
        boundary = region.boundary
        region.exit.replace_all_uses_with(result)
        self._instead[region.exit] = result
        for node in reversed(region.nodes):
            graph.erase_node(node)
        self._rewritten.update(region.nodes)
        alone = bend is not None and boundary is region.exit and bend.args[:1] == (result,)
        if bend is not None and alone and found.result == ENTRY and not step.kept:
            # Nothing has been bent anew.
            bend.replace_all_uses_with(result)
            self._instead[bend] = result
            graph.erase_node(bend)
        if step.added and found.bend is not None:
            self._bend(piece, self._now(boundary), found.bend)

    def _with_norm(self, found: Rewrite, result: fx.Node) -> fx.Node:
        piece = found.region.piece
        channels = (shape_of(found.region.exit) or (0, 0))[1]
        like = next(found.module(found.convolutions[0]).parameters())
        norm = nn.GroupNorm(32 if channels % 32 == 0 else channels, channels).to(like)
        name = f"{found.convolutions[0].node.target}_norm"
        piece.traced.add_submodule(name, norm)
        with piece.traced.graph.inserting_after(result):
            return piece.traced.graph.call_module(name, (result,))

    def _bend(self, piece: Piece, boundary: fx.Node, like: fx.Node) -> None:
        """Put an activation of the kind of one that went behind a node."""
        graph = piece.traced.graph
        with graph.inserting_after(boundary):
            if like.op == "call_module":
                module = copy.deepcopy(piece.traced.get_submodule(str(like.target)))
                if "inplace" in vars(module):
                    vars(module)["inplace"] = False
                name = f"{boundary.name}_activation"
                piece.traced.add_submodule(name, module)
                bent = graph.call_module(name, (boundary,))
            else:
                put = dict.fromkeys(like.all_input_nodes, boundary)
                bent = graph.node_copy(like, lambda each: put.get(each, each))
        boundary.replace_all_uses_with(bent, delete_user_cb=lambda user: user is not bent)
        self._instead[boundary] = bent

    def fold_norms(self) -> None:
        """Fold the batch norms behind all other convolutions."""
        for piece in self.convolutions.pieces.pieces:
            for node in list(piece.traced.graph.nodes):
                if node.op != "call_module" or len(node.users) != 1:
                    continue
                (user,) = node.users
                if piece.operations.get(node, _NOTHING).kind != "convolution":
                    continue
                if piece.operations.get(user, _NOTHING).kind != "norm":
                    continue
                module = piece.traced.get_submodule(str(node.target))
                affine = fold_norm(
                    convolution(module, dtype=torch.float64), piece.traced.get_submodule(str(user.target))
                )
                piece.traced.set_submodule(str(node.target), _like(module, affine))
                user.replace_all_uses_with(node)
                self._instead[user] = node
                piece.traced.graph.erase_node(user)

    def finish(self) -> nn.Module:
        """Return the edited network; blocks that have lost all layers of a branch lose the branch."""
        for piece in self.convolutions.pieces.pieces:
            for node in list(piece.traced.graph.nodes):
                operation = piece.operations.get(node, _NOTHING)
                if operation.kind == "add" and node not in self._rewritten:
                    self._drop_branch(piece, node, operation.inputs)
        return self.convolutions.pieces.assemble()

    def _was_emptied(self, piece: Piece, node: fx.Node) -> bool:
        """Whether a branch ended in layers that have gone."""
        while piece.operations[node].kind in _LIGHT and node not in self._rewritten:
            node = piece.operations[node].inputs[0]
        return node in self._rewritten

    def _drop_branch(self, piece: Piece, add: fx.Node, before: tuple[fx.Node, ...]) -> None:
        first, second = (self._now(each) for each in before)
        for branch, skip, original in ((first, second, before[0]), (second, first, before[1])):
            # The shortcut is what went into the branch, or a projection of it.
            projected = _source(piece, skip, through=("convolution", "norm", "pad"))
            back = (_source(piece, branch, until=source) is source for source in (skip, projected))
            if self._was_emptied(piece, original) and any(back):
                add.replace_all_uses_with(skip)
                self._instead[add] = skip
                piece.traced.graph.erase_node(add)
                return


class _Nothing:
    kind = ""
    inputs = ()


_NOTHING = _Nothing()


def _like(module: nn.Module, affine: Affine) -> nn.Module:
    """The convolution of a folded map, with the padding, dtype and device of the one that it was."""
    if not isinstance(module, _ConvNd):
        raise TypeError(f"{type(module).__name__} is no convolution")
    folded = copy.copy(module)
    folded._parameters = dict(module._parameters)
    folded.weight = nn.Parameter(affine.weight.to(module.weight))
    folded.bias = nn.Parameter(affine.bias.to(module.weight))
    return folded


_LIGHT = ("norm", "statistics", "activation", "identity", "shift")


def _source(
    piece: Piece, node: fx.Node, *, through: tuple[str, ...] = _LIGHT, until: fx.Node | None = None
) -> fx.Node:
    """The node that is reached by going back through calls of these kinds."""
    while node is not until and piece.operations.get(node, _NOTHING).kind in through:
        node = next(iter(node.all_input_nodes))
    return node


def _is_normed(piece: Piece, exit: fx.Node) -> bool:
    users = list(exit.users)
    return len(users) == 1 and piece.operations[users[0]].kind == "statistics"


def _linear_behind(piece: Piece, term: fx.Node) -> nn.Linear | None:
    """The linear layer that a term comes from, through nothing but new axes, if only it takes it."""
    node = term
    while node.target in (operator.getitem, torch.unsqueeze, "unsqueeze"):
        if len(node.users) > 1 or not isinstance(node.args[0], fx.Node):
            return None
        if node.target is operator.getitem and not _only_adds_axes(node.args[1]):
            return None
        node = node.args[0]
    if node.op != "call_module" or len(node.users) > 1:
        return None
    module = piece.traced.get_submodule(str(node.target))
    calls = [each for each in piece.traced.graph.nodes if each.target == node.target]
    return module if isinstance(module, nn.Linear) and len(calls) == 1 else None


def _only_adds_axes(index: object) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part == slice(None) or part is Ellipsis for part in parts)
