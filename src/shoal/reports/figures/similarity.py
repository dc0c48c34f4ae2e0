"""The similarity of all units as a heat map, with the segments they are divided into.

Axes: L units, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.errors import ConfigError
from shoal.reports.figures.canvas import GREY, INK, ORANGE, looking_alike, mark_removed, sheet, tick_units
from shoal.result import Evidence
from shoal.units import Segment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["similarity_figure"]

# Most characters in a line of the legend.
_LONGEST = 60


def similarity_figure(
    evidence: Evidence, *, segments: Sequence[Segment] = (), removed: Iterable[int | str] = ()
) -> Figure:
    """Return the heat map of the similarity between the outputs of all units.

    The colour scale ends at 1 and begins at the tenth below the least similarity.

    Args:
        evidence: What one pass said of the units.
        segments: Runs of units that are framed along the diagonal, such as `evidence.segments(4)`.
        removed: Units that are marked on both axes, by index (from 0) or name.

    Returns:
        A figure that `save_figure` writes.

    Raises:
        ConfigError: If a segment holds units that there are none of.
        MissingExtraError: If matplotlib is not installed.
        UnitError: If a removed unit does not exist.
    """
    length = len(evidence.chain)
    beyond = [str(segment) for segment in segments if segment.stop > length]
    if beyond:
        raise ConfigError(
            f"asked to frame the segments {', '.join(beyond)}: {evidence.chain.model} has {length} units, "
            f"so that segments within [0, {length}) work."
        )
    gone = [unit.index for unit in evidence.chain.select(removed)]
    units = f"{length} unit{'s' * (length != 1)}"
    with looking_alike():
        figure = sheet(5.8, 5.6, title=f"{evidence.chain.model}: similarity of {units}")
        axes = figure.add_subplot()
        axes.set(xlabel="unit", ylabel="unit")
        tick_units(axes, length, most=14, sides=("x", "y"))
        missing = _heat(axes, evidence)
        _frame(axes, segments)
        mark_removed(axes, gone, sides=("x", "y"))
        keys = _keys(segments, removed=bool(gone), missing=missing)
        if keys:
            beside = sum(len(key.get_label()) for key in keys) <= _LONGEST - 6 * len(keys)
            figure.legend(handles=keys, loc="outside lower center", ncols=3 if beside else 1)
    return figure


def _heat(axes: Axes, evidence: Evidence) -> bool:
    """Draw the matrix and its colour bar; whether some of it is not defined."""
    import matplotlib

    values = np.ma.masked_invalid(evidence.similarity)
    least = 0.0 if values.count() == 0 else min(float(values.min()), 0.9)
    image = axes.imshow(
        values,
        cmap=matplotlib.colormaps["viridis"].with_extremes(bad=GREY),
        vmin=math.floor(10 * least) / 10,
        vmax=1.0,
        interpolation="nearest",
    )
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.set_label("unbiased linear CKA of the outputs (higher = more alike)")
    bar.outline.set_visible(False)
    return bool(values.mask.any())


def _frame(axes: Axes, segments: Sequence[Segment]) -> None:
    from matplotlib.patches import Rectangle

    # Frames of a few dots would hide what they frame.
    width = 1.4 if len(segments) <= 30 else 0.7
    for segment in segments:
        # White around black is seen on every colour.
        for color, wide in (("white", 2.2 * width), (INK, width)):
            frame = Rectangle((segment.start - 0.5,) * 2, len(segment), len(segment), fill=False)
            frame.set(edgecolor=color, linewidth=wide, joinstyle="miter")
            axes.add_patch(frame)


def _keys(segments: Sequence[Segment], *, removed: bool, missing: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys: list[Any] = []
    if segments:
        listed = " ".join(map(str, segments))
        many = f"{len(segments)} segment{'s' * (len(segments) != 1)}"
        label = f"{many}: {listed}" if len(f"{many}: {listed}") <= _LONGEST else many
        keys.append(Patch(facecolor="none", edgecolor=INK, linewidth=1.4, label=label))
    if removed:
        keys.append(Line2D([], [], color=ORANGE, linewidth=4.5, label="removed unit"))
    if missing:
        keys.append(Patch(facecolor=GREY, label="not defined"))
    return keys
