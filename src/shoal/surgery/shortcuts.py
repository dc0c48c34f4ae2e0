"""Shortcuts around the layers of plain networks (VGG, LeNet, MLP), so that these can be gated in training.

A plain layer computes post(f(x)): f is a convolution or linear layer with its batch norm, post the activation
behind it. With a shortcut it computes post(S x + f(x)), and can be removed: S x is left. S is the identity
where f keeps the shape; elsewhere a linear map without bias that is trained with the rest, a 1×1 convolution
at the centre of f's kernel or a linear layer.

The activation leaves with its layer. Where S is the identity and what comes in is not negative, a ReLU would
change nothing; elsewhere S x stays linear, and becomes part of a layer behind it when all is folded:
`shoal.surgery.shortcut_folding`.

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

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shoal.architectures import forward_replaced
from shoal.architectures.bypassing import uncompiled
from shoal.architectures.initialisation import seeded
from shoal.architectures.plain import has_hooks
from shoal.architectures.pretrained import dtype_of
from shoal.architectures.tracing import Call, has_parts, matrices, trace
from shoal.architectures.trials import FAILURES, check_runs
from shoal.calling import Inputs, device_of, to_device
from shoal.errors import ShoalWarning, SurgeryError, UnitError
from shoal.surgery.probe import answers, difference
from shoal.surgery.record import TOLERANCES
from shoal.surgery.shortcut_layers import LAYERS, Projected, Shortcut, projection

__all__ = ["Projected", "Shortcut", "is_row", "refill_", "why_unfoldable", "with_shortcuts"]

# What bends each number by itself, and may stand behind the sum.
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
)
# Of what projections on paths around residual blocks consist.
_LINEAR = (*LAYERS, _BatchNorm, nn.Identity, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def with_shortcuts(model: nn.Module, example: Inputs, *, seed: int = 0) -> nn.Module:
    """Return a copy of a plain network with a shortcut around every layer but the first and the last.

    Each layer with its shortcut is a removable unit of `shoal.find_units` (granularity `block`). The layers
    keep their weights, but the network does not keep its answers: it is to be trained from here. Layers that
    can have no shortcut stay as they are, and a warning says why. Those that a path leads around already, as
    in residual blocks, stay as they are too.

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
        >>> import torch
        >>> from shoal.architectures import find_units
        >>> sizes = [(2, 8), (8, 8), (8, 4), (4, 3)]
        >>> plain = nn.Sequential(*(part for size in sizes for part in (nn.Linear(*size), nn.ReLU())))
        >>> net, x = with_shortcuts(plain, torch.ones(1, 2)), torch.ones(1, 2)
        >>> [unit.name for unit in find_units(net, x) if unit.removable]
        ['2', '3.shortcut']
    """
    example = to_device(example, device_of(model))
    check_runs(model, example)
    with uncompiled(model) as written:
        copied = copy.deepcopy(written)
    calls = trace(copied, example)
    around = _led_around(copied, calls)
    layers = [module for module in calls if matrices(module) and _is_leaf(module)][1:-1]
    inner = [layer for layer in layers if layer not in around]
    places = {entry: row for row in copied.modules() if is_row(row) for entry in row}
    owners = Counter(id(p) for module in copied.modules() for p in module.parameters(recurse=False))
    whys = {layer: _why_not(layer, calls[layer], layer in places, owners) for layer in inner}
    _tell(copied, {layer: why for layer, why in whys.items() if why}, inner, len(layers))
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


def _led_around(model: nn.Module, calls: dict[nn.Module, Call]) -> set[nn.Module]:
    """The modules that a path leads around already, and those that are such a path."""
    paths = [
        module
        for module, seen in calls.items()
        if seen.carries
        or (seen.added and is_row(module) and all(isinstance(part, _LINEAR) for part in module))
    ]
    return {inner for module in paths for inner in module.modules()}


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) or not has_parts(module)


def why_unfoldable(layer: nn.Module) -> str:
    """Return why nothing can be folded into a module, in words; empty where it can."""
    if type(layer) not in LAYERS:
        return f"it is a {type(layer).__name__}, no linear layer or convolution"
    if has_parts(layer) or has_hooks(layer) or "forward" in vars(layer):
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


def _tell(model: nn.Module, whys: dict[nn.Module, str], inner: list[nn.Module], count: int) -> None:
    """Say which of the inner layers, of those of `count` that no path leads around, can have no shortcut."""
    names = {module: name for name, module in model.named_modules()}
    told = [f"{names[layer]}: {why}" for layer, why in whys.items()]
    if len(whys) == len(inner):
        passed = [f"a path leads around {count - len(inner)} already"] if count > len(inner) else []
        raise UnitError(
            f"asked for shortcuts in {type(model).__name__}: none of the {count} layers between the first "
            f"and the last can have one ({'; '.join(told + passed) or 'there are none'}). Linear layers and "
            "convolutions work that are entries of an nn.Sequential."
        )
    if whys:
        warnings.warn(
            f"{len(whys)} of {len(inner)} layers have no shortcut and will not be pruned "
            f"({'; '.join(told)}).",
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
    around = projection(layer)
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
