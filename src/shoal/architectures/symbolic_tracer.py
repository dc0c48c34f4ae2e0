"""Follows a module's code as torch.fx does, and runs every call on values beside it.

Nodes bear in `meta`: `value`, what the call gave; `known`, whether that follows from shapes, types and the
module's own tensors alone; `given`, whether it is a part of an argument; `overwrites`, the nodes whose
values the call has changed in place.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument, Target, map_aggregate
from torch.nn.modules.conv import _ConvNd

from shoal.architectures.plain import NORMS, has_convolution

__all__ = ["Tracer", "is_proxy"]

# What asks for sizes, not for numbers in tensors.
_SIZES = frozenset({"size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "stride"})
_SIZE_FIELDS = frozenset({"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad", "layout"})
_CONSTANTS = (bool, int, float, str, Enum, torch.dtype, torch.device, torch.layout, torch.memory_format)


def is_proxy(value: Any) -> bool:
    """Return whether something stands for a value while code is followed; it calls itself a tensor."""
    return issubclass(type(value), fx.Proxy)


class _Proxy(fx.Proxy):
    """Stands for a value, and answers questions about sizes with what they are."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # Code asks `isinstance(x, Tensor)`.
        return Tensor if isinstance(self.node.meta.get("value"), Tensor) else type(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"a value that is traced has no {name}")
        if name in _SIZE_FIELDS:
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name)

    def _known(self, what: Callable[[Any], Any]) -> Any:
        if not self.node.meta.get("known"):
            raise fx.proxy.TraceError(
                "symbolically traced variables cannot be used as inputs to control flow"
            )
        return what(self.node.meta["value"])

    def __len__(self) -> int:
        value = self.node.meta["value"]
        return len(value)

    def __contains__(self, item: Any) -> bool:
        value = self.node.meta["value"]
        return item in value if isinstance(value, dict) else bool(self._known(lambda known: item in known))

    def __index__(self) -> int:
        return int(self._known(operator.index))

    def __int__(self) -> int:
        return int(self._known(int))

    def __float__(self) -> float:
        return float(self._known(float))


class Tracer(fx.Tracer):
    """Follows code as fx does, and runs every call on values.

    Attributes:
        innermost: Dotted path of the module whose code was being followed when `trace` ended: where it
            failed, the module at fault; empty for the module itself.

    Args:
        module: What is traced.
        args, kwargs: What its forward is called with: values of tensors are run on, other arguments fixed.
        whole: Submodules whose code is not followed.
    """

    # Buffers stay buffers, and are no constants in the code.
    proxy_buffer_attributes = True

    def __init__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], whole: Collection[nn.Module]
    ) -> None:
        super().__init__()
        self._called = inspect.signature(module.forward).bind(*args, **kwargs)
        self._called.apply_defaults()
        self._whole = set(whole)
        self._running = False
        self._entered: list[str] = [""]
        self._versions: dict[fx.Node, int] = {}
        self.innermost = ""

    # What is followed and what is one call.

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one call: convolutions are, and what is heavy and holds none."""
        return m in self._whole or isinstance(m, _ConvNd) or not (has_convolution(m) or _is_light(m))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return what a module's call gives: values while calls are run, else what stands for them."""
        if self._running:
            return forward(*args, **kwargs)
        try:
            path = self.path_of_module(m)
        except NameError:
            # Made as it runs, such as a slice of a Sequential: what it calls is followed.
            return forward(*args, **kwargs)
        self._entered.append(path)
        result = super().call_module(m, forward, args, kwargs)
        # Not in a `finally`: where it fails, the module at fault stays on top.
        self._entered.pop()
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Return a tensor of a module's own, or what stands for it while code is followed."""
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the calls that a module makes, in order.

        Raises:
            TraceError: If its code decides by the numbers in a tensor; what else that code raises, too.
        """
        try:
            return super().trace(root, concrete_args)
        finally:
            self.innermost = self._entered[-1]

    # The module is called as it was called: tensors are followed, other arguments are fixed.

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Return a function that calls the module as it was called, on what stands for its arguments."""
        given = self._called.arguments
        for name, parameter in self._called.signature.parameters.items():
            value = given[name]
            stars = "*" * (parameter.kind is parameter.VAR_POSITIONAL)
            stars += "**" * (parameter.kind is parameter.VAR_KEYWORD)
            if stars and not value:
                continue
            default = () if parameter.default is parameter.empty else (parameter.default,)
            node = self.create_node("placeholder", stars + name, default, {})
            node.meta["value"] = value
            given[name] = self._opened(self.proxy(node), value, name)
        return lambda *_: root_fn(self.root, *self._called.args, **self._called.kwargs), [self.root]

    def _opened(self, proxy: fx.Proxy, value: Any, name: str) -> Any:
        """What stands for an argument: its own structure, with proxies for the tensors in it."""
        if value is None or isinstance(value, _CONSTANTS):
            self._fix(proxy.node, value, name)
            return value
        if type(value) not in (dict, list, tuple):
            return proxy
        count = self.create_proxy("call_function", len, (proxy,), {})
        self._fix(count.node, len(value), f"the length of {name}")
        keys = value if isinstance(value, dict) else range(len(value))
        parts = {key: self._opened(self._part(proxy, key), value[key], f"{name}[{key!r}]") for key in keys}
        return parts if isinstance(value, dict) else type(value)(parts.values())

    def _part(self, proxy: fx.Proxy, key: Any) -> fx.Proxy:
        part = self.create_proxy("call_function", operator.getitem, (proxy, key), {})
        part.node.meta["given"] = True
        return part

    def _fix(self, node: fx.Node, value: Any, name: str) -> None:
        """Let the graph refuse another value than the one that its calls were followed with."""
        if value is None:
            check = fx._symbolic_trace._assert_is_none
            self.create_node("call_function", check, (node, f"{name} was None when this was traced"), {})
        else:
            same = self.create_node("call_function", operator.eq, (node, value), {})
            told = f"{name} was {value!r} when this was traced"
            self.create_node("call_function", torch._assert, (same, told), {})

    # Every call is run.

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for the value of a node."""
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Argument:
        """Return an argument as a graph holds it, mappings of all classes and dataclasses included."""
        if is_proxy(a):
            # They call themselves tensors.
            return cast(Argument, a.node)
        if not isinstance(a, dict) or type(a) is dict:
            return super().create_arg(a)
        # An OrderedDict, or what libraries return.
        given = {key: self.create_arg(value) for key, value in a.items()}
        named = is_dataclass(a)
        return self.create_node("call_function", type(a), () if named else (given,), given if named else {})

    def create_node(
        self,
        kind: str,
        target: Target,
        args: tuple[Argument, ...],
        kwargs: dict[str, Argument],
        name: str | None = None,
        type_expr: Any | None = None,
    ) -> fx.Node:
        """Return the node of a call, which has been run: what it gave is in `meta`."""
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind not in ("placeholder", "output"):
            node.meta["value"] = value = self._value(node)
            node.meta["known"] = _is_known(node)
            self._note_overwritten(node)
            if isinstance(value, Tensor):
                self._versions[node] = value._version
        return node

    def _note_overwritten(self, node: fx.Node) -> None:
        """Note whose outputs a call has changed in place."""
        written = [each for each, version in self._versions.items() if each.meta["value"]._version != version]
        for each in written:
            self._versions[each] = each.meta["value"]._version
        node.meta["overwrites"] = tuple(written)

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
        """Return whether a value is true, where that follows from sizes and own tensors alone.

        Raises:
            TraceError: If it does not.
        """
        if not obj.node.meta.get("known"):
            return super().to_bool(obj)
        return bool(obj.node.meta["value"])

    def iter(self, obj: Any) -> Iterator[Any]:
        """Return what a value yields: what stands for its parts, or the keys of a mapping."""
        value = obj.node.meta.get("value")
        if isinstance(value, (tuple, list)) or (isinstance(value, Tensor) and value.dim()):
            return iter([obj[number] for number in range(len(value))])
        return iter(value) if isinstance(value, dict) else super().iter(obj)


def _is_light(module: nn.Module) -> bool:
    """Whether a module without convolutions is followed: a row of others, or one around norms alone."""
    if type(module) is nn.Sequential:
        return True
    inside = [each for each in module.modules() if each is not module]
    norms = [each for each in inside if isinstance(each, NORMS)]
    return bool(norms) and all(each in norms or not any(each.parameters(recurse=False)) for each in inside)


def _is_known(node: fx.Node) -> bool:
    """Whether a value follows from shapes, types and the module's own tensors alone."""
    if node.op == "get_attr":
        return True
    if node.op == "call_method" and node.target in _SIZES:
        return True
    if node.target is getattr and len(node.args) > 1 and node.args[1] in _SIZE_FIELDS:
        return True
    return bool(node.all_input_nodes) and all(each.meta.get("known") for each in node.all_input_nodes)
