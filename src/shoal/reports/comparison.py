"""A comparison as people read it: a table a budget, quality against latency, and a page with both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from shoal.comparison import Comparison, Standing
from shoal.errors import DataError
from shoal.plan import Plan
from shoal.reports.figures import ParetoPoint, pareto_figure
from shoal.reports.markdown import markdown_table
from shoal.reports.numbers import number_text, ratio_text, seconds_text
from shoal.reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["comparison_page", "drawn_qualities", "standings_figure", "standings_points", "standings_tables"]

# Qualities that can be drawn.
_QUALITIES = ("loss", "accuracy", "perplexity")
_USES = {"calibration": "chosen on", "healing": "healed on", "evaluation": "judged on"}
# Losses that differ by more than this factor are drawn on a logarithmic axis.
_WIDE = 10
# Counted by methods that train while they choose; a note of its own tells of it.
_HEALING = "healing"


def standings_tables(comparison: Comparison) -> tuple[Table, ...]:
    """Return how methods stand, a table a budget, the lowest loss in the end first."""
    tables = [_table(comparison, budget) for budget in comparison.budgets]
    legend = (*tables[-1].notes, *_legend(comparison))
    return *tables[:-1], replace(tables[-1], notes=legend)


def drawn_qualities(comparison: Comparison) -> tuple[str, ...]:
    """Return the qualities that can be drawn against latency: none where latency was not measured, and
    none that is infinite for a network.
    """
    if comparison.original.latency_ratio() is None:
        return ()
    rows = (*comparison.whole, *comparison.rows)
    return tuple(name for name in _QUALITIES if all(isfinite(row.quality.get(name, inf)) for row in rows))


def standings_points(comparison: Comparison, quality: str = "loss") -> tuple[ParetoPoint, ...]:
    """Return quality in the end and measured latency: of the whole network, then of every method
    under every budget.

    Args:
        comparison: With measured latencies.
        quality: One of `drawn_qualities`.

    Raises:
        DataError: If there is no such quality, or latency was not measured.
    """
    known = drawn_qualities(comparison)
    if quality not in known:
        raise DataError(
            f"asked to draw {quality!r} against latency: of this comparison {', '.join(known) or 'nothing'} "
            "can be drawn. Compare with measured latency."
        )
    original = replace(_point(comparison.original, quality), label="whole network", latency=1.0, kind="whole")
    standings = [each for budget in comparison.budgets for each in comparison.standings(budget)]
    trained = {each.method for each in standings if each.own_training}
    labels = {each.method: each.method + " (own training)" * (each.method in trained) for each in standings}
    return original, *(replace(_point(each, quality), label=labels[each.method]) for each in standings)


def standings_figure(comparison: Comparison, quality: str = "loss") -> Figure:
    """Return quality in the end against measured latency, as a figure that `save_figure` writes.

    Raises:
        DataError: As `standings_points`.
        MissingExtraError: If matplotlib is not installed.
    """
    points = standings_points(comparison, quality)
    found = [point.quality for point in points]
    name = comparison.original.rows[0].plan.model.name
    return pareto_figure(
        points,
        title=f"{name}: {quality} against latency{', healed' * _healed(comparison)}",
        quality=f"{quality} on {len(comparison.weights):,} judged samples",
        higher_is_better=quality == "accuracy",
        log=quality != "accuracy" and 0 < min(found) < max(found) / _WIDE,
    )


def comparison_page(comparison: Comparison, figures: Iterable[str | Path] = ()) -> str:
    """Return a comparison as a page of Markdown.

    Args:
        comparison: What was found.
        figures: Images to show, by paths as the page finds them.
    """
    parts = [f"# Methods compared on {comparison.original.rows[0].plan.model.name}"]
    parts += [f"![{Path(path).stem}]({Path(path).as_posix()})" for path in figures]
    parts += [markdown_table(table) for table in standings_tables(comparison)]
    return "\n\n".join(parts) + "\n"


def _table(comparison: Comparison, budget: str) -> Table:
    original, standings = comparison.original, comparison.standings(budget)
    healed, quality = _healed(comparison), _shown(comparison)
    before = {each.method: each for each in comparison.standings(budget, healed=False)}
    names = ["method", "units", "params", "MACs", "latency", "loss", *(["healed"] if healed else [])]
    names += ["95 %" if quality == "loss" else quality + " %" * (quality == "accuracy"), "asked for"]
    left = {"method", "asked for"}
    stages = [
        (original, replace(original, healed=False)),
        *((each, before[each.method]) for each in standings),
    ]
    return Table(
        title=f"{original.rows[0].plan.model.name} at {budget}: {len(standings)} compared",
        columns=tuple((name, name not in left) for name in names),
        rows=tuple(
            _cells(end, [begun, end] if healed else [end], original, quality) for end, begun in stages
        ),
        notes=tuple(_notes(comparison, budget, standings)),
    )


def _healed(comparison: Comparison) -> bool:
    return comparison.settings["heal"] is not None


def _shown(comparison: Comparison) -> str:
    """The quality that has a column beside the loss; the loss where there is no other."""
    return next((name for name in ("accuracy", "perplexity") if _has(comparison, name)), "loss")


def _has(comparison: Comparison, quality: str) -> bool:
    return quality in comparison.original.rows[0].quality


def _point(standing: Standing, quality: str) -> ParetoPoint:
    return ParetoPoint(
        label=standing.method,
        latency=standing.latency_ratio() or 1.0,
        quality=standing.mean(quality),
        spread=standing.spread(quality),
        budget=standing.rows[0].budget,
        kind="control" if standing.control else "method",
    )


def _cells(end: Standing, stages: Sequence[Standing], original: Standing, quality: str) -> tuple[str, ...]:
    """A row of the table: how a method stands in the end, its loss at every stage."""
    rows, whole = end.rows, original.rows[0].measured
    name = f"({end.method})" if end.control else f"{end.method} †" if end.own_training else end.method
    return (
        "whole network" if end is original else name,
        _left([row.plan for row in rows], original.rows[0].plan),
        ratio_text(whole.params, fmean(row.measured.params for row in rows)),
        ratio_text(whole.macs, fmean(row.measured.macs for row in rows)),
        ratio_text(1.0, end.latency_ratio()),
        *("* " * (each.near_best and end is not original) + _spread(each, "loss") for each in stages),
        _interval(end, quality),
        _asked(end),
    )


def _left(plans: Sequence[Plan], whole: Plan) -> str:
    """How many units are left; of others than those of the whole network's row, what they are."""
    count, units = _range([plan.left for plan in plans]), plans[0].model.units
    if units == whole.model.units:
        return count
    return f"{count} of {len(units)} {'convolutions' if plans[0].of_layers else 'units'}"


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"


def _spread(standing: Standing, name: str) -> str:
    spread = standing.spread(name)
    # Seeds of healing make one network before it.
    return number_text(standing.mean(name)) + (f" ±{spread:.2g}" if spread else "")


def _interval(standing: Standing, name: str) -> str:
    """The mean and the mean 95 % interval; of the loss, which has a column of its own, the interval."""
    scale, form = (100, "{:.1f}") if name == "accuracy" else (1, "{:.4g}")
    known = all(f"{name}_low" in row.quality for row in standing.rows)
    interval = "–".join(
        form.format(scale * standing.mean(f"{name}_{end}")) for end in ("low", "high") if known
    )
    if name == "loss":
        return interval or "-"
    mean = form.format(scale * standing.mean(name))
    return f"{mean} ({interval})" if interval else mean


def _asked(standing: Standing) -> str:
    kinds = dict.fromkeys(kind for row in standing.rows for kind in row.asked if kind != _HEALING)
    most = {kind: max(row.asked.get(kind, 0) for row in standing.rows) for kind in kinds}
    return ", ".join(f"{count} {kind}" for kind, count in most.items()) or "-"


def _notes(comparison: Comparison, budget: str, standings: Sequence[Standing]) -> Iterable[str]:
    took = [f"{each.method} {seconds_text(fmean(row.seconds for row in each.rows))}" for each in standings]
    yield f"choosing took: {', '.join(took)}"
    groups: dict[object, list[str]] = {}
    for each in standings:
        if not any(row.own_weights for row in each.rows):
            networks = frozenset((row.plan.identity, row.seed) for row in each.rows)
            groups.setdefault(networks, []).append(each.method)
    for alike in groups.values():
        if len(alike) > 1:
            yield f"the same plan, and so one network: {', '.join(alike)}"
    own = [f"{each.method}{_training(each)}" for each in standings if each.own_training]
    if own:
        yield f"†: had training of its own while it chose, which the others lack: {', '.join(own)}"
    failed = [each for each in comparison.failures if each.budget == budget]
    yield from dict.fromkeys(f"not compared: {each.method}: {each.reason}" for each in failed)


def _training(standing: Standing) -> str:
    """How much a method trained, as far as it is known."""
    times = _range([row.asked.get(_HEALING, 0) for row in standing.rows])
    healing = standing.rows[0].plan.settings.get("heal")
    epochs = (
        f" with epochs={healing['epochs']}" if isinstance(healing, Mapping) and "epochs" in healing else ""
    )
    return "" if times == "0" else f" ({times} × healing{epochs})"


def _legend(comparison: Comparison) -> Iterable[str]:
    samples, quality = len(comparison.weights), _shown(comparison)
    yield f"*: lowest loss of the column, or within one standard error of it ({samples:,} judged samples)"
    yield "(…): a control; params, MACs, latency: shares of the whole network, timed in turns with it"
    yield f"{'loss' if quality == 'loss' else quality} in the end, with its 95 % interval"
    yield "asked for: losses of the network without some units, passes over the data…, known before or not"
    every = [each for budget in comparison.budgets for each in comparison.standings(budget)]
    most = max(len(each.rows) for each in (comparison.original, *every))
    if most > 1:
        yield f"±: standard deviation over seeds, of which there are up to {most}"
    yield from (f"{_USES.get(use, use)} {told}" for use, told in comparison.data.items())
