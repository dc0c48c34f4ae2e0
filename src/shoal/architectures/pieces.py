"""From a network to the graphs of its parts: the whole where its code can be followed, else the largest
modules of it that can.

What cannot be followed is said, with the reason; the graphs are proved to answer as the modules do.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from shoal.architectures.bypassing import uncompiled
from shoal.architectures.operations import Operation, classify
from shoal.architectures.plain import has_convolution, take_apart_
from shoal.architectures.replays import Call, answers_alike, check_same, hold_sizes_
from shoal.architectures.symbolic import Untraceable, trace_module
from shoal.architectures.trials import FAILURES, check_runs
from shoal.calling import Inputs, call, device_of, evaluating, to_device

__all__ = ["Piece", "Pieces", "find_pieces"]

# Share by which a network's answers may differ where it is norms of nearly nothing that magnify rounding.
_MAGNIFIED = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A module of the network as a graph of calls.

    Attributes:
        path: Dotted path of the module; empty for the whole network.
        traced: The graph; it shares parameters and submodules with the network.
        operations: What each of its nodes does.
        names: Target of a module in the graph → its dotted path in the network as it came.
    """

    path: str
    traced: fx.GraphModule
    operations: dict[fx.Node, Operation]
    names: dict[str, str]

    def reads(self, module: nn.Module) -> bool:
        """Return whether the graph takes a module's weights besides calling it: they must not change."""
        nodes = [node for node in self.traced.graph.nodes if node.op == "get_attr"]
        asked = [node for node in nodes if not all(_asks_for_kind(user, node) for user in node.users)]
        read = {id(operator.attrgetter(str(node.target))(self.traced)) for node in asked}
        return any(id(each) in read for each in module.parameters(recurse=False))

    def name_of(self, node: fx.Node) -> str:
        """Return the dotted path, in the network as it came, of the module that a node calls."""
        return self.names[str(node.target)]


def _asks_for_kind(node: fx.Node, tensor: fx.Node) -> bool:
    """Whether a call takes neither the numbers of a tensor nor its shape, but its dtype or device."""
    if node.op == "call_method" and node.target in ("to", "type_as"):
        return node.args[0] is not tensor
    return node.target is getattr and node.args[1] in ("dtype", "device", "is_cuda", "ndim", "layout")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """A network and the graphs of its parts.

    Attributes:
        model: A copy of the network, in evaluation mode, that may be edited.
        pieces: In the order in which they run.
        untraced: Path of a module → why its code could not be followed.
    """

    model: nn.Module
    pieces: tuple[Piece, ...]
    untraced: dict[str, str] = field(default_factory=dict)

    def copy(self) -> tuple[Pieces, dict[fx.Node, fx.Node]]:
        """Return the same with modules and graphs of its own, and every node's copy."""
        memo: dict[int, Any] = {}
        model = copy.deepcopy(self.model, memo)
        nodes: dict[fx.Node, fx.Node] = {}
        pieces = []
        for piece in self.pieces:
            graph = fx.Graph()
            mine: dict[fx.Node, fx.Node] = {}
            result = graph.graph_copy(piece.traced.graph, mine)
            graph.output(result)
            held = {
                str(node.target): copy.deepcopy(operator.attrgetter(str(node.target))(piece.traced), memo)
                for node in piece.traced.graph.nodes
                if node.op in ("call_module", "get_attr")
            }
            traced = fx.GraphModule(held, graph, class_name=type(piece.traced).__name__)
            output = next(node for node in piece.traced.graph.nodes if node.op == "output")
            mine[output] = next(node for node in graph.nodes if node.op == "output")
            nodes |= mine
            operations = {mine[node]: each.moved(mine) for node, each in piece.operations.items()}
            pieces.append(replace(piece, traced=traced.train(piece.traced.training), operations=operations))
        return replace(self, model=model, pieces=tuple(pieces)), nodes

    def state(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by the names that they bear once the graphs are in place."""
        held: dict[str, Tensor] = {}
        for path, module in (("", self.model), *((piece.path, piece.traced) for piece in self.pieces)):
            for name, value in module.state_dict(keep_vars=True).items():
                held[f"{path}.{name}".lstrip(".")] = value
        return held

    def assemble(self) -> nn.Module:
        """Return the copy of the network with the graphs, as they are now, in the places of their modules."""
        assembled = self.model
        for piece in self.pieces:
            piece.traced.graph.lint()
            piece.traced.recompile()
            piece.traced.delete_all_unused_submodules()
            if piece.path:
                # What stands inside a module that another graph calls is shared with that graph.
                self.model.set_submodule(piece.path, piece.traced)
            else:
                assembled = piece.traced
        return assembled


def find_pieces(model: nn.Module, example: Inputs) -> Pieces:
    """Return the graphs of a network, or of the largest parts of it whose code can be followed.

    Args:
        model: Any network; it is left as it was found.
        example: What its forward takes. Code that asks for shapes is followed as it goes for it.

    Raises:
        DataError: If the network does not run on the example.
    """
    with uncompiled(model) as written:
        copied = copy.deepcopy(written).eval()
    parts = take_apart_(copied)
    example = to_device(example, device_of(model))
    with _watching(copied) as seen:
        check_runs(copied, example)
    search = _Search(model=copied, parts=parts, seen=seen)
    search.visit("", copied)
    order = {path: number for number, path in enumerate(seen)}
    found = sorted(search.pieces, key=lambda piece: order[piece.path])
    pieces = Pieces(model=copied, pieces=tuple(found), untraced=search.untraced)
    return pieces if all(not piece.path for piece in found) else _fitting(pieces, example)


def _fitting(pieces: Pieces, example: Inputs) -> Pieces:
    """The same without graphs that cannot stand where their modules stood: code around them asks for more
    of a module than that it is called.
    """
    with _quietly(pieces.model):
        expected, again = call(pieces.model, example), call(pieces.model, example)
    by_chance = not answers_alike(again, expected)

    def misfit(some: tuple[Piece, ...]) -> str:
        assembled = replace(pieces, pieces=some).copy()[0].assemble()
        try:
            with _quietly(assembled):
                found = call(assembled, example)
        except FAILURES as error:
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        same = by_chance or answers_alike(found, expected, _MAGNIFIED)
        return "" if same else "the network answers otherwise"

    if not misfit(pieces.pieces):
        return pieces
    kept: tuple[Piece, ...] = ()
    untraced = dict(pieces.untraced)
    for piece in pieces.pieces:
        if why := misfit((*kept, piece)):
            untraced[piece.path] = f"the code around it asks for more than its calls ({why})"
        else:
            kept += (piece,)
    return replace(pieces, pieces=kept, untraced=untraced)


@contextmanager
def _quietly(model: nn.Module) -> Iterator[None]:
    # A graph that fails says so on stderr, besides.
    with evaluating(model), torch.no_grad(), redirect_stderr(StringIO()):
        yield


@contextmanager
def _watching(model: nn.Module) -> Iterator[dict[str, Call]]:
    """Note, by path and in the order in which they are entered, how modules with convolutions are called."""
    seen: dict[str, Call] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path in seen:
                seen[path].times += 1
                return
            args, kwargs = Call(args=args, kwargs=dict(kwargs)).inputs()
            seen[path] = Call(args=args, kwargs=kwargs)

        return hook

    with ExitStack() as stack:
        for path, module in model.named_modules():
            if has_convolution(module):
                handle = module.register_forward_pre_hook(note(path), with_kwargs=True, prepend=True)
                stack.callback(handle.remove)
        yield seen


@dataclass(kw_only=True)
class _Search:
    model: nn.Module
    parts: dict[str, str]
    seen: dict[str, Call]
    pieces: list[Piece] = field(default_factory=list)
    untraced: dict[str, str] = field(default_factory=dict)

    def visit(self, path: str, module: nn.Module) -> None:
        """Trace a module, or what is below it."""
        if not has_convolution(module):
            return
        noted = self.seen.get(path)
        if noted is None:
            # A list is never called itself.
            self._descend(path, module)
        elif noted.times > 1:
            self.untraced[path] = f"it is used {noted.times} times (shared weights)"
        else:
            self._trace(path, module, noted)

    def _descend(self, path: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            self.visit(f"{path}.{name}".lstrip("."), child)

    def _trace(self, path: str, module: nn.Module, noted: Call) -> None:
        root = nn.Sequential(module).eval() if isinstance(module, _ConvNd) else module
        whole: dict[nn.Module, str] = {}
        while True:
            try:
                traced = trace_module(root, *noted.inputs(), whole=list(whole))
                check_same(root, traced, noted)
                if root is module:
                    hold_sizes_(root, traced, noted)
                break
            except Untraceable as error:
                blamed = f"{path}.{error.path}".strip(".")
                culprit = root.get_submodule(error.path)
                if has_convolution(culprit):
                    self.untraced[blamed] = error.reason
                if not error.path or culprit in whole:
                    self._descend(path, module)
                    return
                whole[culprit] = blamed
        names = {}
        for node in traced.graph.nodes:
            if node.op == "call_module":
                inner = "" if root is not module else str(node.target)
                full = f"{path}.{inner}".strip(".")
                names[str(node.target)] = self.parts.get(full, full)
        operations = {node: classify(traced, node) for node in traced.graph.nodes}
        self.pieces.append(Piece(path=path, traced=traced, operations=operations, names=names))
        for inside, blamed in whole.items():
            self._descend(blamed, inside)
