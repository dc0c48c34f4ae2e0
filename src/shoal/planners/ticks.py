"""Savings as whole ticks, so that a dynamic program can count them.

Exact where all savings are multiples of one quantum (units, MACs and parameters of equal blocks,
equal latencies); otherwise a fine tick, and savings rounded down, so that a budget is always met.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from shoal.planners.enough import SLACK

__all__ = ["common_quantum", "fewest_ticks", "whole_ticks"]

# How far from whole a number of quanta may be, relative: above the rounding of a division.
_ROUNDING = 1e-12
_PARTS = 64


def common_quantum(values: Iterable[float]) -> float | None:
    """Return the largest number that every value is a whole multiple of; zeros are ignored.

    Args:
        values: Numbers from 0 upwards. If they are not whole, only fractions of the smallest down
            to a 64th are tried.

    Returns:
        The quantum; 1.0 where all values are zero; None where there is none.

    Example:
        >>> common_quantum([6, 0, 9]), common_quantum([0.25, 0.75]), common_quantum([1, 2**0.5])
        (3.0, 0.25, None)
    """
    sizes = np.unique([value for value in values if value > 0])
    if not sizes.size:
        return 1.0
    if sizes[-1] < 2**53 and _whole(sizes):
        return float(math.gcd(*(round(size) for size in sizes.tolist())))
    for parts in range(1, _PARTS + 1):
        if _whole(sizes / sizes[0] * parts):
            return float(sizes[0] / parts)
    return None


def fewest_ticks(need: float, tick: float) -> int:
    """Return how many ticks save `need`, up to a rounding of 1e-9 of it.

    Example:
        >>> fewest_ticks(0.3, 0.1), fewest_ticks(0.31, 0.1), fewest_ticks(0.0, 0.1)
        (3, 4, 0)
    """
    return max(0, math.ceil(need / tick * (1 - SLACK)))


def whole_ticks(saved: float, tick: float) -> int:
    """Return how many whole ticks `saved` holds, up to a rounding of 1e-12.

    Example:
        >>> whole_ticks(0.3, 0.1), whole_ticks(0.29, 0.1)
        (3, 2)
    """
    return math.floor(saved / tick * (1 + _ROUNDING))


def _whole(values: NDArray[np.float64]) -> bool:
    nearest = np.rint(values)
    return bool(np.all(nearest >= 1) and np.all(np.abs(values - nearest) <= _ROUNDING * nearest))
