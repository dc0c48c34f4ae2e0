"""Linear CKA between many layers, summed minibatch by minibatch; no activations are kept.

Shapes: K = layers compared, m = samples of a minibatch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shoal.errors import ConfigError, DataError, ShoalWarning
from shoal.similarity.cka import FEWEST, Estimator, centred_grams

__all__ = ["SimilaritySettings", "SimilaritySums"]


@dataclass(frozen=True, kw_only=True)
class SimilaritySettings:
    """How similarity is estimated.

    Attributes:
        estimator: `unbiased` (default), or `biased` as the papers release it.
        reduce: `sum_then_ratio` sums HSIC over minibatches and divides once (default);
            `mean_of_ratios` averages the CKA of every minibatch, which does not converge to the
            CKA of the whole.
        pool: `flatten` takes every number of a feature map (default), `gap` its mean over space.
        minibatch: Samples whose Gram matrix is formed at once; cost grows with it, variance falls.
        tokens: Tokens drawn from every batch of text, where rows are tokens.
        seed: Of that draw.
    """

    estimator: Estimator = "unbiased"
    reduce: Literal["sum_then_ratio", "mean_of_ratios"] = "sum_then_ratio"
    pool: Literal["flatten", "gap"] = "flatten"
    minibatch: int = 64
    tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        least = FEWEST.get(self.estimator, 2)
        for name in ("minibatch", "tokens"):
            if (found := getattr(self, name)) < least:
                raise ConfigError(
                    f"asked for {self.estimator} CKA with {name}={found}: {least} or more works."
                )


class SimilaritySums:
    """Running sums from which the CKA between K layers follows.

    Every minibatch costs O(m² ΣP) for the Gram matrices and O(K² m²) for their products. With
    `sum_then_ratio` the result is a Gram matrix of unit vectors: symmetric, positive semi-definite,
    ones on the diagonal.

    Reference: Nguyen et al., 2021, https://arxiv.org/abs/2010.15327, equations 3 and 4.
    """

    def __init__(self, settings: SimilaritySettings | None = None) -> None:
        self.settings = settings or SimilaritySettings()
        self._sums: NDArray[np.float64] | None = None
        self._rounds = 0

    def update(self, layers: list[Tensor]) -> None:
        """Add one minibatch.

        Args:
            layers: K representations `(m, P_k)` of the same m samples; widths may differ.

        Raises:
            DataError: If the layers hold different numbers of samples, m is below 4 (2 for the biased
                estimator), or a representation is not finite.
        """
        counts, estimator = {len(layer) for layer in layers}, self.settings.estimator
        if len(counts) != 1:
            raise DataError(
                f"asked for the CKA of {len(layers)} layers on {sorted(counts)} samples: the same samples of "
                "one layer or more are needed."
            )
        (count,) = counts
        if count < FEWEST[estimator]:
            raise DataError(
                f"asked for {estimator} CKA of a minibatch of {count} samples: it needs "
                f"{FEWEST[estimator]} or more. Use larger batches."
            )
        stacked = centred_grams(layers, estimator).flatten(1)
        products = (stacked @ stacked.T).cpu().numpy()
        if not np.isfinite(products).all():
            bad = np.flatnonzero(~np.isfinite(np.diag(products))).tolist()
            raise DataError(
                f"asked for the CKA of {len(layers)} layers: the activations of {bad} are not finite "
                "(NaN or infinity). Check the data's scale and the model's precision."
            )
        scale = count * (count - 3) if estimator == "unbiased" else (count - 1) ** 2
        term = products / scale
        if self.settings.reduce == "mean_of_ratios":
            term = _ratios(term)
        self._sums = term if self._sums is None else self._sums + term
        self._rounds += 1

    def merge(self, other: SimilaritySums) -> None:
        """Add all minibatches that another one of the same settings has summed."""
        if other._sums is not None:
            self._sums = other._sums if self._sums is None else self._sums + other._sums
            self._rounds += other._rounds

    def matrix(self) -> NDArray[np.float64]:
        """Return the CKA between all layers, `(K, K)`.

        A layer whose own HSIC is not positive carries no signal above noise: its row is zero off
        the diagonal, with a warning.

        Raises:
            DataError: If no minibatch was added.
        """
        if self._sums is None:
            raise DataError("asked for a similarity matrix: no minibatch was added.")
        if self.settings.reduce == "mean_of_ratios":
            return self._sums / self._rounds
        silent = np.flatnonzero(np.diag(self._sums) <= 0).tolist()
        if silent:
            warnings.warn(
                f"layers {silent} put out no more than noise on this data: their similarity is set to 0.",
                ShoalWarning,
                stacklevel=2,
            )
        return _ratios(self._sums)


def _ratios(hsic: NDArray[np.float64]) -> NDArray[np.float64]:
    own = np.diag(hsic)
    norms = np.sqrt(np.where(own > 0, own, np.inf))
    ratios = hsic / norms[:, None] / norms[None, :]
    ratios = (ratios + ratios.T) / 2
    np.fill_diagonal(ratios, 1.0)
    return np.asarray(ratios)
