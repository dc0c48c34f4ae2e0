"""A run of training and pruning at once: how every gate went, and what was left to compute.

Axes: L units, from 0; steps, from 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shoal.errors import ConfigError
from shoal.plan import Plan
from shoal.reports.figures.canvas import BLUE, GREY, INK, ORANGE, looking_alike, sheet, tick_units
from shoal.training.concurrent.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["gates_figure"]


def gates_figure(plan: Plan, trace: Trace) -> Figure:
    """Return how probable it was at every step that a unit computes, and the share of MACs of a call.

    Args:
        plan: What a `ConcurrentPruner`, or `shoal.train`, has removed, and when.
        trace: What it kept of the way there.

    Returns:
        A figure that `save_figure` writes.

    Raises:
        ConfigError: If no step was taken.
        MissingExtraError: If matplotlib is not installed.
    """
    if not trace.steps:
        raise ConfigError("asked to draw how gates went: no step was taken yet. Train first.")
    length, removed = len(trace.theta[0]), plan.removed
    left = f"{length - len(removed)} of {length} units left"
    with looking_alike():
        figure = sheet(6.4, 2.9 + min(4.5, 0.16 * length), title=f"{plan.model.name}: {left}")
        grid = figure.add_gridspec(2, 1, height_ratios=[max(1.5, 0.16 * length), 1.2])
        gates, costs = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
        gates.sharex(costs)
        gates.tick_params(axis="x", labelbottom=False)
        _gates(gates, length, trace)
        steps = plan.predicted.get("removed_at", {})
        leaving = [steps.get(str(unit), trace.steps[-1]) for unit in removed]
        gates.plot(leaving, removed, marker="x", color=ORANGE, markersize=5, linestyle="none")
        _costs(costs, trace)
    return figure


def _gates(axes: Axes, length: int, trace: Trace) -> None:
    import matplotlib

    theta = np.ma.masked_invalid(np.array(trace.theta, dtype=float).T)
    edges = [*trace.steps, trace.steps[-1] + trace.every]
    image = axes.pcolormesh(
        np.array(edges) - 0.5,
        np.arange(length + 1) - 0.5,
        theta,
        cmap=matplotlib.colormaps["Blues"].with_extremes(bad=GREY),
        vmin=0,
        vmax=1,
    )
    axes.set_ylabel("unit")
    axes.set_title("probability to compute (grey: no gate; ×: leaves)", loc="left")
    axes.invert_yaxis()
    tick_units(axes, length, most=12, sides=("y",))
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)


def _costs(axes: Axes, trace: Trace) -> None:
    axes.plot(trace.steps, trace.macs, color=BLUE)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("step")
    axes.set_title("share of MACs that a call in training is expected to take", loc="left")
    axes.grid(axis="y")
    axes.axhline(0, color=INK, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
