"""Importances as bars: a panel a score, each on its own scale.

Axes: L units, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError
from shoal.reports.figures.canvas import (
    BLUE,
    INK,
    ORANGE,
    PALE,
    looking_alike,
    mark_removed,
    sheet,
    tick_units,
)
from shoal.reports.numbers import number_text
from shoal.result import Evidence
from shoal.units import Segment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["importance_figure"]

# Inches: the height of a panel, the width of a row of them, of one that stands alone.
_HEIGHT, _WIDTH, _ALONE = 1.35, 9.6, 6.0


def importance_figure(evidence: Evidence, *, removed: Iterable[int | str] = ()) -> Figure:
    """Return the importance of every unit by every score as bars; higher = keep.

    Scores have no unit in common, so every panel has a scale of its own. A unit that a score says
    nothing of is hatched, which a bar of no height is not.

    Args:
        evidence: What one pass said of the units.
        removed: Units whose bars have another colour, by index (from 0) or name.

    Returns:
        A figure that `save_figure` writes.

    Raises:
        ConfigError: If there are no scores.
        MissingExtraError: If matplotlib is not installed.
        UnitError: If a removed unit does not exist.
    """
    scores, length = evidence.importance, len(evidence.chain)
    if not scores:
        raise ConfigError(
            f"asked to draw the importance of the {length} units of {evidence.chain.model}: the evidence "
            "holds no scores. Collect it with `shoal.analyze`."
        )
    gone = [unit.index for unit in evidence.chain.select(removed)]
    columns = min(_columns(length), len(scores))
    rows = math.ceil(len(scores) / columns)
    width = _WIDTH if columns > 1 or length > 36 else _ALONE
    title = f"{evidence.chain.model}: importance of {length} unit{'s' * (length != 1)} (higher = keep)"
    with looking_alike():
        figure = sheet(width, 1.0 + _HEIGHT * rows, title=title)
        most = max(2, int(width / columns * 3.5))
        for place, (name, values) in enumerate(scores.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_title(name, loc="left")
            axes.set_xlabel("unit" if place > columns * (rows - 1) else "")
            tick_units(axes, length, most=most, sides=("x",))
            _bars(axes, values, gone)
            mark_removed(axes, gone, sides=("x",))
        keys = _keys(removed=bool(gone), missing=not np.isfinite(list(scores.values())).all())
        if len(keys) > 1:
            figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _columns(length: int) -> int:
    return 3 if length <= 36 else 2 if length <= 80 else 1


def _bars(axes: Axes, values: NDArray[np.float64], removed: Collection[int]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    length, found = len(values), np.isfinite(values)
    colors = [ORANGE if index in removed else BLUE for index in range(length)]
    # Gaps between many bars would be thinner than a pixel.
    width = 0.8 if length <= 60 else 1.0
    axes.bar(np.arange(length), np.where(found, values, 0.0), width=width, color=colors)
    for run in Segment.runs(np.flatnonzero(~found).tolist()):
        axes.axvspan(run.start - 0.5, run.stop - 0.5, **_NOT_SCORED)
    axes.axhline(0, color=INK, linewidth=0.7)
    axes.set_xlim(-0.7, length - 0.3)
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    axes.grid(axis="y")
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _keys(*, removed: bool, missing: bool) -> list[Any]:
    from matplotlib.patches import Patch

    keys = [Patch(color=BLUE, label="kept" if removed else "scored")]
    if removed:
        keys.append(Patch(color=ORANGE, label="removed"))
    if missing:
        keys.append(Patch(label="not scored", **_NOT_SCORED))
    return keys


_NOT_SCORED: dict[str, Any] = {"facecolor": PALE, "edgecolor": "#B0B0B0", "hatch": "//////", "linewidth": 0}
