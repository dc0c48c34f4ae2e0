"""Angular distance: the windows of units that turn the hidden state least go as a whole.

    d(l, l + n) = mean of arccos(cos(input of l, input of l + n)) / π

of the last token of each sequence, or of every sample for other networks. One forward pass gives the
distance of every window. By default several windows may go: of all sets of windows that save enough
the one of least sum of distances. `preset="paper"` removes exactly one window, the nearest of those
that save enough and would not if a unit shorter.

Reference: Gromov et al., 2024, "The Unreasonable Ineffectiveness of the Deeper Layers",
https://arxiv.org/abs/2403.17887, equation 7.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shoal.errors import DataError
from shoal.importance import EvidenceSettings
from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import cheapest_removal, cheapest_window, largest_window
from shoal.tables import ImportanceTable
from shoal.units import Segment

__all__ = ["METHOD", "AngularSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class AngularSettings:
    """How windows are chosen by angular distance.

    Attributes:
        windows: Whether `several` windows may go, or exactly `one`.
    """

    windows: Literal["several", "one"] = "several"


def choose(request: Request, settings: AngularSettings) -> Plan:
    """Return the plan that removes the windows of least angular distance.

    Raises:
        BudgetError: If no plan meets the budget, or no single window does.
        DataError: If the input and output of a unit cannot be compared.
    """
    savings, need = request.savings()
    removed: tuple[int, ...] = ()
    distance: list[float] = []
    if need > 0:
        table = _distances(request)
        if settings.windows == "one":
            largest = largest_window(table, savings)
            request.savings(candidates=list(largest), circumstance=f"with {largest}, one window, gone")
            removed = tuple(cheapest_window(table, savings, need))
        else:
            removed = cheapest_removal(table, savings, need, length=len(request.chain)).removed
        distance = [table[window] for window in Segment.runs(removed)]
    known: dict[str, Any] = {
        "windows": [[window.start, window.stop] for window in Segment.runs(removed)],
        "angular_distance": distance,
    }
    return request.plan(removed, method="angular", settings=asdict(settings), predicted=known)


def _distances(request: Request) -> ImportanceTable:
    angles = request.collect(EvidenceSettings(gradients=False)).angular_distance
    removable = request.chain.removable
    unknown = [index for index in removable if math.isnan(angles[index, index + 1])]
    if unknown:
        raise DataError(
            f"asked for the angular distance of the units {unknown}: what goes in and what comes out have "
            "different shapes. Methods by measured loss, such as sleb, can rank them."
        )
    windows = ImportanceTable.additive([0.0] * len(request.chain), removable)
    entries = {window: _over(angles, window) for window in windows.entries}
    return ImportanceTable(entries=entries, source="angular distance")


def _over(angles: NDArray[np.float64], window: Segment) -> float:
    """The angle over a window; where something in between changes the shape, the sum over its parts."""
    total, start = 0.0, window.start
    while start < window.stop:
        stop = max(s for s in range(start + 1, window.stop + 1) if not math.isnan(angles[start, s]))
        total, start = total + float(angles[start, stop]), stop
    return total


METHOD = Method(
    name="angular",
    help="whole windows of units that turn the hidden state least, one forward pass",
    settings=AngularSettings,
    presets={"default": AngularSettings(), "paper": AngularSettings(windows="one")},
    choose=choose,
    by_evidence=lambda settings: True,
)
