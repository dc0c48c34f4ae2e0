"""Centered kernel alignment with a linear kernel: how alike two layers see the same inputs.

Shapes: N = samples, P and Q = features of the two layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.linalg import matrix_norm

from shoal.errors import DataError

__all__ = ["Estimator", "centred_grams", "linear_cka", "unbiased_linear_cka"]

Estimator = Literal["unbiased", "biased"]
FEWEST = {"unbiased": 4, "biased": 2}


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the linear CKA of two representations of the same samples.

    The value lies in [0, 1]; it is 1 for representations equal up to a rotation and a scale. It is
    biased upwards when N is small beside P and Q (independent Gaussians score about 1 / (1 + N/P)):
    use `unbiased_linear_cka` there.

    Args:
        x: Representations `(N, P)`, one row a sample; need not be centered.
        y: Representations `(N, Q)` of the same samples in the same order.

    Returns:
        A float64 scalar on the inputs' device.

    Raises:
        DataError: If the two hold different numbers of samples, or fewer than two.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
        >>> round(linear_cka(x, 3 * x).item(), 6)
        1.0

    Reference: Kornblith et al., 2019, https://arxiv.org/abs/1905.00414, equation 4.
    """
    return _alignment(x, y, "biased")


def unbiased_linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return linear CKA with the unbiased estimator of HSIC.

    It is 1 for equal representations, near 0 for independent ones however wide they are, and may
    fall a little below 0.

    Args:
        x: Representations `(N, P)`, one row a sample; N is 4 or more.
        y: Representations `(N, Q)` of the same samples in the same order.

    Returns:
        A float64 scalar on the inputs' device.

    Raises:
        DataError: If the two hold different numbers of samples, or fewer than four.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [3.0, 1.0], [0.0, 4.0]])
        >>> round(unbiased_linear_cka(x, 3 * x + 1).item(), 6)
        1.0

    Reference: Song et al., 2012, https://jmlr.org/papers/v13/song12a.html, equation 5; Nguyen et
    al., 2021, https://arxiv.org/abs/2010.15327, equation 3.
    """
    return _alignment(x, y, "unbiased")


def centred_grams(layers: Sequence[Tensor], estimator: Estimator = "unbiased") -> Tensor:
    """Return the centred Gram matrices whose elementwise products sum to HSIC.

    For `unbiased` the diagonal is zero and the rest is U-centred; the sum of products of two such
    matrices, over N(N - 3), is the unbiased HSIC. For `biased` rows and columns are centred, and
    the sum goes over (N - 1)².

    Args:
        layers: K representations `(N, P_k)` of the same samples; products are formed in float32 at
            least.
        estimator: Which HSIC the matrices are for.

    Returns:
        `(K, N, N)`, float64.

    Reference: Székely and Rizzo, 2014, https://arxiv.org/abs/1310.2926, equation 3.1.
    """
    wide = [layer.to(torch.promote_types(layer.dtype, torch.float32)) for layer in layers]
    grams = torch.stack([(layer @ layer.T).double() for layer in wide])
    if estimator == "biased":
        grams -= grams.mean(dim=1, keepdim=True)
        return grams - grams.mean(dim=2, keepdim=True)
    count = grams.shape[-1]
    diagonals = grams.diagonal(dim1=1, dim2=2)
    diagonals.zero_()
    rows = grams.sum(dim=1) / (count - 2)
    grams -= rows[:, None, :]
    grams -= rows[:, :, None]
    grams += (rows.sum(dim=1) / (count - 1))[:, None, None]
    diagonals.zero_()
    return grams


def _alignment(x: Tensor, y: Tensor, estimator: Estimator) -> Tensor:
    fewest = FEWEST[estimator]
    if len(x) != len(y) or len(x) < fewest:
        raise DataError(
            f"asked for {estimator} linear CKA, which needs the same samples, {fewest} or more, in both "
            f"inputs: got {len(x)} and {len(y)} rows."
        )
    first, second = centred_grams([x, y], estimator)
    return (first * second).sum() / (matrix_norm(first) * matrix_norm(second))
