"""The sheet that figures are drawn on: their look, their colours, and axes of units.

Reference for the colours, which the colour-blind can tell apart: Okabe and Ito, 2008,
https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from shoal.errors import MissingExtraError
from shoal.units import Segment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREY",
    "INK",
    "ORANGE",
    "PALE",
    "PALETTE",
    "check_available",
    "looking_alike",
    "mark_removed",
    "sheet",
    "tick_units",
]

Side = Literal["x", "y"]

BLUE, ORANGE = "#0072B2", "#D55E00"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GREY, PALE = "#222222", "#8C8C8C", "#EFEFEF"

_LOOK: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "figure.titlesize": 11,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    # Names are shown as they are, whatever signs they hold.
    "text.parse_math": False,
    # The same figure is the same file.
    "svg.hashsalt": "shoal",
}
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# Points across a strip of removed units, and letters of a title in an inch.
_MARK, _LETTERS = 4.5, 11


def check_available() -> None:
    """Check that figures can be drawn here.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="report", purpose="to draw figures") from error


@contextmanager
def looking_alike() -> Iterator[None]:
    """Draw, inside the `with`, in the look of all figures; the user's settings come back after it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    check_available()
    from matplotlib import style

    with style.context(["default", _LOOK]):
        yield


def sheet(width: float, height: float, *, title: str) -> Figure:
    """Return an empty figure of this size in inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(textwrap.fill(title, int(_LETTERS * width)), color=INK)
    return figure


def tick_units(axes: Axes, length: int, *, most: int, sides: Sequence[Side]) -> None:
    """Label the first of `length` units, from 0, and every n-th after it, so that `most` are labelled."""
    step = next((step for step in _STEPS if length <= step * most), length)
    for side in sides:
        axis = axes.xaxis if side == "x" else axes.yaxis
        axis.set_ticks(range(0, length, step))


def mark_removed(axes: Axes, removed: Iterable[int], *, sides: Sequence[Side]) -> None:
    """Draw a strip along an axis of units where units are removed, and move the labels out of its way."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    runs = Segment.runs(removed)
    away = -(_MARK / 2 + 1.5) / 72
    for side in sides if runs else ():
        across = side == "x"
        ends = axes.get_xaxis_transform() if across else axes.get_yaxis_transform()
        right, up = (0.0, away) if across else (away, 0.0)
        place = ends + ScaledTranslation(right, up, axes.figure.dpi_scale_trans)
        for run in runs:
            along = [run.start - 0.5, run.stop - 0.5]
            strip = Line2D(*((along, [0, 0]) if across else ([0, 0], along)), transform=place, clip_on=False)
            strip.set(color=ORANGE, linewidth=_MARK, solid_capstyle="butt")
            axes.add_artist(strip)
        axes.tick_params(axis=side, length=0, pad=_MARK + 4)
