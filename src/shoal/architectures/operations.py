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

from shoal.architectures.plain import NORMS, has_hooks, is_plain
from shoal.architectures.symbolic import dtype_of, overwritten_by, shape_of
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
        overwrites: Maps that it changes in place although calls behind it take them too.
    """

    kind: str
    inputs: tuple[fx.Node, ...] = ()
    why: str = ""
    pads: tuple[tuple[int, int], ...] = ()
    overwrites: tuple[fx.Node, ...] = ()

    def moved(self, nodes: Mapping[fx.Node, fx.Node]) -> Operation:
        """Return the same of a copy of the graph, whose nodes are given."""
        inputs, overwrites = (tuple(map(nodes.__getitem__, each)) for each in (self.inputs, self.overwrites))
        return replace(self, inputs=inputs, overwrites=overwrites)


def classify(traced: fx.GraphModule, node: fx.Node) -> Operation:
    """Return what a node does."""
    found = _classify(traced, node)
    if not (overwrites := overwritten_by(node)):
        return found
    why = "it overwrites a map that is used again behind it"
    return replace(found, kind="other", why=why, overwrites=overwrites)


def _classify(traced: fx.GraphModule, node: fx.Node) -> Operation:
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
    if isinstance(module, (*NORMS, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
        if not is_plain(module) and not _only_norms(module, shape_of(node) or ()):
            return Operation(kind="other", inputs=maps, why=_own_code(module))
        return _norm(module, maps) if isinstance(module, NORMS) else _average(module, maps)
    if isinstance(module, (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)):
        return _padding(module.padding, 0.0, maps)
    if isinstance(module, nn.modules.padding._ConstantPadNd):
        return _padding(module.padding, module.value, maps)
    if isinstance(module, (nn.Upsample, nn.PixelShuffle)):
        return Operation(kind="resize", inputs=maps, why=f"{name} changes the resolution")
    if isinstance(module, nn.PReLU):
        return Operation(kind="activation", inputs=maps[:1])
    return _tried(node, maps, module, f"{name} is not affine")


def _only_norms(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a norm with a forward of its own, as those for channels that come first, bends nothing."""
    if not isinstance(module, (nn.GroupNorm, nn.LayerNorm)) or has_hooks(module):
        return False
    like = next(module.parameters(), torch.empty(0))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)
    try:
        with torch.no_grad():
            once, against, none = module(x), module(-x), module(torch.zeros_like(x))
    except FAILURES:
        return False
    return torch.allclose(once - none, none - against, rtol=1e-2, atol=1e-3)


def _own_code(module: nn.Module) -> str:
    if has_hooks(module):
        return "hooks are attached to it"
    return f"{type(module).__name__} has a forward of its own"


def _convolution(module: _ConvNd, maps: tuple[fx.Node, ...]) -> Operation:
    why = ""
    if not is_plain(module):
        why = _own_code(module)
    elif module.padding_mode != "zeros":
        why = f"it pads by {module.padding_mode}, which cannot be moved"
    elif "parametrizations" in module._modules:
        why = "its weights are parametrised, computed anew as it runs"
    elif len(shape_of(maps[0]) or ()) != module.weight.dim():
        why = "it is given one sample without a batch axis"
    return Operation(kind="convolution" if not why else "other", inputs=maps[:1], why=why)


def _norm(module: nn.Module, maps: tuple[fx.Node, ...]) -> Operation:
    if isinstance(module, _BatchNorm) and module.running_mean is not None:
        return Operation(kind="norm", inputs=maps[:1])
    why = f"{type(module).__name__} takes its statistics from the data"
    return Operation(kind="statistics", inputs=maps[:1], why=why)


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
    sizes = (shape_of(maps[0]) or ())[2:]
    pads, taps, steps = (
        _each(each, len(sizes)) for each in (module.padding, module.kernel_size, module.stride)
    )
    whole = all((n + 2 * p - k) % s == 0 for n, p, k, s in zip(sizes, pads, taps, steps, strict=True))
    if (
        (module.ceil_mode and not whole)
        or getattr(module, "divisor_override", None)
        or (any(pads) and not module.count_include_pad)
    ):
        return Operation(kind="other", inputs=maps, why="it averages over fewer places at the border")
    return Operation(kind="average", inputs=maps[:1], pads=tuple((p, p) for p in pads))


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _function(node: fx.Node, maps: tuple[fx.Node, ...]) -> Operation:
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "a function")
    sums = (node.target in _ADDITIONS or name in SUMS) and len(node.args) == 2 and not node.kwargs
    if sums and len(maps) > 1:
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
    wide = [each for each in terms if shape_of(each) == shape]
    if len(wide) == 2:
        return Operation(kind="add", inputs=tuple(terms))
    if wide:
        (narrow,) = (each for each in terms if each is not wide[0])
        if (shape_of(narrow) or ())[1:] == (shape[1], *[1] * (len(shape) - 2)):
            return Operation(kind="shift", inputs=(wide[0],))
    return Operation(kind="other", inputs=tuple(terms), why="it adds tensors of different shapes")


def _tried(node: fx.Node, maps: tuple[fx.Node, ...], module: nn.Module | None, why: str) -> Operation:
    """Tell activations and calls that change nothing from others by trying them."""
    shape = shape_of(node)
    # What else a call takes may follow from sizes, and is no constant.
    lone = len(maps) == 1 == len(node.all_input_nodes)
    if not lone or (shape_of(maps[0]), dtype_of(maps[0])) != (shape, dtype_of(node)) or shape is None:
        return Operation(kind="other", inputs=maps, why=why)
    if module is not None and any(True for _ in module.parameters()):
        return Operation(kind="other", inputs=maps, why=why)
    found = _works_alone(_caller(node, module), len(shape), dtype_of(node) or torch.float32)
    return Operation(kind=found, inputs=maps) if found else Operation(kind="other", inputs=maps, why=why)


def _caller(node: fx.Node, module: nn.Module | None) -> Callable[[Tensor], Any]:
    def run(x: Tensor) -> Any:
        put: Any = lambda arg: x if isinstance(arg, fx.Node) else arg  # noqa: E731
        args: Any = map_aggregate(node.args, put)
        kwargs: Any = map_aggregate(node.kwargs, put)
        if module is not None:
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return run


def _works_alone(function: Callable[[Tensor], Any], axes: int, dtype: torch.dtype) -> str:
    """Return `identity` or `activation` for what treats every number by itself; else nothing."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 4, 5, 6)[:axes]
    # Large numbers too: what bends only there is no identity.
    reach = torch.tensor([1.0, 1.0, 1e-2, 1e4])[torch.randint(4, shape, generator=generator)]
    x = (3 * reach * torch.randn(shape, generator=generator)).to(dtype)
    order = torch.randperm(x.numel(), generator=generator)
    wide = x.float()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            plain, shuffled = function(x.clone()), function(x.flatten()[order].reshape(shape))
            if not isinstance(plain, Tensor) or (plain.shape, plain.dtype) != (x.shape, dtype):
                return ""
            if torch.equal(plain, x):
                return "identity"
            once, twice = function(wide.clone()), function(2 * wide)
            none, against = function(torch.zeros_like(wide)), function(-wide)
    except FAILURES:
        return ""
    small = 16 * torch.finfo(dtype).eps
    if not torch.allclose(plain.flatten()[order], shuffled.flatten(), small, small, equal_nan=True):
        return ""
    # Scaling is no activation: to leave it out would change more than a bend.
    scales = torch.allclose(twice - none, 2 * (once - none), rtol=1e-4, atol=1e-5)
    odd = torch.allclose(once - none, none - against, rtol=1e-4, atol=1e-5)
    return "" if scales and odd else "activation"
