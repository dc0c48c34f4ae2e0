"""From a network to the graphs of its parts: the whole where its code can be followed, else the largest
modules of it that can.

What cannot be followed is said, with the reason; the graphs are proved to answer as the modules do.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from shoal.architectures.operations import Operation, classify
from shoal.architectures.plain import has_convolution, take_apart_
from shoal.architectures.symbolic import Untraceable, trace_module
from shoal.architectures.trials import FAILURES, check_runs
from shoal.calling import Inputs, device_of, evaluating, to_device

__all__ = ["Piece", "Pieces", "find_pieces"]


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

    def name_of(self, node: fx.Node) -> str:
        """Return the dotted path, in the network as it came, of the module that a node calls."""
        return self.names[str(node.target)]


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
    copied = copy.deepcopy(model).eval()
    parts = take_apart_(copied)
    example = to_device(example, device_of(model))
    with _watching(copied) as seen:
        check_runs(copied, example)
    search = _Search(model=copied, parts=parts, seen=seen)
    search.visit("", copied)
    order = {path: number for number, path in enumerate(seen)}
    found = sorted(search.pieces, key=lambda piece: order[piece.path])
    return Pieces(model=copied, pieces=tuple(found), untraced=search.untraced)


@dataclass(kw_only=True)
class _Call:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    times: int = 1

    def inputs(self, times: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return copies of the arguments, the batch repeated: modules may overwrite what they are given."""
        tensors = [each for each in tree_leaves((self.args, self.kwargs)) if isinstance(each, Tensor)]
        batch = next((len(each) for each in tensors if each.dim()), 0)

        def given(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.cat([value] * times) if value.dim() and len(value) == batch else value.clone()

        return tree_map(given, self.args), tree_map(given, self.kwargs)


@contextmanager
def _watching(model: nn.Module) -> Iterator[dict[str, _Call]]:
    """Note, by path and in the order in which they are entered, how modules with convolutions are called."""
    seen: dict[str, _Call] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path in seen:
                seen[path].times += 1
                return
            args, kwargs = _Call(args=args, kwargs=dict(kwargs)).inputs()
            seen[path] = _Call(args=args, kwargs=kwargs)

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
    seen: dict[str, _Call]
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

    def _trace(self, path: str, module: nn.Module, noted: _Call) -> None:
        root = nn.Sequential(module).eval() if isinstance(module, _ConvNd) else module
        whole: dict[nn.Module, str] = {}
        while True:
            try:
                traced = trace_module(root, *noted.inputs(), whole=list(whole))
                _check_same(root, traced, noted)
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


def _check_same(module: nn.Module, traced: fx.GraphModule, noted: _Call) -> None:
    """Check that a graph answers as its module, for the inputs as they are and for twice the batch."""
    for times in (1, 2):
        with evaluating(module), torch.no_grad():
            args, kwargs = noted.inputs(times)
            try:
                expected = module(*args, **kwargs)
            except FAILURES:
                # It takes this many samples and no others.
                continue
            args, kwargs = noted.inputs(times)
            try:
                found = traced(*args, **kwargs)
            except FAILURES as error:
                raise Untraceable("", f"what it does depends on the batch size ({error})") from error
        (ours, structure), (theirs, other) = _flat(found), _flat(expected)
        if structure != other:
            raise Untraceable("", f"what it returns ({type(expected).__name__}) cannot be written down")
        if not all(map(_equal, ours, theirs)):
            raise Untraceable(
                "", "its calls, replayed, answer otherwise (it depends on the batch size or on chance)"
            )


def _flat(value: Any) -> tuple[list[Any], list[Any]]:
    """What is in a structure, dataclasses included, and the structure."""
    leaves, spec = tree_flatten(value)
    found: list[Any] = []
    structure: list[Any] = [spec]
    for leaf in leaves:
        if is_dataclass(leaf) and not isinstance(leaf, type):
            inner, inside = _flat(vars(leaf))
            found += inner
            structure += [type(leaf), inside]
        else:
            found.append(leaf)
            structure.append(type(leaf))
    return found, structure


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        # Types have been compared; what else an object holds is its own matter.
        return not isinstance(one, (bool, int, float, str)) or bool(one == other)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    small = 64 * torch.finfo(torch.float32).eps
    scale = float(other.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(one, other, rtol=small, atol=small * scale, equal_nan=True)
