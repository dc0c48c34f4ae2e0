"""A guess of the loss without any set of units, learned from the sets that were measured.

Axes: L units, n measured sets, m asked sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shoal.errors import DataError

__all__ = ["LossGuess"]

Removed = tuple[int, ...]
Matrix = NDArray[np.float64]

# Prior variance of the whole, of a unit's cost, of what two units cost more together, and of the rest.
_WHOLE, _UNIT, _PAIR, _REST = 10.0, 1.0, 0.2, 1e-3


class LossGuess:
    """A Gaussian process over sets of units: each unit costs something, and so does each pair.

    With o the number of units that two sets share, their covariance is `10 + o + 0.2 · o (o - 1) / 2`.
    It is fitted to `asinh((loss - base) / scale)`, where the scale is the median cost of a unit: near
    the base that is linear, far from it a logarithm, so that sets that ruin the network do not
    dominate.

    Args:
        known: Measured losses by set; the loss without any unit taken out is among them.
        length: L.

    Raises:
        DataError: If the loss of the whole network is not known, or not finite.

    Example:
        >>> known = {(): 1.0, (0,): 1.1, (1,): 1.4, (2,): 1.2, (0, 2): 1.3}
        >>> guess = LossGuess(known, 3)
        >>> bool(np.diff(guess([(0, 2), (0, 1), (1, 2)])).min() > 0)
        True

    Reference: Rasmussen and Williams, 2006, https://gaussianprocess.org/gpml/, equation 2.25.
    """

    def __init__(self, known: Mapping[Removed, float], length: int) -> None:
        base = known.get((), math.nan)
        if not math.isfinite(base):
            raise DataError(
                f"asked to guess losses where the whole network's is {base}: measure it, and check the data."
            )
        self.length = length
        self._sets = _indicators(list(known), length)
        costs = np.array(list(known.values())) - base
        single = [abs(loss - base) for units, loss in known.items() if len(units) == 1 and loss < math.inf]
        scale = max(float(np.median(single)) if single else 0.0, 1e-6 * max(abs(base), 1.0))
        heights = np.arcsinh(costs / scale)
        # What cannot be measured is worse than all that can.
        heights[~np.isfinite(heights)] = heights[np.isfinite(heights)].max() + 1.0
        self._mean = float(heights.mean())
        covariance = _covariance(self._sets, self._sets) + _REST * np.eye(len(heights))
        self._weights = np.linalg.solve(covariance, heights - self._mean)

    def __call__(self, sets: Sequence[Removed]) -> Matrix:
        """Return numbers that rise with the guessed loss without each of the sets, `(m,)`."""
        return _covariance(_indicators(sets, self.length), self._sets) @ self._weights + self._mean


def _indicators(sets: Sequence[Removed], length: int) -> Matrix:
    rows = np.zeros((len(sets), length))
    for row, units in zip(rows, sets, strict=True):
        row[list(units)] = 1.0
    return rows


def _covariance(first: Matrix, second: Matrix) -> Matrix:
    shared = first @ second.T
    return np.asarray(_WHOLE + _UNIT * shared + _PAIR * shared * (shared - 1) / 2)
