"""Modules that are several plain layers in one, taken apart: a norm with its activation, a convolution
that pads by itself.

Whether the parts do what the whole does is tried, not looked up by class names.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from shoal.architectures.trials import FAILURES

__all__ = ["NORMS", "conv_axes", "has_convolution", "has_hooks", "is_plain", "take_apart_"]

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, _InstanceNorm)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_PARTS = (*_CONVOLUTIONS, *_BATCH_NORMS, nn.SyncBatchNorm, nn.GroupNorm)
# Their code, and what it calls.
_CODE = ("forward", "_conv_forward")
_PLAIN: tuple[type[nn.Module], ...] = (
    *_CONVOLUTIONS,
    *_BATCH_NORMS,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    *_INSTANCE_NORMS,
    *_POOLS,
)


def conv_axes(module: nn.Module) -> int:
    """Return the number of spatial axes of what a convolution or norm takes; 2 where it takes any."""
    if isinstance(module, _ConvNd):
        return module.weight.dim() - 2
    named = {kind: axes for kinds in (_BATCH_NORMS, _INSTANCE_NORMS) for axes, kind in enumerate(kinds, 1)}
    return next((axes for kind, axes in named.items() if isinstance(module, kind)), 2)


def has_convolution(module: nn.Module) -> bool:
    """Return whether a convolution that is not transposed stands in a module, or is the module."""
    return any(
        isinstance(each, _ConvNd) and not isinstance(each, _ConvTransposeNd) for each in module.modules()
    )


def has_hooks(module: nn.Module) -> bool:
    """Return whether more than a module's own code runs when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_plain(module: nn.Module) -> bool:
    """Return whether a convolution, norm or average computes what torch's class of that kind does."""
    changed = has_hooks(module) or "forward" in vars(module)
    return not changed and any(
        isinstance(module, kind)
        and all(getattr(type(module), name, None) is getattr(kind, name, None) for name in _CODE)
        for kind in _PLAIN
    )


def take_apart_(model: nn.Module) -> dict[str, str]:
    """Replace, in place, modules that are several plain layers in one by these in a row.

    The parts share the parameters and buffers of the whole. In a row, they bear its name and a number.

    Args:
        model: The network, in evaluation mode.

    Returns:
        Path of the plain convolution or norm in the new row → path of the module that it was.
    """
    names: dict[str, str] = {}
    for path, module in list(model.named_modules()):
        if not path or is_plain(module) or has_hooks(module) or isinstance(module, _ConvTransposeNd):
            continue
        kind = next((each for each in _PARTS if isinstance(module, each)), None)
        row = kind and next((row for row in _rows(module, kind) if _same(module, row)), None)
        if row:
            container, _, key = path.rpartition(".")
            model.get_submodule(container)._modules[key] = row.train(module.training)
            number = next(n for n, each in enumerate(row) if type(each) is kind)
            names[f"{path}.{number}"] = path
    return names


def _rows(module: nn.Module, kind: type[nn.Module]) -> Iterator[nn.Sequential]:
    """Rows of plain layers that may do what a module does."""
    children = [child for child in module.children() if not list(child.parameters())]
    plain = _plain_copy(module, kind)
    if isinstance(module, _ConvNd):
        yield nn.Sequential(*children, plain)
    yield nn.Sequential(plain, *children)


def _plain_copy(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The same layer in torch's own class, with the very same parameters and buffers."""
    plain: nn.Module = kind.__new__(kind)
    nn.Module.__init__(plain)
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    vars(plain).update(own)
    if isinstance(module, _ConvNd):
        vars(plain)["_reversed_padding_repeated_twice"] = module._reversed_padding_repeated_twice
    plain._parameters = dict(module._parameters)
    plain._buffers = dict(module._buffers)
    plain._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    return plain


def _same(module: nn.Module, row: nn.Sequential) -> bool:
    """Whether a row answers as the module does, for sizes that no padding treats alike."""
    held = (module._parameters.get("weight"), module._buffers.get("running_mean"))
    first = next((each for each in held if each is not None), None)
    if first is None or first.is_meta or module.training:
        return False
    channels = module.in_channels if isinstance(module, _ConvNd) else len(first)
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for size in (23, 32, 33):
                shape = (2, channels, *[size] * conv_axes(module))
                x = torch.randn(shape, generator=generator).to(first)
                mine, theirs = module(x.clone()), row(x.clone())
                if mine.shape != theirs.shape or not torch.equal(mine, theirs):
                    return False
    except FAILURES:
        return False
    return True
