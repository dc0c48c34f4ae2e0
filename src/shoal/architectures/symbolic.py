"""The calls that a module makes while it runs once, as a graph that can be edited: torch.fx with values.

The module runs on real values beside the tracing, so that every node knows its shape, and so that code
which asks for shapes (`if x.shape[-1] > 7`, `assert`, `len`) is followed as it went. What a network does
depending on the numbers in its tensors cannot be traced and is refused.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument, Target, map_aggregate
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves, tree_map

from shoal.architectures.trials import FAILURES
from shoal.errors import ShoalError

__all__ = ["Untraceable", "has_convolution", "shape_of", "trace_module"]

# What asks for sizes, not for numbers in tensors.
_SIZES = frozenset({"size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "stride"})
_SIZE_FIELDS = frozenset({"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad", "layout"})


class Untraceable(ShoalError):
    """A module whose calls cannot be written down.

    Attributes:
        path: Dotted path, below the module that was traced, of the module whose code cannot.
        reason: Why.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def has_convolution(module: nn.Module) -> bool:
    """Return whether a convolution that is not transposed stands in a module, or is the module."""
    return any(
        isinstance(each, _ConvNd) and not isinstance(each, _ConvTransposeNd) for each in module.modules()
    )


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return the shape of what a node of a traced graph puts out, None where it is no tensor."""
    return node.meta.get("shape")


def trace_module(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, whole: Collection[nn.Module] = ()
) -> fx.GraphModule:
    """Return the module's calls as a graph; the two share parameters and submodules.

    Submodules without convolutions are single calls, convolutions too; in others the graph follows
    their code. Training mode, and whatever else the code asks of Python objects, is as it is now.

    Args:
        module: The module, in evaluation mode.
        args, kwargs: What its forward is called with. Arguments that are no tensors are fixed.
        whole: Submodules whose code is not followed.

    Raises:
        Untraceable: If the code of the module, or of a submodule, cannot be followed.
    """
    tracer = _Tracer(module, args, kwargs, whole)
    try:
        with torch.no_grad():
            graph = tracer.trace(module)
    except FAILURES as error:
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, fx.proxy.TraceError) and "control flow" in reason:
            reason = "it decides by the numbers in a tensor what it does (dynamic control flow)"
        raise Untraceable(tracer.innermost, reason) from error
    for node in reversed(graph.nodes):
        value, sizes = node.meta.pop("value", None), node.meta.pop("sizes", False)
        if isinstance(value, Tensor):
            node.meta["shape"] = tuple(value.shape)
        if sizes and not node.users and node.op != "placeholder":
            graph.erase_node(node)
    traced = fx.GraphModule(module, graph, class_name=type(module).__name__)
    traced.train(module.training)
    return traced


class _Proxy(fx.Proxy):
    """Stands for a value, and answers questions about sizes with what they are."""

    def __getattr__(self, name: str) -> Any:
        if name in _SIZE_FIELDS:
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name)

    def _known(self, what: Callable[[Any], Any]) -> Any:
        if not self.node.meta.get("sizes"):
            raise fx.proxy.TraceError(
                "symbolically traced variables cannot be used as inputs to control flow"
            )
        return what(self.node.meta["value"])

    def __len__(self) -> int:
        value = self.node.meta["value"]
        return len(value)

    def __index__(self) -> int:
        return int(self._known(operator.index))

    def __int__(self) -> int:
        return int(self._known(int))

    def __float__(self) -> float:
        return float(self._known(float))


class _Tracer(fx.Tracer):
    """Follows code as fx does, and runs every call on values."""

    def __init__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], whole: Collection[nn.Module]
    ) -> None:
        super().__init__()
        self._called = inspect.signature(module.forward).bind(*args, **kwargs)
        self._called.apply_defaults()
        self._whole = set(whole)
        self._running = False
        self._entered: list[str] = [""]
        self.innermost = ""

    # What is followed and what is one call.

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._whole or isinstance(m, _ConvNd) or not has_convolution(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._running:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self._entered.append(path)
        result = super().call_module(m, forward, args, kwargs)
        # Not in a `finally`: where it fails, the module at fault stays on top.
        self._entered.pop()
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        try:
            return super().trace(root, concrete_args)
        finally:
            self.innermost = self._entered[-1]

    # The module is called as it was called: tensors are followed, other arguments are fixed.

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        given = dict(self._called.arguments)
        for name, parameter in self._called.signature.parameters.items():
            value = given[name]
            if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
                if value:
                    raise RuntimeError(f"it was called with more arguments than it names ({name})")
                continue
            default = () if parameter.default is parameter.empty else (parameter.default,)
            held = not isinstance(value, Tensor) and not any(isinstance(v, Tensor) for v in _leaves(value))
            node = self.create_node("placeholder", name, default, {})
            node.meta |= {"value": value, "sizes": False}
            if not held:
                given[name] = self.proxy(node)
            else:
                self._fix(node, value)
        self._called.arguments.update(given)
        return lambda *_: root_fn(self.root, *self._called.args, **self._called.kwargs), [self.root]

    def _fix(self, node: fx.Node, value: Any) -> None:
        """Let the graph refuse another value than the one that its calls were followed with."""
        if value is None:
            check = fx._symbolic_trace._assert_is_none
            self.create_node(
                "call_function", check, (node, f"{node.target} was None when this was traced"), {}
            )
        elif isinstance(value, (bool, int, float, str)):
            same = self.create_node("call_function", operator.eq, (node, value), {})
            told = f"{node.target} was {value!r} when this was traced"
            self.create_node("call_function", torch._assert, (same, told), {})

    # Every call is run.

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(
        self,
        kind: str,
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        node = proxy.node
        if kind != "output":
            node.meta["value"] = self._value(node)
            node.meta["sizes"] = _asks_for_sizes(node)
        return proxy

    def _value(self, node: fx.Node) -> Any:
        def known(arg: Argument) -> Any:
            return arg.meta["value"] if isinstance(arg, fx.Node) else arg

        args: Any = map_aggregate(node.args, known)
        kwargs: Any = map_aggregate(node.kwargs, known)
        with self._run():
            if node.op == "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]

    @contextmanager
    def _run(self) -> Iterator[None]:
        before, self._running = self._running, True
        try:
            yield
        finally:
            self._running = before

    def to_bool(self, obj: fx.Proxy) -> bool:
        if not obj.node.meta.get("sizes"):
            return super().to_bool(obj)
        return bool(obj.node.meta["value"])

    def iter(self, obj: Any) -> Iterator[Any]:
        value = obj.node.meta.get("value")
        if isinstance(value, (tuple, list)):
            return iter([obj[number] for number in range(len(value))])
        if isinstance(value, Tensor) and value.dim():
            return iter([obj[number] for number in range(len(value))])
        return super().iter(obj)


def _asks_for_sizes(node: fx.Node) -> bool:
    """Whether a value follows from shapes and types alone."""
    value = node.meta["value"]
    if isinstance(value, Tensor):
        return False
    if node.op == "call_method" and node.target in _SIZES:
        return True
    if node.target is getattr and len(node.args) > 1 and node.args[1] in _SIZE_FIELDS:
        return True
    return bool(node.all_input_nodes) and all(each.meta.get("sizes") for each in node.all_input_nodes)


def _leaves(value: Any) -> list[Any]:
    return tree_leaves(tree_map(lambda leaf: leaf, value))
