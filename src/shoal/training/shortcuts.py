"""Shortcuts around the layers of plain networks (VGG, LeNet, MLP), so that these can be gated in training.

A plain layer computes post(f(x)): f is a convolution or linear layer with its batch norm, post the activation
behind it. With a shortcut it computes post(S x + f(x)), and can be removed: S x is left. S is the identity
where f keeps the shape; elsewhere a linear map without bias that is trained with the rest, a 1×1 convolution
at the centre of f's kernel or a linear layer.

The activation leaves with its layer. Where S is the identity and what comes in is not negative, a ReLU would
change nothing; elsewhere S x stays linear, and becomes part of a layer behind it when all is folded:
`shoal.training.shortcut_folding`.

Reference: Guenter & Sideris, 2024, "Concurrent Training and Layer Pruning of Deep Neural Networks",
https://arxiv.org/abs/2406.04549.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shoal.architectures import forward_replaced
from shoal.architectures.initialisation import seeded
from shoal.architectures.plain import has_hooks
from shoal.architectures.pretrained import dtype_of
from shoal.architectures.tracing import Call, matrices, trace
from shoal.architectures.trials import FAILURES, check_runs
from shoal.calling import Inputs, device_of, to_device
from shoal.errors import ShoalWarning, SurgeryError, UnitError
from shoal.surgery.affine import convolution
from shoal.surgery.probe import answers, difference
from shoal.surgery.record import TOLERANCES

__all__ = [
    "LAYERS",
    "ZEROS",
    "Projected",
    "Shortcut",
    "all_pads",
    "is_row",
    "refill_",
    "why_unfoldable",
    "with_shortcuts",
]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ZEROS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
# What bends each number by itself, and may stand behind the sum.
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
)


class Shortcut(nn.Module):
    """A layer with a way around it: post(h + f(x)). Without it, h is left.

    Args:
        layer: f, with the batch norm behind it.
        activation: post; `nn.Identity` for none.
    """

    def __init__(self, layer: nn.Sequential, activation: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.activation = activation

    def forward(self, around: Tensor, x: Tensor | None = None) -> Tensor:
        """Return post(h + f(x)), h being `around`, and x too unless it is given."""
        activated: Tensor = self.activation(around + self.layer(around if x is None else x))
        return activated

    def alone(self, around: Tensor, x: Tensor | None = None) -> Tensor:
        """Return post(f(x)), what the plain layer computes."""
        activated: Tensor = self.activation(self.layer(around if x is None else x))
        return activated


class Projected(nn.Module):
    """A layer that changes the shape, with a linear way around it; the way stays when the layer goes.

    Args:
        around: S, linear and without a bias.
        shortcut: The layer; what stands in for it once it has gone returns its first argument.
    """

    def __init__(self, around: nn.Sequential, shortcut: Shortcut) -> None:
        super().__init__()
        self.around = around
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return post(S x + f(x))."""
        summed: Tensor = self.shortcut(self.around(x), x)
        return summed


def with_shortcuts(model: nn.Module, example: Inputs, *, seed: int = 0) -> nn.Module:
    """Return a copy of a plain network with a shortcut around every layer but the first and the last.

    Each layer with its shortcut is a removable unit of `shoal.find_units` (granularity `block`). The layers
    keep their weights, but the network does not keep its answers: it is to be trained from here. Layers that
    can have no shortcut stay as they are, and a warning says why.

    The shortcuts of layers that change the shape cost something, until they are folded. To have a budget
    refer to the plain network, write it as a number: `f"macs={round(0.6 * count_macs(plain, x).total)}"`.

    Args:
        model: The network; its layers are entries of `nn.Sequential`, with their activations. It stays
            untouched.
        example: What its forward takes.
        seed: Of the weights of the shortcuts.

    Raises:
        DataError: If the network does not run on the example.
        UnitError: If no layer can have a shortcut; says why of each.
        SurgeryError: If the network goes by the numbers of its entries, which change.

    Example:
        >>> from shoal.architectures import find_units
        >>> sizes = [(2, 8), (8, 8), (8, 4), (4, 3)]
        >>> plain = nn.Sequential(*(part for size in sizes for part in (nn.Linear(*size), nn.ReLU())))
        >>> net, x = with_shortcuts(plain, torch.ones(1, 2)), torch.ones(1, 2)
        >>> [unit.name for unit in find_units(net, x) if unit.removable]
        ['2', '3.shortcut']
    """
    example = to_device(example, device_of(model))
    check_runs(model, example)
    copied = copy.deepcopy(model)
    calls = trace(copied, example)
    inner = [module for module in calls if matrices(module) and _is_leaf(module)][1:-1]
    places = {entry: row for row in copied.modules() if is_row(row) for entry in row}
    owners = Counter(id(p) for module in copied.modules() for p in module.parameters(recurse=False))
    whys = {layer: _why_not(layer, calls[layer], layer in places, owners) for layer in inner}
    _tell(copied, {layer: why for layer, why in whys.items() if why}, len(inner))
    with seeded(copied, seed):
        enclosed = [_enclose_(places[layer], layer, calls) for layer in inner if not whys[layer]]
    _check_same(model, copied, enclosed, example)
    return copied


def _check_same(model: nn.Module, copied: nn.Module, enclosed: list[Shortcut], example: Inputs) -> None:
    """Check that the copy does what the network does when nothing leads around its layers."""
    try:
        with forward_replaced([(shortcut, shortcut.alone) for shortcut in enclosed]):
            gap = difference(answers(copied, example), answers(model, example))
    except FAILURES:
        gap = math.inf
    if not gap <= TOLERANCES.get(dtype_of(model), 1e-2):
        raise SurgeryError(
            f"asked for shortcuts in {type(model).__name__}: without them its copy answers otherwise, by "
            f"{gap:.1e} of the largest number. It goes by the numbers of its entries, which change as norms "
            "and activations become parts of layers. A network that calls its nn.Sequential as a whole works."
        )


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) or not any(module.children())


def why_unfoldable(layer: nn.Module) -> str:
    """Return why nothing can be folded into a module, in words; empty where it can."""
    if type(layer) not in LAYERS:
        return f"it is a {type(layer).__name__}, no linear layer or convolution"
    if any(layer.children()) or has_hooks(layer) or "forward" in vars(layer):
        return "its weights are computed anew as it runs, or hooks are attached to it"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return f"it pads by {layer.padding_mode}"
    return ""


def _why_not(layer: nn.Module, seen: Call, listed: bool, owners: Counter[int]) -> str:
    """Why there can be no shortcut around a layer; empty if there can."""
    if why := why_unfoldable(layer):
        return why
    if not listed:
        return "it is no entry of an nn.Sequential"
    if seen.times > 1 or any(owners[id(parameter)] > 1 for parameter in layer.parameters()):
        return "its weights are used more than once"
    if not isinstance(layer, nn.Linear) and len(seen.in_shape) != matrices(layer)[0].dim():
        return "it is given one sample without a batch axis"
    return ""


def _tell(model: nn.Module, whys: dict[nn.Module, str], count: int) -> None:
    names = {module: name for name, module in model.named_modules()}
    told = "; ".join(f"{names[layer]}: {why}" for layer, why in whys.items())
    if len(whys) == count:
        raise UnitError(
            f"asked for shortcuts in {type(model).__name__}: none of the {count} layers between the first "
            f"and the last can have one ({told or 'there are none'}). Linear layers and convolutions work "
            "that are entries of an nn.Sequential."
        )
    if whys:
        warnings.warn(
            f"{len(whys)} of {count} layers have no shortcut and will not be pruned ({told}).",
            ShoalWarning,
            stacklevel=3,
        )


def _enclose_(row: nn.Sequential, layer: nn.Module, calls: dict[nn.Module, Call]) -> Shortcut:
    """Put a layer with its norm and activation, and a way around them, in the layer's place."""
    entries = list(row._modules.items())
    at = next(number for number, (_, entry) in enumerate(entries) if entry is layer)
    behind = [entry for _, entry in entries[at + 1 : at + 3] if entry is not None]
    norms = [entry for entry in behind[:1] if _is_norm_of(layer, entry, calls)]
    bends = [entry for entry in behind[len(norms) :][:1] if isinstance(entry, _ACTIVATIONS)]
    shortcut = Shortcut(nn.Sequential(layer, *norms), bends[0] if bends else nn.Identity())
    around = _projection(layer)
    block = shortcut if around is None else Projected(around, shortcut)
    stop = at + 1 + len(norms) + len(bends)
    refill_(row, [*entries[:at], (entries[at][0], block), *entries[stop:]])
    for module in block.modules():
        if module not in calls:
            module.training = layer.training
    return shortcut


def _is_norm_of(layer: Any, entry: nn.Module, calls: dict[nn.Module, Call]) -> bool:
    """Whether an entry is a batch norm of what a layer puts out, and of nothing else."""
    if not isinstance(entry, _BatchNorm) or entry.running_mean is None or entry not in calls:
        return False
    # On longer inputs the norm's channels are not those of a linear layer.
    along = not isinstance(layer, nn.Linear) or len(calls[layer].out_shape) == 2
    return along and calls[entry].times == 1 and entry.num_features == len(layer.weight)


def _projection(layer: nn.Module) -> nn.Sequential | None:
    """A new linear map around a layer; None where the identity does."""
    like = next(layer.parameters())
    if isinstance(layer, nn.Linear):
        if layer.in_features == layer.out_features:
            return None
        return nn.Sequential(nn.Linear(layer.in_features, layer.out_features, bias=False).to(like))
    convolved: Any = layer
    pads = _pads_at_centre(convolved)
    if convolved.in_channels == convolved.out_channels and not any(pads) and set(convolved.stride) == {1}:
        return None
    kind: Any = type(layer)
    linear = kind(convolved.in_channels, convolved.out_channels, 1, stride=convolved.stride, bias=False).to(
        like
    )
    zeros: Any = ZEROS[len(convolved.stride) - 1]
    return nn.Sequential(*([zeros(pads)] if any(pads) else []), linear)


def _pads_at_centre(layer: Any) -> tuple[int, ...]:
    """The zeros before and after, the last axis first, that put one tap where the centre of a kernel stands;
    negative numbers crop.
    """
    offset, total = convolution(layer, device=torch.device("meta")).offset, all_pads(layer)
    pads: list[int] = []
    for axis, taps in enumerate(layer.kernel_size):
        centre = layer.dilation[axis] * ((taps - 1) // 2)
        beyond = layer.dilation[axis] * (taps - 1) - centre
        pads = [-offset[axis] - centre, total[axis] + offset[axis] - beyond, *pads]
    return tuple(pads)


def all_pads(layer: Any) -> list[int]:
    """Return the zeros before and after a convolution's input together, a number an axis."""
    if isinstance(layer.padding, str):
        same = layer.padding == "same"
        return [same * d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [2 * zeros for zeros in layer.padding]


def is_row(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Return whether a module calls its entries one after the other, and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def refill_(row: nn.Sequential, entries: Iterable[tuple[str, nn.Module]]) -> None:
    """Let a row hold these entries; where its keys were numbers from 0, they are again."""
    numbered = list(row._modules) == [str(number) for number in range(len(row))]
    kept, modules = list(entries), row._modules
    modules.clear()
    for number, (key, module) in enumerate(kept):
        modules[str(number) if numbered else key] = module
