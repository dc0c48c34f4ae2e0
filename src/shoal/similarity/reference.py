"""Linear CKA between one representation and several others, summed batch by batch.

Narrow representations are compared exactly, as if all samples were there at once, by sums over their
features; wide ones minibatch by minibatch, by Gram matrices of samples. No activations are kept.

Shapes: K = representations compared with the reference, N = samples, m = samples of a minibatch,
P and Q = features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from shoal.errors import DataError
from shoal.similarity.cka import FEWEST, Estimator, centred_grams

__all__ = ["ReferenceSums"]


class ReferenceSums:
    """Running sums from which the CKA between a reference and each of K others follows.

    Args:
        estimator: `unbiased`, also called debiased, or `biased`.
        exact: The widest representation that is compared exactly; memory grows with its square times
            K. For wider ones HSIC is summed over minibatches before the ratio is taken: an estimate of
            the same for `unbiased`, and higher values for `biased`.
        minibatch: m, of which minibatches. Batches are joined and divided into such, so that their
            size does not matter; the last one may be smaller, and is left out where it is too small to
            be compared.

    Example:
        >>> sums, x = ReferenceSums(), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [3.0, 1.0]])
        >>> sums.update(x, [3 * x, x.flip(1) + 1])
        >>> [round(value, 6) for value in sums.similarities()]
        [1.0, 1.0]

    Reference: Kornblith et al., 2019, https://arxiv.org/abs/1905.00414, equation 4; Song et al., 2012,
    https://jmlr.org/papers/v13/song12a.html, equation 5, written as sums over features; Nguyen et al.,
    2021, https://arxiv.org/abs/2010.15327, equations 3 and 4, for minibatches.
    """

    def __init__(self, estimator: Estimator = "unbiased", *, exact: int = 1024, minibatch: int = 256) -> None:
        self.estimator, self.exact, self.minibatch = estimator, exact, minibatch
        self._sums: _Sums | None = None

    @property
    def rows(self) -> int:
        """Samples compared so far."""
        return 0 if self._sums is None else self._sums.rows

    def update(self, reference: Tensor, others: Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            reference: `(n, P)`.
            others: K representations `(n, Q_k)` of the same n samples; K stays the same.

        Raises:
            DataError: If they hold different numbers of samples, or a value that is not finite.
        """
        layers = [reference, *others]
        counts = [len(layer) for layer in layers]
        if len(set(counts)) != 1:
            raise DataError(
                f"asked to compare {len(others)} representations with a reference: they are of {counts} "
                "samples, the reference first. The same samples are needed."
            )
        bad = [number for number, layer in enumerate(layers) if not layer.isfinite().all()]
        if bad:
            raise DataError(
                f"asked to compare {len(others)} representations with a reference: {bad}, of which 0 is the "
                "reference, are not finite. Look for NaN or infinity in the data, and check its scale "
                "and the model's precision."
            )
        if self._sums is None:
            exact = max(layer.shape[1] for layer in layers) <= self.exact
            self._sums = _Exact(self.estimator) if exact else _Minibatches(self.estimator, self.minibatch)
        if counts[0]:
            self._sums.add(layers)

    def similarities(self) -> list[float]:
        """Return the CKA of each of the K others with the reference.

        It is 0 for one that carries no signal above noise: whose own HSIC is not positive.

        Raises:
            DataError: If there were too few samples, or the reference carries no signal.
        """
        if self._sums is None or self.rows < FEWEST[self.estimator]:
            raise DataError(
                f"asked for {self.estimator} CKA with a reference: it needs {FEWEST[self.estimator]} or more "
                f"samples, and {self.rows} could be compared. Use more data."
            )
        (whole, *own), (_, *shared) = self._sums.hsic()
        if not whole > 0:
            raise DataError(
                f"asked for {self.estimator} CKA with a reference: on {self.rows} samples the reference puts "
                "out no more than noise. Use more data."
            )
        return [
            both / math.sqrt(whole * mine) if mine > 0 else 0.0
            for both, mine in zip(shared, own, strict=True)
        ]


class _Sums(Protocol):
    """Sums over the samples of K + 1 representations, the reference first."""

    @property
    def rows(self) -> int: ...

    def add(self, layers: Sequence[Tensor]) -> None: ...

    def hsic(self) -> tuple[list[float], list[float]]:
        """Return the HSIC of each with itself, and with the reference."""
        ...


class _Exact:
    """Sums over features: HSIC of all samples at once."""

    def __init__(self, estimator: Estimator) -> None:
        self.rows = 0
        self._estimator = estimator
        self._shifts: list[Tensor] = []
        self._own: list[_Products] = []
        self._shared: list[_Products] = []

    def add(self, layers: Sequence[Tensor]) -> None:
        wide = [layer.double() for layer in layers]
        if not self._shifts:
            # HSIC does not change when all rows are shifted, and sums of small numbers are accurate.
            self._shifts = [layer.mean(dim=0) for layer in wide]
            self._own, self._shared = ([_Products() for _ in layers] for _ in range(2))
        wide = [layer - shift for layer, shift in zip(wide, self._shifts, strict=True)]
        for layer, own, shared in zip(wide, self._own, self._shared, strict=True):
            own.add(layer, layer)
            shared.add(wide[0], layer)
        self.rows += len(wide[0])

    def hsic(self) -> tuple[list[float], list[float]]:
        own = [products.hsic(self.rows, self._estimator) for products in self._own]
        return own, [products.hsic(self.rows, self._estimator) for products in self._shared]


class _Products:
    """With rows x_i and y_i and their squared norms a_i and b_i: Σ x_i y_i', Σ x_i, Σ y_i, Σ a_i, Σ b_i,
    Σ b_i x_i, Σ a_i y_i and Σ a_i b_i, of which all but the first are what the unbiased estimator takes
    off the diagonal of the Gram matrices.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        a, b = x.square().sum(dim=1), y.square().sum(dim=1)
        terms = [x.T @ y, x.sum(dim=0), y.sum(dim=0), a.sum(), b.sum(), x.T @ b, y.T @ a, a @ b]
        if not self._sums:
            self._sums = terms
            return
        for total, term in zip(self._sums, terms, strict=True):
            total += term

    def hsic(self, n: int, estimator: Estimator) -> float:
        products, x, y, a, b, bx, ay, ab = self._sums
        if estimator == "biased":
            return float((products - torch.outer(x, y) / n).square().sum()) / (n - 1) ** 2
        trace = products.square().sum() - ab
        totals = (x @ x - a) * (y @ y - b) / ((n - 1) * (n - 2))
        rows = 2 * (x @ products @ y - bx @ x - ay @ y + ab) / (n - 2)
        return float(trace + totals - rows) / (n * (n - 3))


class _Minibatches:
    """Sums over minibatches of the products of centred Gram matrices, each for as much as its samples.

    What a batch leaves over is joined with the next one.
    """

    def __init__(self, estimator: Estimator, minibatch: int) -> None:
        self._estimator, self._minibatch = estimator, minibatch
        self._rows = 0
        self._rest: Sequence[Tensor] = ()
        self._totals = torch.zeros(2, 1, dtype=torch.float64)

    @property
    def rows(self) -> int:
        return self._rows + self._last

    @property
    def _last(self) -> int:
        """Samples of the last minibatch, the only small one; 0 where they are too few."""
        count = len(self._rest[0]) if self._rest else 0
        return count if count >= FEWEST[self._estimator] else 0

    def add(self, layers: Sequence[Tensor]) -> None:
        if self._rest:
            layers = [torch.cat(parts) for parts in zip(self._rest, layers, strict=True)]
        size = self._minibatch
        whole = len(layers[0]) // size * size
        for start in range(0, whole, size):
            self._totals = self._totals + self._terms([layer[start : start + size] for layer in layers])
        self._rows += whole
        self._rest = [layer[whole:].clone() for layer in layers]

    def _terms(self, pieces: Sequence[Tensor]) -> Tensor:
        count = len(pieces[0])
        grams = centred_grams(pieces, self._estimator).flatten(1)
        terms = torch.stack([grams.square().sum(dim=1), grams @ grams[0]]).cpu()
        scale = count * (count - 3) if self._estimator == "unbiased" else (count - 1) ** 2
        return terms * (count / scale)

    def hsic(self) -> tuple[list[float], list[float]]:
        totals = self._totals + self._terms(self._rest) if self._last else self._totals
        own, shared = (totals / self.rows).tolist()
        return own, shared
