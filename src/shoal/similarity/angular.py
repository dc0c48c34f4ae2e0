"""Angles between what different layers put out for the same sample or token.

Shapes: N = samples or tokens (rows), D = width, K = layers.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from shoal.errors import DataError

__all__ = ["angular_distance", "cosine_sums", "row_cosines"]

# Rows are taken in pieces of at most this many numbers, so that memory does not grow with the batch.
# Small pieces stay in the cache between being stacked and being multiplied.
_PIECE = 2**20


def angular_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean angle between the rows of two representations, divided by π, in [0, 1].

    Args:
        x, y: `(N, D)`.

    Raises:
        DataError: If the shapes differ or there are no rows.

    Example:
        >>> angular_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item()
        0.5

    Reference: Gromov et al., 2024, https://arxiv.org/abs/2403.17887, equation 7.
    """
    if x.shape != y.shape or len(x) == 0:
        raise DataError(
            f"asked for the angle between representations of shapes {tuple(x.shape)} and "
            f"{tuple(y.shape)}: they must be equal, with one row or more."
        )
    return row_cosines([x, y])[:, 0, 1].arccos().mean() / pi


def row_cosines(layers: list[Tensor]) -> Tensor:
    """Return, for every row, the cosines between all layers, `(N, K, K)`, float64, in [-1, 1].

    Args:
        layers: K representations `(N, D)`; products are formed in float32 at least.
    """
    stacked = torch.stack(layers, dim=1)
    stacked = stacked if stacked.dtype == torch.float64 else stacked.float()
    products = torch.bmm(stacked, stacked.transpose(1, 2)).double()
    norms = products.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    return (products / norms[:, :, None] / norms[:, None, :]).clamp(-1, 1)


def cosine_sums(layers: list[Tensor], angled: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the sums over rows of all cosines, and over chosen rows of all angles.

    Args:
        layers: K representations `(N, D)`.
        angled: Numbers of the rows whose angles are summed; all rows where it is None.

    Returns:
        Two `(K, K)` float64 matrices: the sum of cosines, the sum of angles over π.
    """
    rows, width = layers[0].shape
    step = max(1, _PIECE // (len(layers) * width))
    device = layers[0].device
    cosines = torch.zeros(len(layers), len(layers), dtype=torch.float64, device=device)
    angles = torch.zeros_like(cosines)
    wanted = torch.ones(rows, dtype=torch.bool, device=device)
    if angled is not None:
        wanted[:] = False
        wanted[angled] = True
    for start in range(0, rows, step):
        piece = row_cosines([layer[start : start + step] for layer in layers])
        cosines += piece.sum(dim=0)
        angles += piece[wanted[start : start + step]].arccos().sum(dim=0) / pi
    return cosines, angles
