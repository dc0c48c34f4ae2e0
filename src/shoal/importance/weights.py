"""What the weights of units say, by themselves and with the gradients that they have collected.

Embeddings and heads are no units; norms and biases inside a unit count. Higher = keep.

Shapes: L = units.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shoal.units import Chain, Unit

__all__ = ["magnitudes", "parameters_of", "taylor_sums"]


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
    return np.array([math.fsum(_size(p) for p in parameters_of(model, unit)) for unit in chain])


def taylor_sums(model: nn.Module, chain: Chain) -> NDArray[np.float64]:
    """Return the sum of |gradient · weight| over the parameters of every unit, `(L,)`.

    The gradients are those that autograd has summed over all batches, so that the absolute value is
    taken last. Parameters that no gradient reached count nothing. NaN for a unit of weights that
    have none to collect, such as integers.

    Reference: Kim et al., 2024, https://arxiv.org/abs/2402.02834.
    """
    sums = []
    for unit in chain:
        parameters = parameters_of(model, unit)
        known = all(parameter.is_floating_point() for parameter in parameters)
        products = (_size(_wide(p.grad) * _wide(p)) for p in parameters if p.grad is not None)
        sums.append(math.fsum(products) if known else math.nan)
    return np.array(sums)


def _size(values: Tensor) -> float:
    return float(values.detach().abs().sum(dtype=torch.float64))


def _wide(values: Tensor) -> Tensor:
    """In float32 at least: products of halves vanish."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))
