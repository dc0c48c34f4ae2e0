"""The graphs of a network while segments of them are replaced, one after the other."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from shoal.architectures.convolutions import Convolutions
from shoal.architectures.pieces import Piece
from shoal.architectures.symbolic import shape_of
from shoal.steps import Merge
from shoal.surgery.affine import convolution, exact_device, fold_norm, to_convolution
from shoal.surgery.aliasing import keep_input_, overwrites
from shoal.surgery.collapsing import as_affine
from shoal.surgery.residuals import left_of_sum
from shoal.surgery.rewriting import ENTRY, Rewrite
from shoal.surgery.shifting import lead_
from shoal.surgery.writing import Writer

__all__ = ["Edit", "Task"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A step of a plan, with what stood behind its segment before anything was edited.

    Attributes:
        step: The step.
        found: What it leaves of the segment.
        boundary: What an activation behind the segment works on.
        bend: That activation; None for none.
    """

    step: Merge
    found: Rewrite
    boundary: fx.Node
    bend: fx.Node | None

    @property
    def layer(self) -> str:
        """Path of the convolution in the graph whose place the merged one takes."""
        return str(self.node.target)

    @property
    def node(self) -> fx.Node:
        """The first convolution that is left, or else the first of the segment."""
        nodes = [step.node for step in self.found.convolutions]
        operations = self.found.region.piece.operations
        nodes += [node for node in self.found.region.nodes if operations[node].kind == "convolution"]
        return nodes[0]

    @property
    def like(self) -> torch.Tensor:
        """A weight of the segment."""
        return next(self.found.region.piece.traced.get_submodule(self.layer).parameters())


class Edit:
    """The graphs of a network while segments of them are replaced."""

    def __init__(self, convolutions: Convolutions) -> None:
        self.pieces = convolutions.pieces
        # Paths of norms and activations that the original has not.
        self.added: set[str] = set()
        self._instead: dict[fx.Node, fx.Node] = {}
        self._through: dict[fx.Node, fx.Node] = {}
        self._gone: set[fx.Node] = set()
        self._bent: set[fx.Node] = set()
        self._kinds = {
            node: each.kind for piece in self.pieces.pieces for node, each in piece.operations.items()
        }
        self._idle = {node for node in self._kinds if not node.users}

    def _now(self, node: fx.Node) -> fx.Node:
        while node in self._instead:
            node = self._instead[node]
        return node

    def expand(self, task: Task) -> None:
        """Replace a segment by its expanded form."""
        found, piece = task.found, task.found.region.piece
        graph = piece.traced.graph
        writer = Writer(graph=graph, traced=piece.traced, found=found, moved=task.step.fused)
        with graph.inserting_before(found.region.exit.next):
            terms = {term: self._now(term) for term in found.terms}
            result = writer.write(self._now(found.region.entry), terms)
        self._kinds = writer.kinds | self._kinds
        self._replace(task, result)

    def merge(self, task: Task) -> None:
        """Replace a segment by one convolution."""
        found, piece, name = task.found, task.found.region.piece, task.layer
        result = self._now(found.region.entry)
        if found.result != ENTRY:
            like, merged, graph = task.like, as_affine(found), piece.traced.graph
            module = to_convolution(merged.affine, padding=merged.padding, dtype=like.dtype)
            module.requires_grad_(self._is_trained(task))
            piece.traced.set_submodule(name, module.to(like.device))
            with graph.inserting_before(found.region.exit.next):
                result = graph.call_module(name, (result,))
                for number, (term, matrix) in enumerate(merged.shifts.items()):
                    path = f"{name}_shift{number or ''}"
                    led = lead_(piece, term, self._now(term), matrix, name=path, like=like)
                    result = graph.call_function(torch.add, (result, led))
        self._replace(task, result)

    def _replace(self, task: Task, result: fx.Node) -> None:
        """Let what took a segment's output take the result, with the norm and activation that are due."""
        found, region = task.found, task.found.region
        piece, empty = region.piece, task.found.result == ENTRY
        if found.norm is not None and not empty and not _is_normed(piece, region.exit):
            result = self._with_norm(task, result)
        self._give_instead(piece, region.exit, result)
        if task.step.added and found.bend is not None and task.boundary not in self._bent:
            self._bent.add(task.boundary)
            self._bend(task, self._now(task.boundary), found.bend)
        if empty:
            self._through[region.exit] = region.entry
        for node in reversed(region.nodes):
            piece.traced.graph.erase_node(node)
        self._gone.update(region.nodes)
        if empty and task.bend is not None and result in task.bend.all_input_nodes:
            # Nothing has been bent anew.
            self._give_instead(piece, task.bend, result)
            piece.traced.graph.erase_node(task.bend)
            self._gone.add(task.bend)

    def _is_trained(self, task: Task) -> bool:
        """Whether one of the convolutions of which a merged one is made is no frozen one."""
        steps = task.found.convolutions
        weights: list[torch.Tensor] = [
            each for step in steps for each in task.found.module(step).parameters()
        ]
        return any(each.requires_grad for each in weights or [task.like])

    def _give_instead(self, piece: Piece, node: fx.Node, result: fx.Node) -> None:
        """Let what took a node's output take another one's."""
        waiting = list(node.users) if result.users else []
        while waiting:
            # Others take the result too.
            user = waiting.pop()
            keep_input_(piece.traced, user)
            waiting += user.users if self._kinds.get(user) == "identity" else ()
        node.replace_all_uses_with(result)
        self._instead[node] = result

    def _with_norm(self, task: Task, result: fx.Node) -> fx.Node:
        piece = task.found.region.piece
        channels = (shape_of(task.found.region.exit) or (0, 0))[1]
        norm = nn.GroupNorm(self._groups(task, channels), channels).to(task.like)
        name = self._add(piece, f"{task.layer}_norm", norm)
        with piece.traced.graph.inserting_after(result):
            return piece.traced.graph.call_module(name, (result,))

    def _groups(self, task: Task, channels: int) -> int:
        """As many groups as the norm that goes has, where channels can be parted so; else one a channel."""
        gone = task.found.region.piece.traced.get_submodule(str(task.found.norm.target))  # type: ignore[union-attr]
        groups = 1 if isinstance(gone, nn.LayerNorm) else getattr(gone, "num_groups", channels)
        return groups if channels % groups == 0 else channels

    def _add(self, piece: Piece, name: str, module: nn.Module) -> str:
        piece.traced.add_submodule(name, module)
        self.added.add(f"{piece.path}.{name}".lstrip("."))
        return name

    def _bend(self, task: Task, boundary: fx.Node, like: fx.Node) -> None:
        """Put an activation of the kind of one that went behind a node."""
        piece = task.found.region.piece
        graph = piece.traced.graph
        with graph.inserting_after(boundary):
            if like.op == "call_module":
                module = copy.deepcopy(piece.traced.get_submodule(str(like.target)))
                name = self._add(piece, f"{task.layer}_activation", module)
                bent = graph.call_module(name, (boundary,))
            else:
                put = dict.fromkeys(like.all_input_nodes[:1], boundary)
                bent = graph.node_copy(like, lambda each: put.get(each, self._now(each)))
        keep_input_(piece.traced, bent)
        boundary.replace_all_uses_with(bent, delete_user_cb=lambda user: user is not bent)
        self._instead[boundary] = bent

    def fold_norms(self) -> None:
        """Fold the batch norms behind all other convolutions."""
        for piece in self.pieces.pieces:
            traced = piece.traced
            calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
            for node in list(traced.graph.nodes):
                user = next(iter(node.users), None)
                if user is None or len(node.users) > 1 or calls[str(node.target)] > 1:
                    # A convolution that is called twice may have two norms.
                    continue
                if (self._kinds.get(node), self._kinds.get(user)) == ("convolution", "norm"):
                    module, norm = (traced.get_submodule(str(each.target)) for each in (node, user))
                    if piece.reads(module):
                        continue
                    folded = _folded(module, norm)
                    traced.set_submodule(str(node.target), folded)
                    user.replace_all_uses_with(node)
                    self._instead[user] = node
                    traced.graph.erase_node(user)

    def finish(self) -> nn.Module:
        """Return the edited network, without branches that have lost all their convolutions."""
        for piece in self.pieces.pieces:
            graph = piece.traced.graph
            for node in list(graph.nodes):
                if self._kinds.get(node) != "add" or node in self._gone or node not in piece.operations:
                    continue
                left = left_of_sum(piece, node, self._through)
                if left is not None:
                    self._through[node] = left
                    self._give_instead(piece, node, self._now(left))
                    graph.erase_node(node)
            self._erase_unused(piece)
        return self.pieces.assemble()

    def _erase_unused(self, piece: Piece) -> None:
        """Take out calls whose results nothing takes any more."""
        for node in reversed(list(piece.traced.graph.nodes)):
            if node.users or node in self._idle or node.op in ("placeholder", "output"):
                continue
            shared = any(len(each.users) > 1 for each in node.all_input_nodes)
            if not (shared and overwrites(piece.traced, node)):
                piece.traced.graph.erase_node(node)


def _folded(module: nn.Module, norm: nn.Module) -> nn.Module:
    """A convolution with the batch norm behind it; padding, dtype and device stay."""
    if not isinstance(module, _ConvNd) or not isinstance(norm, _BatchNorm):
        raise TypeError(f"a {type(module).__name__} and a {type(norm).__name__} cannot be folded")
    device = exact_device(module.weight.device)
    affine = fold_norm(convolution(module, dtype=torch.float64, device=device), norm)
    folded = copy.copy(module)
    folded._parameters = dict(module._parameters)
    bias = next((each for each in (module.bias, norm.bias) if each is not None), module.weight)
    for name, like, value in (("weight", module.weight, affine.weight), ("bias", bias, affine.bias)):
        # The dtype first: not all devices know the wider one.
        value = value.to(module.weight.dtype).to(module.weight.device)
        setattr(folded, name, nn.Parameter(value, requires_grad=like.requires_grad))
    return folded


def _is_normed(piece: Piece, exit: fx.Node) -> bool:
    users = list(exit.users)
    return (
        len(users) == 1 and users[0] in piece.operations and piece.operations[users[0]].kind == "statistics"
    )
