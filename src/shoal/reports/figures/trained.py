"""Quality against what is left, of networks that were trained to be shallower: a point a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shoal.errors import ConfigError
from shoal.reports.figures.canvas import BLUE, INK, looking_alike, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["trained_figure"]


def trained_figure(
    points: Mapping[str, tuple[float, float]],
    *,
    title: str,
    across: str,
    quality: str,
    higher_is_better: bool,
) -> Figure:
    """Return quality against what is left, in the order of what is left.

    Args:
        points: What was asked for, such as `macs=0.5` → the share that is left, and the quality.
        title: What stands above.
        across: What is left, such as `MACs`.
        quality: What the quality is, such as `accuracy`.
        higher_is_better: True for accuracies, False for losses.

    Returns:
        A figure that `save_figure` writes.

    Raises:
        ConfigError: If there are no points.
        MissingExtraError: If matplotlib is not installed.
    """
    if not points:
        raise ConfigError(
            f"asked to draw {quality} against the {across} that are left of no networks: give one at least."
        )
    ordered = sorted(points.items(), key=lambda named: named[1])
    with looking_alike():
        figure = sheet(6.4, 4.4, title=title)
        axes = figure.add_subplot()
        axes.set_xlabel(f"share of {across} that is left (lower is better)")
        axes.set_ylabel(f"{quality} ({'higher' if higher_is_better else 'lower'} is better)")
        axes.grid()
        axes.plot(*zip(*(place for _, place in ordered), strict=True), color=BLUE, marker="o", linewidth=1.2)
        for label, place in ordered:
            # On the side from which the line turns away: more is left, and quality is better.
            offset, side = ((5, -5), "top") if higher_is_better else ((5, 5), "bottom")
            axes.annotate(
                label, place, xytext=offset, textcoords="offset points", va=side, color=INK, fontsize=8
            )
        axes.margins(0.15)
    return figure
