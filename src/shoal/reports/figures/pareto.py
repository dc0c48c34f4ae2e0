"""Quality against measured latency: every method across its budgets, and the Pareto front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from shoal.errors import ConfigError
from shoal.reports.figures.canvas import GREY, INK, PALETTE, looking_alike, sheet
from shoal.reports.figures.front import ParetoPoint, pareto_front
from shoal.reports.numbers import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pareto_figure"]

# Eleven, which is prime to the number of colours: after all of them come other pairs.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "d")
_LINES = ("-", "--", "-.", ":")
_LIGHT_MARKERS, _LIGHT_COLORS = ("x", "+", "1", "2", "3", "4"), ("#808080", "#A8A8A8")
# Points across a marker, at the smallest and the largest budget.
_SMALL, _LARGE, _WHOLE = 4.5, 9.0, 13.0
# By how much a marker is wider than the one upon it.
_RING = 4.0


@dataclass(frozen=True, kw_only=True)
class _Style:
    color: str
    marker: str
    line: str
    width: float
    filled: bool
    above: int

    def of_line(self) -> dict[str, Any]:
        face = self.color if self.filled else "white"
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.line,
            "linewidth": self.width,
            "markerfacecolor": face,
            "markeredgewidth": 1.0,
            "zorder": self.above,
        }


def pareto_figure(
    points: Sequence[ParetoPoint],
    *,
    title: str,
    quality: str,
    higher_is_better: bool,
    spread: str = "standard deviation over seeds",
    log: bool = False,
) -> Figure:
    """Return quality against measured latency: a line a method across its budgets, and the front.

    The front is that of all points, with the controls and the uncompressed network among them: the
    best quality that is to be had at no more than a latency.

    Args:
        points: One for every method and budget, and the uncompressed network.
        title: What stands above.
        quality: What the quality is, such as `cross-entropy on the test images`.
        higher_is_better: True for accuracies, False for losses.
        spread: What the error bars show, for the legend.
        log: Whether the axis of quality is logarithmic, as losses of quite different size want it.

    Returns:
        A figure that `save_figure` writes.

    Raises:
        ConfigError: If there are no points, two of one method and budget, or a quality that a
            logarithmic axis cannot show.
        MissingExtraError: If matplotlib is not installed.
    """
    _check(points, log=log)
    styles, budgets = _styles(points), _sizes(points)
    sizes = _seen(points, styles, budgets)
    with looking_alike():
        figure = sheet(8.4, max(4.8, 1.0 + 0.19 * (len(styles) + len(budgets) + 2)), title=title)
        axes = figure.add_subplot()
        direction = "higher" if higher_is_better else "lower"
        axes.set_xlabel("measured latency / that of the uncompressed network (lower is better)")
        axes.set_ylabel(f"{quality} ({direction} is better)")
        axes.grid()
        if log:
            _logarithmic(axes, [point.quality for point in points])
        for label, style in styles.items():
            mine = sorted((p for p in points if p.label == label), key=lambda point: point.latency)
            _line(axes, mine, style, {point: sizes[point] for point in mine})
        # Room to the right of the last point, into which the front goes on.
        axes.margins(0.05)
        axes.autoscale_view()
        _front(axes, pareto_front(points, higher_is_better=higher_is_better))
        bars = spread if any(point.spread for point in points) else ""
        figure.legend(handles=_keys(styles, budgets, bars), loc="outside right upper")
    return figure


def _check(points: Sequence[ParetoPoint], *, log: bool) -> None:
    if not points:
        raise ConfigError("asked to draw quality against latency of no networks: give one point at least.")
    (label, budget), times = Counter((p.label, p.budget) for p in points).most_common(1)[0]
    if times > 1:
        raise ConfigError(
            f"asked to draw {times} points of {label!r} with the budget {budget!r}: give one for every "
            "method and budget, the mean over seeds with its spread."
        )
    kinds = {label: {p.kind for p in points if p.label == label} for label in {p.label for p in points}}
    mixed = sorted(label for label, found in kinds.items() if len(found) > 1)
    if mixed:
        raise ConfigError(
            f"asked to draw {mixed[0]!r} as {' and '.join(sorted(kinds[mixed[0]]))}: a label has one kind."
        )
    lowest = min(points, key=lambda point: point.quality)
    if log and lowest.quality <= 0:
        raise ConfigError(
            f"asked for a logarithmic axis with {lowest.label!r} at quality={lowest.quality}: qualities "
            "above 0 work there, and any with log=False."
        )


def _styles(points: Sequence[ParetoPoint]) -> dict[str, _Style]:
    """How each label is drawn: the uncompressed network first, then methods, then controls."""
    of_kind = {
        kind: list(dict.fromkeys(p.label for p in points if p.kind == kind))
        for kind in ("whole", "method", "control")
    }
    styles = {
        label: _Style(color=INK, marker="*", line="", width=0, filled=True, above=6)
        for label in of_kind["whole"]
    }
    for number, label in enumerate(of_kind["method"]):
        again = number // len(PALETTE)
        styles[label] = _Style(
            color=PALETTE[number % len(PALETTE)],
            marker=_MARKERS[number % len(_MARKERS)],
            line=_LINES[again % len(_LINES)],
            width=1.4,
            filled=again % 2 == 0,
            above=5,
        )
    for number, label in enumerate(of_kind["control"]):
        styles[label] = _Style(
            color=_LIGHT_COLORS[number % len(_LIGHT_COLORS)],
            marker=_LIGHT_MARKERS[number % len(_LIGHT_MARKERS)],
            line=":",
            width=0.9,
            filled=False,
            above=4,
        )
    return styles


def _sizes(points: Sequence[ParetoPoint]) -> dict[str, float]:
    """How large markers are at each budget: the more may remain, the larger."""
    names = {point.budget for point in points if point.kind != "whole"}
    costs = {name: fmean(p.latency for p in points if p.budget == name) for name in names}
    ordered = sorted(names, key=lambda name: (costs[name], name))
    if len(ordered) < 2:
        return dict.fromkeys(ordered, (_SMALL + _LARGE) / 2)
    step = (_LARGE - _SMALL) / (len(ordered) - 1)
    return {name: _SMALL + step * place for place, name in enumerate(ordered)}


def _seen(
    points: Sequence[ParetoPoint], styles: dict[str, _Style], budgets: dict[str, float]
) -> dict[ParetoPoint, float]:
    """How large the marker of each point is: larger, the more are drawn upon it at the same place."""
    order = {label: (style.above, number) for number, (label, style) in enumerate(styles.items())}
    upon: dict[tuple[float, float], float] = {}
    sizes = {}
    for point in sorted(points, key=lambda point: order[point.label], reverse=True):
        place = (point.latency, point.quality)
        plain = _WHOLE if point.kind == "whole" else budgets[point.budget]
        upon[place] = sizes[point] = max(plain, upon[place] + _RING) if place in upon else plain
    return sizes


def _line(axes: Axes, points: Sequence[ParetoPoint], style: _Style, sizes: dict[ParetoPoint, float]) -> None:
    look = style.of_line()
    axes.plot([p.latency for p in points], [p.quality for p in points], **look | {"marker": ""})
    for point, size in sizes.items():
        axes.errorbar(
            point.latency,
            point.quality,
            yerr=point.spread or None,
            markersize=size,
            elinewidth=1.0,
            capsize=2.5,
            **look | {"linestyle": ""},
        )


def _front(axes: Axes, front: Sequence[ParetoPoint]) -> None:
    limits = axes.get_xlim()
    across = [*(point.latency for point in front), limits[1]]
    along = [*(point.quality for point in front), front[-1].quality]
    axes.step(across, along, where="post", zorder=3, **_front_look())
    axes.set_xlim(limits)


def _front_look() -> dict[str, Any]:
    from matplotlib.patheffects import withStroke

    # A pale band is seen under the lines of the methods that make the front.
    return {"color": INK, "linewidth": 1.1, "path_effects": [withStroke(linewidth=6, foreground="#D9D9D9")]}


def _logarithmic(axes: Axes, qualities: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    # A short stretch may hold none of 1, 2, 5, 10, …
    wide = max(qualities) > 10 * min(qualities)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def _keys(styles: dict[str, _Style], sizes: dict[str, float], bars: str) -> list[Any]:
    from matplotlib.lines import Line2D

    keys: list[Any] = [
        Line2D([], [], label=label, markersize=10 if style.marker == "*" else 6, **style.of_line())
        for label, style in styles.items()
    ]
    keys.append(Line2D([], [], label="Pareto front", **_front_look()))
    if len(sizes) > 1:
        keys += [
            Line2D([], [], color=GREY, marker="o", linestyle="", markersize=size, label=f"budget {name}")
            for name, size in sizes.items()
        ]
    if bars:
        keys.append(Line2D([], [], color=GREY, marker="|", linestyle="", markersize=10, label=f"± {bars}"))
    return keys
