"""The calls that a module makes while it runs once, as a graph that can be edited: torch.fx with values.

The module runs on real values beside the tracing, so that every node knows its shape, and so that code
which asks for shapes (`if x.shape[-1] > 7`, `assert`, `len`) is followed as it went. What a network does
depending on the numbers in its tensors cannot be traced and is refused.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from shoal.architectures.symbolic_tracer import Tracer, is_proxy
from shoal.architectures.trials import FAILURES
from shoal.errors import ShoalError

__all__ = ["Untraceable", "dtype_of", "overwritten_by", "shape_of", "trace_module"]

_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


class Untraceable(ShoalError):
    """A module whose calls cannot be written down.

    Attributes:
        path: Dotted path, below the module that was traced, of the module whose code cannot.
        reason: Why.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return the shape of what a node of a traced graph puts out, None where it is no tensor."""
    return node.meta.get("shape")


def dtype_of(node: fx.Node) -> torch.dtype | None:
    """Return the dtype of what a node of a traced graph puts out, None where it is no tensor."""
    return node.meta.get("dtype")


def overwritten_by(node: fx.Node) -> tuple[fx.Node, ...]:
    """Return the nodes whose outputs this one writes over although what comes behind it takes them too."""
    found: tuple[fx.Node, ...] = node.meta.get("overwrites", ())
    return found


def trace_module(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, whole: Collection[nn.Module] = ()
) -> fx.GraphModule:
    """Return the module's calls as a graph; the two share parameters and submodules.

    Convolutions are single calls, and so are submodules that hold none, unless they are rows of others or
    hold nothing but norms beside them. In all others the graph follows their code. Training mode, and
    whatever else the code asks of Python objects, is as it is now.

    Args:
        module: The module, in evaluation mode.
        args, kwargs: What its forward is called with. Arguments that are no tensors are fixed.
        whole: Submodules whose code is not followed.

    Raises:
        Untraceable: If the code of the module, or of a submodule, cannot be followed.
    """
    tracer = Tracer(module, args, kwargs, whole)
    with _keeping_attributes(module):
        try:
            with torch.no_grad():
                graph = tracer.trace(module)
        except FAILURES as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            if isinstance(error, fx.proxy.TraceError) and "control flow" in reason:
                reason = "it decides by the numbers in a tensor what it does (dynamic control flow)"
            raise Untraceable(tracer.innermost, reason) from error
        for path, each in module.named_modules():
            if any(is_proxy(value) for value in each._buffers.values()):
                raise Untraceable(path, "it replaces its buffers as it runs")
        _write_shapes(graph)
        _join_swish(module, graph)
        # Pickling would look for the tracer, which needs what is not pickled.
        graph._tracer_cls = None
        traced = fx.GraphModule(module, graph, class_name=type(module).__name__)
        _revive_dropout(traced)
    return traced.train(module.training)


@contextmanager
def _keeping_attributes(module: nn.Module) -> Iterator[None]:
    """Take away what tracing, or code that is traced, leaves on modules."""
    before = {each: (dict(vars(each)), dict(each._buffers)) for each in module.modules()}
    try:
        yield
    finally:
        for each, (attributes, buffers) in before.items():
            vars(each).clear()
            vars(each).update(attributes)
            each._buffers.update(buffers)


def _write_shapes(graph: fx.Graph) -> None:
    """Keep shapes, dtypes and what is overwritten of all values, and drop questions that nobody asked on."""
    place = {node: number for number, node in enumerate(graph.nodes)}
    for node in reversed(graph.nodes):
        value, given = node.meta.pop("value", None), node.meta.pop("given", False)
        known = node.meta.pop("known", False)
        if isinstance(value, Tensor):
            node.meta |= {"shape": tuple(value.shape), "dtype": value.dtype}
        written = node.meta.pop("overwrites", ())
        if again := tuple(each for each in written if any(place[user] > place[node] for user in each.users)):
            node.meta["overwrites"] = again
        if (known or given) and not written and not node.users:
            graph.erase_node(node)


def _revive_dropout(traced: fx.GraphModule) -> None:
    """Make modules of functions that leave numbers out at random: as functions they would keep, for good,
    the mode that the module is in now.
    """
    for node in traced.graph.nodes:
        kind = _DROPOUTS.get(node.target)
        if kind is None:
            continue
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        given.apply_defaults()
        x, p, training, inplace = given.arguments.values()
        if training is not False or not isinstance(p, (int, float)):
            continue
        name = f"{node.name}_module"
        while hasattr(traced, name):
            name += "_"
        traced.add_submodule(name, kind(p, inplace))
        node.op, node.target, node.args, node.kwargs = "call_module", name, (x,), {}
    traced.recompile()


def _join_swish(module: nn.Module, graph: fx.Graph) -> None:
    """Make one call of `x * sigmoid(x)`, so that it is seen to treat every number by itself."""
    for node in list(graph.nodes):
        if node.target not in (operator.mul, torch.mul, "mul") or len(node.args) != 2:
            continue
        if dtype_of(node) not in (torch.float32, torch.float64):
            # With fewer digits, the two are not the same.
            continue
        for x, gate in (node.args, node.args[::-1]):
            if not isinstance(gate, fx.Node) or gate.args != (x,) or len(gate.users) > 1:
                continue
            called = module.get_submodule(str(gate.target)) if gate.op == "call_module" else gate.target
            if called in (torch.sigmoid, F.sigmoid, "sigmoid") or type(called) is nn.Sigmoid:
                with graph.inserting_before(node):
                    joined = graph.call_function(F.silu, (x,))
                joined.meta |= node.meta
                node.replace_all_uses_with(joined)
                graph.erase_node(node)
                graph.erase_node(gate)
                break
