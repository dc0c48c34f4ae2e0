"""One window of units: the contiguous run of least cost that saves enough by itself.

Axes: L units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shoal.errors import BudgetError
from shoal.planners.enough import saves_enough
from shoal.tables import ImportanceTable
from shoal.units import Segment

__all__ = ["cheapest_window", "largest_window"]


def cheapest_window(importance: ImportanceTable, savings: Sequence[float], need: float) -> Segment:
    """Return the window of least cost among those that save enough and would not if a unit shorter.

    Args:
        importance: What the removal of each window costs; no others are considered.
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved; more than nothing.

    Returns:
        The window; of equal costs the first.

    Raises:
        BudgetError: If no window saves enough; names the one that saves the most.

    Example:
        >>> distances = {Segment(0, 2): 0.3, Segment(1, 3): 0.2, Segment(0, 3): 0.1}
        >>> cheapest_window(ImportanceTable(entries=distances), [1, 1, 1], 2)
        Segment(start=1, stop=3)
    """
    minimal = [
        window
        for window in sorted(importance.entries)
        if saves_enough(savings, need, window)
        and not saves_enough(savings, need, range(window.start + 1, window.stop))
        and not saves_enough(savings, need, range(window.start, window.stop - 1))
    ]
    if not minimal:
        largest = largest_window(importance, savings)
        raise BudgetError(
            f"asked to save {need:g} with a single window of units: the most that one saves is "
            f"{math.fsum(savings[largest.start : largest.stop]):g}, {largest}. Ask for no more than that, or "
            "allow several windows."
        )
    return min(minimal, key=importance.__getitem__)


def largest_window(importance: ImportanceTable, savings: Sequence[float]) -> Segment:
    """Return the window that saves the most, of equal ones the first; an empty one where there is none.

    Example:
        >>> largest_window(ImportanceTable.additive([1.0] * 4, [0, 2, 3]), [1, 1, 1, 1])
        Segment(start=2, stop=4)
    """
    return max(
        sorted(importance.entries),
        key=lambda window: math.fsum(savings[window.start : window.stop]),
        default=Segment(0, 0),
    )
