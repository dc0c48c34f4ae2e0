"""Modules that are several plain layers in one, taken apart: a norm with its activation, a convolution
that pads by itself.

Whether the parts do what the whole does is tried, not looked up by class names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from shoal.architectures.trials import FAILURES

__all__ = ["conv_axes", "is_plain", "take_apart_"]

_CONVOLUTIONS: dict[int, type[_ConvNd]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, type[_BatchNorm]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_CODE = ("forward", "_conv_forward")
_PLAIN = (*_CONVOLUTIONS.values(), *_NORMS.values(), nn.SyncBatchNorm)


def conv_axes(module: nn.Module) -> int:
    """Return the number of spatial axes of a convolution or batch norm."""
    if isinstance(module, _ConvNd):
        return module.weight.dim() - 2
    named = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
    return next((axes for kind, axes in named.items() if isinstance(module, kind)), 2)


def is_plain(module: nn.Module) -> bool:
    """Return whether a convolution or batch norm computes what torch's class of that kind does."""
    return any(
        isinstance(module, kind)
        and all(getattr(type(module), name, None) is getattr(kind, name, None) for name in _CODE)
        and "forward" not in vars(module)
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
        if not path or not isinstance(module, (_ConvNd, _BatchNorm)) or is_plain(module):
            continue
        if isinstance(module, _ConvTransposeNd):
            continue
        for row in _rows(module):
            if _same(module, row):
                container, _, key = path.rpartition(".")
                model.get_submodule(container)._modules[key] = row.train(module.training)
                number = next(n for n, each in enumerate(row) if isinstance(each, (_ConvNd, _BatchNorm)))
                names[f"{path}.{number}"] = path
                break
    return names


def _rows(module: nn.Module) -> Iterator[nn.Sequential]:
    """Rows of plain layers that may do what a module does."""
    children = [child for child in module.children() if not list(child.parameters())]
    plain = _plain_copy(module)
    if isinstance(module, _ConvNd):
        yield nn.Sequential(*children, plain)
    yield nn.Sequential(plain, *children)


def _plain_copy(module: nn.Module) -> nn.Module:
    """The same layer in torch's own class, with the very same parameters and buffers."""
    kinds: Any = _CONVOLUTIONS if isinstance(module, _ConvNd) else _NORMS
    kind = kinds[conv_axes(module)]
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
    first = module.weight if isinstance(module, _ConvNd) else getattr(module, "running_mean", None)
    if not isinstance(first, Tensor) or first.is_meta or module.training:
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
