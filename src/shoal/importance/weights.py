"""What the weights of units say, by themselves and with the gradients that they have collected.

Embeddings and heads are no units; norms and biases inside a unit count. Higher = keep.

Shapes: L = units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shoal.units import Chain, Unit

__all__ = ["magnitude", "magnitudes", "parameters_of", "parts", "taylor_sum"]

_RUN = 2**18


def parameters_of(model: nn.Module, unit: Unit) -> list[nn.Parameter]:
    """Return the parameters of a unit's modules."""
    return [parameter for path in unit.modules for parameter in model.get_submodule(path).parameters()]


def magnitudes(model: nn.Module, chain: Chain) -> NDArray[np.float64]:
    """Return the sum of |W| over the parameters of every unit, `(L,)`; it needs no data.

    Example:
        >>> from shoal.architectures import find_units
        >>> net = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(2)])
        >>> for layer, size in zip(net, (1.0, -3.0)):
        ...     _ = nn.init.constant_(layer.weight, size)
        >>> magnitudes(net, find_units(net, torch.ones(1, 2))).tolist()
        [4.0, 12.0]

    Reference: Kim et al., 2024, https://arxiv.org/abs/2402.02834.
    """
    return np.array([magnitude(model, unit) for unit in chain])


def magnitude(model: nn.Module, unit: Unit) -> float:
    """Return the sum of |W| over the parameters of one unit."""
    return math.fsum(_size(parameter) for parameter in parameters_of(model, unit))


def taylor_sum(parameters: Sequence[nn.Parameter]) -> float:
    """Return the sum of |gradient · weight| over parameters, such as those of a unit.

    The gradients are those that autograd has summed over all batches, so that the absolute value is
    taken last. Parameters that no gradient reached count nothing. NaN if there are weights that have
    none to collect, such as integers.

    Reference: Kim et al., 2024, https://arxiv.org/abs/2402.02834.
    """
    if not all(parameter.is_floating_point() for parameter in parameters):
        return math.nan
    products = (
        _wide(gradient) * _wide(weight)
        for p in parameters
        if p.grad is not None
        for gradient, weight in zip(parts(p.grad), parts(p), strict=True)
    )
    return math.fsum(float(product.abs().sum(dtype=torch.float64)) for product in products)


def parts(values: Tensor) -> tuple[Tensor, ...]:
    """Return a tensor's numbers in runs that are short enough to be computed with in higher precision."""
    return values.detach().flatten().split(_RUN)


def _size(values: Tensor) -> float:
    return math.fsum(float(part.abs().sum(dtype=torch.float64)) for part in parts(values))


def _wide(values: Tensor) -> Tensor:
    """In float32 at least: products of halves vanish."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
