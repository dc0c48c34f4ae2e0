"""What every call in a traced graph does to a feature map: convolution, norm, activation, sum, …

Kinds are found by what a call computes where that can be tried: a call that works on every number by
itself is an activation, whatever its name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from shoal.architectures.plain import is_plain
from shoal.architectures.symbolic import shape_of
from shoal.architectures.tracing import SUMS
from shoal.architectures.trials import FAILURES

__all__ = ["AFFINE", "Operation", "activation_name", "classify"]

# Kinds that a region which becomes one convolution may hold.
AFFINE = frozenset({"convolution", "norm", "identity", "add", "shift", "pad", "average", "concat"})
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RESIZES = ("interpolate", "upsample", "Upsample", "pixel_shuffle", "PixelShuffle")


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """What one node of a graph does.

    Attributes:
        kind: `convolution`, `norm` (a batch norm with fixed statistics), `statistics` (a norm that
            takes them from the data), `activation`, `identity`, `add`, `shift` (a sum with something that
            is the same at every place), `pad` (with zeros), `average`, `concat`, `resize` or `other`.
        inputs: The feature maps that it takes, for `shift` the map alone.
        why: Why it can be no part of a merge.
        pads: For `pad` and `average`, zeros before and after, a pair an axis.
    """

    kind: str
    inputs: tuple[fx.Node, ...] = ()
    why: str = ""
    pads: tuple[tuple[int, int], ...] = ()

    def moved(self, nodes: Mapping[fx.Node, fx.Node]) -> Operation:
        """Return the same of a copy of the graph, whose nodes are given."""
        return replace(self, inputs=tuple(nodes[each] for each in self.inputs))


def classify(traced: fx.GraphModule, node: fx.Node) -> Operation:
    """Return what a node does."""
    shape = shape_of(node)
    maps = tuple(each for each in node.all_input_nodes if shape_of(each) is not None)
    if node.op in ("placeholder", "output", "get_attr") or shape is None or len(shape) < 3:
        return Operation(kind="other", inputs=maps, why="it is no feature map")
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return _module(module, node, maps)
    return _function(node, maps)


def activation_name(traced: fx.GraphModule, node: fx.Node) -> str:
    """Return the short name of an activation: its class or function in lower case."""
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))).__name__.lower()
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "activation")
    return str(name).rstrip("_").lower()


def _module(module: nn.Module, node: fx.Node, maps: tuple[fx.Node, ...]) -> Operation:
    name = type(module).__name__
    if isinstance(module, _ConvTransposeNd):
        return Operation(kind="other", inputs=maps, why=f"it is a transposed convolution ({name})")
    if isinstance(module, _ConvNd):
        return _convolution(module, maps)
    if isinstance(module, _BatchNorm):
        if not is_plain(module) or module.running_mean is None:
            kind = "statistics" if module.running_mean is None else "other"
            return Operation(kind=kind, inputs=maps[:1], why=f"it is a {name}")
        return Operation(kind="norm", inputs=maps[:1])
    if isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)):
        return Operation(kind="statistics", inputs=maps[:1], why=f"{name} takes its statistics from the data")
    if isinstance(module, (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)):
        return _padding(module.padding, 0.0, maps)
    if isinstance(module, nn.modules.padding._ConstantPadNd):
        return _padding(module.padding, module.value, maps)
    if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
        return _average(module, maps)
    if isinstance(module, (nn.Upsample, nn.PixelShuffle)):
        return Operation(kind="resize", inputs=maps, why=f"{name} changes the resolution")
    if isinstance(module, nn.PReLU):
        return Operation(kind="activation", inputs=maps[:1])
    return _tried(node, maps, module, f"{name} is not affine")


def _convolution(module: _ConvNd, maps: tuple[fx.Node, ...]) -> Operation:
    why = ""
    if not is_plain(module):
        why = f"{type(module).__name__} has a forward of its own"
    elif module.padding_mode != "zeros":
        why = f"it pads by {module.padding_mode}, which cannot be moved"
    elif "parametrizations" in module._modules:
        why = "its weights are parametrised, computed anew as it runs"
    return Operation(kind="convolution" if not why else "other", inputs=maps[:1], why=why)


def _padding(sizes: Any, value: float, maps: tuple[fx.Node, ...]) -> Operation:
    axes = len(shape_of(maps[0]) or ()) - 2
    flat = [sizes] * (2 * axes) if isinstance(sizes, int) else list(sizes)
    if value or len(flat) > 2 * axes or not all(isinstance(size, int) and size >= 0 for size in flat):
        return Operation(kind="other", inputs=maps, why="it pads, but not only space and not only with zeros")
    flat += [0] * (2 * axes - len(flat))
    # The last axis comes first.
    pairs = [(flat[2 * n], flat[2 * n + 1]) for n in range(axes)]
    return Operation(kind="pad", inputs=maps[:1], pads=tuple(reversed(pairs)))


def _average(module: Any, maps: tuple[fx.Node, ...]) -> Operation:
    padded = any(_each(module.padding, 1))
    if (
        module.ceil_mode
        or getattr(module, "divisor_override", None)
        or (padded and not module.count_include_pad)
    ):
        return Operation(kind="other", inputs=maps, why="it averages over fewer places at the border")
    axes = len(shape_of(maps[0]) or ()) - 2
    return Operation(kind="average", inputs=maps[:1], pads=tuple((p, p) for p in _each(module.padding, axes)))


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _function(node: fx.Node, maps: tuple[fx.Node, ...]) -> Operation:
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "a function")
    if (node.target in _ADDITIONS or name in SUMS) and len(node.args) == 2 and not node.kwargs:
        return _sum(node)
    if node.target in (torch.cat, torch.concat) and len(node.args) >= 1:
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        parts: Any = node.args[0]
        if axis in (1, 1 - len(shape_of(node) or ())) and all(isinstance(each, fx.Node) for each in parts):
            return Operation(kind="concat", inputs=tuple(parts))
        return Operation(kind="other", inputs=maps, why="it joins maps, but not their channels")
    if node.target is F.pad and len(node.args) >= 2:
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
        value: Any = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
        if mode != "constant":
            return Operation(kind="other", inputs=maps, why=f"it pads by {mode}, which cannot be moved")
        return _padding(node.args[1], value or 0.0, maps)
    if name in _RESIZES:
        return Operation(kind="resize", inputs=maps, why=f"{name} changes the resolution")
    if len(maps) != 1:
        return Operation(kind="other", inputs=maps, why=f"{name} works on {len(maps)} tensors")
    return _tried(node, maps, None, f"{name} is not affine")


def _sum(node: fx.Node) -> Operation:
    terms = [each for each in node.args if isinstance(each, fx.Node) and shape_of(each) is not None]
    shape = shape_of(node) or ()
    if len(terms) == 2:
        wide = [each for each in terms if shape_of(each) == shape]
        if len(wide) == 2:
            return Operation(kind="add", inputs=tuple(terms))
        (narrow,) = [each for each in terms if each not in wide] or (None,)
        other = shape_of(narrow) if narrow is not None else None
        if wide and other is not None and len(other) == len(shape) and set(other[2:]) == {1}:
            return Operation(kind="shift", inputs=(wide[0],))
    return Operation(kind="other", inputs=tuple(terms), why="it adds tensors of different shapes")


def _tried(node: fx.Node, maps: tuple[fx.Node, ...], module: nn.Module | None, why: str) -> Operation:
    """Tell activations and calls that change nothing from others by trying them."""
    shape = shape_of(node)
    if len(maps) != 1 or shape is None or shape_of(maps[0]) != shape:
        return Operation(kind="other", inputs=maps, why=why)
    if module is not None and any(True for _ in module.parameters()):
        return Operation(kind="other", inputs=maps, why=why)
    found = _works_alone(_caller(node, module), len(shape))
    return Operation(kind=found, inputs=maps) if found else Operation(kind="other", inputs=maps, why=why)


def _caller(node: fx.Node, module: nn.Module | None) -> Callable[[Tensor], Any]:
    def run(x: Tensor) -> Any:
        # What is left are constants: all_input_nodes has one entry.
        put: Any = lambda arg: x if isinstance(arg, fx.Node) else arg  # noqa: E731
        args: Any = map_aggregate(node.args, put)
        kwargs: Any = map_aggregate(node.kwargs, put)
        if module is not None:
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return run


def _works_alone(function: Callable[[Tensor], Any], axes: int) -> str:
    """Return `identity` or `activation` for what treats every number by itself; else nothing."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn((2, 3, 4, 5, 6)[:axes], generator=generator)
    order = torch.randperm(x.numel(), generator=generator)
    mixed = x.flatten()[order].reshape(x.shape)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            plain, shuffled, double = function(x.clone()), function(mixed.clone()), function(2 * x)
            zero, against = function(torch.zeros_like(x)), function(-x)
    except FAILURES:
        return ""
    if not isinstance(plain, Tensor) or plain.shape != x.shape:
        return ""
    if torch.equal(plain, x):
        return "identity"
    if not torch.allclose(plain.flatten()[order], shuffled.flatten(), atol=1e-6):
        return ""
    # Scaling is no activation: to leave it out would change more than a bend.
    scales = torch.allclose(double - zero, 2 * (plain - zero), rtol=1e-4, atol=1e-5)
    odd = torch.allclose(plain - zero, zero - against, rtol=1e-4, atol=1e-5)
    return "" if scales and odd else "activation"
