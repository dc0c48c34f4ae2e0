"""Whether what is removed saves enough.

Axes: L units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["is_enough", "saves_enough"]

# How far below the need a saving may stay, relative: budgets are shares, and shares are rounded.
SLACK = 1e-9


def is_enough(saved: float, need: float) -> bool:
    """Return whether a saving is as large as what must be saved, up to a rounding of 1e-9 of it.

    Example:
        >>> is_enough(0.1 + 0.2 - 1e-12, 0.3), is_enough(0.29, 0.3), is_enough(0.0, 0.0)
        (True, False, True)
    """
    return saved >= need * (1 - SLACK)


def saves_enough(savings: Sequence[float], need: float, units: Iterable[int]) -> bool:
    """Return whether the removal of units saves what must be saved, up to a rounding of 1e-9 of it.

    Args:
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved.
        units: The units, each of them once.

    Example:
        >>> saves_enough([1, 2, 3], 4, [0, 2]), saves_enough([1, 2, 3], 4, [2])
        (True, False)
    """
    return is_enough(math.fsum(savings[unit] for unit in units), need)
