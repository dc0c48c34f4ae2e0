"""Modules that take as long as those of a network, made from no more than their shapes and names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from shoal.errors import ConfigError
from shoal.layers import ConvShape

__all__ = ["activation_module", "has_activation", "stand_in"]

_CONVOLUTIONS: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ZEROS: tuple[Callable[..., nn.Module], ...] = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)

# Those that need arguments, or do not treat every number by itself.
_OTHERS = {"GLU", "LogSoftmax", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "Threshold"}
_ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    name.lower(): getattr(nn, name) for name in nn.modules.activation.__all__ if name not in _OTHERS
}


def has_activation(name: str) -> bool:
    """Return whether torch.nn has an activation of this name.

    Example:
        >>> has_activation("leaky_relu"), has_activation("clamp")
        (True, False)
    """
    return name.replace("_", "") in _ACTIVATIONS


def activation_module(name: str) -> nn.Module:
    """Return a new activation with default arguments, in place where its class can be.

    Args:
        name: Its class in torch.nn in lower case, such as `relu6`, or the function, such as `leaky_relu`.

    Raises:
        ConfigError: If torch.nn has no such activation.

    Example:
        >>> activation_module("relu6")
        ReLU6(inplace=True)
    """
    if not has_activation(name):
        raise ConfigError(
            f"asked for the activation {name!r}, which torch.nn does not have: "
            f"{', '.join(sorted(_ACTIVATIONS))} work."
        )
    kind = _ACTIVATIONS[name.replace("_", "")]
    return kind(inplace=True) if "inplace" in inspect.signature(kind).parameters else kind()


def stand_in(shape: ConvShape) -> nn.Sequential:
    """Return a convolution with bias and the activation behind it, on the meta device, without weights.

    Padding that differs before and after is a module of its own in front of it. An activation that
    torch.nn does not have is a SiLU.

    Args:
        shape: The convolution.

    Example:
        >>> shape = ConvShape(in_channels=1, out_channels=1, kernel=(2,), stride=(1,), dilation=(1,),
        ...                   padding=((0, 1),), groups=1, in_size=(8,), activation="relu")
        >>> stand_in(shape)
        Sequential(
          (0): ZeroPad1d((0, 1))
          (1): Conv1d(1, 1, kernel_size=(2,), stride=(1,))
          (2): ReLU(inplace=True)
        )
    """
    kind = len(shape.kernel) - 1
    plain = all(before == after >= 0 for before, after in shape.padding)
    fields: dict[str, Any] = {"stride": shape.stride, "dilation": shape.dilation, "groups": shape.groups}
    parts: list[nn.Module] = []
    with torch.device("meta"):
        if plain:
            fields["padding"] = tuple(before for before, _ in shape.padding)
        else:
            # The last axis comes first.
            parts.append(_ZEROS[kind](tuple(zeros for pair in reversed(shape.padding) for zeros in pair)))
        parts.append(_CONVOLUTIONS[kind](shape.in_channels, shape.out_channels, shape.kernel, **fields))
        if shape.activation:
            known = has_activation(shape.activation)
            parts.append(activation_module(shape.activation if known else "silu"))
    return nn.Sequential(*parts)
