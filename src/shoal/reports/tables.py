"""What the stages found, as rows of text that a terminal, a page or a card can show.

Units are numbered from 0 and segments are half-open, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.reports.numbers import bytes_text, count_text, number_text, ratio_text, seconds_text
from shoal.result import Evidence, Measurement
from shoal.units import Chain

if TYPE_CHECKING:
    from shoal.surgery import Verification

__all__ = [
    "Table",
    "checks_table",
    "columns_of",
    "comparison_table",
    "data_line",
    "evidence_table",
    "measurements_table",
    "quality_table",
    "segments_table",
    "uncounted_notes",
    "units_table",
]

Columns = tuple[tuple[str, bool], ...]
_MARKS = {True: "ok", False: "FAILED", None: "not checked"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under named columns.

    Attributes:
        title: What the table shows.
        columns: Name of each column, and whether it is aligned to the right.
        rows: The rows.
        notes: Sentences below.
    """

    title: str
    columns: Columns
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def units_table(chain: Chain) -> Table:
    """Return what can be removed from a network, and why the rest cannot."""
    rows = tuple(
        (
            str(unit.index),
            unit.name,
            unit.group,
            unit.kind,
            count_text(unit.params),
            count_text(unit.macs),
            "yes" if unit.removable else "no",
            unit.why,
        )
        for unit in chain
    )
    names = ("unit", "name", "group", "kind", "params", "MACs", "removable", "why not")
    title = (
        f"{chain.model}: {len(chain)} units, {len(chain.removable)} removable; "
        f"{count_text(chain.params)} parameters, {count_text(chain.macs)} MACs"
    )
    return Table(
        title=title,
        columns=columns_of(names, (0, 4, 5)),
        rows=rows,
        notes=(*_left_out(chain), *uncounted_notes(chain.uncounted)),
    )


def _left_out(chain: Chain) -> Iterable[str]:
    """Modules that take no part, those with one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, why in chain.left_out.items():
        reasons.setdefault(why, []).append(name or "the network")
    for why, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"no segment goes through {', '.join(names[:3])}{more}: {why}"


def evidence_table(evidence: Evidence, names: Iterable[str] | None = None) -> Table:
    """Return what one pass says of every unit, by these scores or all; higher scores mean keep."""
    scores = {name: evidence.importance[name] for name in names or evidence.importance}
    # Headings of several words break where a terminal is narrow.
    headings = ("unit", "name", "CKA in–out", *(name.replace("_", " ") for name in scores))
    rows = tuple(
        (
            str(unit.index),
            unit.name,
            number_text(float(evidence.boundary_similarity[unit.index, unit.index + 1])),
            *(number_text(float(values[unit.index])) for values in scores.values()),
        )
        for unit in evidence.chain
    )
    return Table(
        title=f"Evidence on {len(evidence.chain)} units (scores: higher = keep)",
        columns=columns_of(headings, (0, *range(2, len(headings)))),
        rows=rows,
        notes=(data_line(evidence.data),),
    )


def segments_table(evidence: Evidence, most: int = 6) -> Table:
    """Return the best divisions of the chain into 1 … `most` segments of like units."""
    losses = evidence.segmentation.losses
    rows = tuple(
        (str(k), number_text(losses[k - 1]), " ".join(map(str, evidence.segments(k))))
        for k in range(1, min(most, len(losses)) + 1)
    )
    return Table(
        title="Segments of like units",
        columns=(("segments", True), ("scatter inside", True), ("[start, stop)", False)),
        rows=rows,
    )


def data_line(data: Mapping[str, Any]) -> str:
    """Return in a sentence which data was scored on, and whether it looks memorised."""
    parts = [str(data["source"])] if data.get("source") else []
    parts += [f"{data[name]:,} {name}" for name in ("samples", "batches") if data.get(name)]
    if data.get("rows") not in (None, "samples"):
        parts.append(f"{data['compared']:,} {data['rows']} compared")
    if data.get("loss") is None:
        return f"scored on {', '.join(parts)}; no scores by gradients of the loss were taken"
    memory = "; its loss looks MEMORISED: use held-out data" if data.get("memorised") else ""
    return f"scored on {', '.join(parts)}, mean loss {data['loss']:.4g}{memory}"


def comparison_table(before: Measurement, after: Measurement, *, samples: int = 1) -> Table:
    """Return what a network cost and how well it did, before and after."""
    rows = [
        (
            "parameters",
            count_text(before.params),
            count_text(after.params),
            ratio_text(before.params, after.params),
        ),
        ("MACs", count_text(before.macs), count_text(after.macs), ratio_text(before.macs, after.macs)),
        ("latency", _latency(before), _latency(after), ratio_text(before.latency, after.latency)),
        (
            "peak memory",
            bytes_text(before.memory),
            bytes_text(after.memory),
            ratio_text(before.memory, after.memory),
        ),
    ]
    for name in (key for key in before.quality if key in after.quality):
        rows += _quality_row(name, before.quality, after.quality)
    notes = (f"of one call with {samples} sample{'s' * (samples != 1)} on {before.device}",)
    columns = columns_of(("", "before", "after", "ratio"), (1, 2, 3))
    return Table(
        title="Measured",
        columns=columns,
        rows=tuple(rows),
        notes=(*notes, *uncounted_notes(before.uncounted)),
    )


def measurements_table(measurements: Mapping[str, Measurement], *, samples: int = 1) -> Table:
    """Return what networks cost, side by side; ratios are of the first."""
    first = next(iter(measurements.values()))
    rows = tuple(
        (
            name,
            count_text(each.params),
            count_text(each.macs),
            _latency(each),
            ratio_text(first.latency, each.latency),
            bytes_text(each.memory),
        )
        for name, each in measurements.items()
    )
    names = ("model", "parameters", "MACs", "latency", "ratio", "peak memory")
    notes = (f"of one call with {samples} sample{'s' * (samples != 1)} on {first.device}",)
    return Table(
        title="Cost",
        columns=columns_of(names, range(1, 6)),
        rows=rows,
        notes=(*notes, *uncounted_notes(first.uncounted)),
    )


def quality_table(quality: Mapping[str, float], *, title: str) -> Table:
    """Return how well a network does, each figure with its 95 % interval or its standard error."""
    rows = tuple(
        (name, _figure(name, value) + _interval(name, quality))
        for name, value in quality.items()
        if not _is_bound(name)
    )
    return Table(title=title, columns=columns_of(("", "value"), (1,)), rows=rows)


def checks_table(verification: Verification) -> Table:
    """Return what was checked of a written folder."""
    rows = tuple((check.name, _MARKS[check.passed], check.detail) for check in verification.checks)
    return Table(
        title=f"Verified: {verification.folder}",
        columns=columns_of(("check", "result", "found"), ()),
        rows=rows,
    )


def _latency(each: Measurement) -> str:
    if each.latency is None:
        return "-"
    return f"{seconds_text(each.latency)} ± {seconds_text(each.latency_spread)}"


def _quality_row(
    name: str, before: Mapping[str, float], after: Mapping[str, float]
) -> list[tuple[str, str, str, str]]:
    if _is_bound(name) or _is_count(name) or name == "nats_per_token":
        return []
    points = f"{100 * (after[name] - before[name]):+.1f} pts" if _is_share(name) else ""
    ratio = points or ratio_text(before[name], after[name])
    return [(name, _figure(name, before[name]), _figure(name, after[name]), ratio)]


def _figure(name: str, value: float) -> str:
    if _is_count(name):
        return f"{value:,.0f}"
    return f"{100 * value:.1f} %" if _is_share(name) else number_text(value)


def _interval(name: str, quality: Mapping[str, float]) -> str:
    """How sure a figure is: its 95 % interval, else its standard error, else nothing."""
    low, high, error = (quality.get(name + end) for end in ("_low", "_high", "_stderr"))
    if low is None or high is None:
        return "" if error is None else f" ± {number_text(error)} (standard error)"
    ends = (f"{100 * end:.1f}" if _is_share(name) else number_text(end) for end in (low, high))
    return f" (95 %: {' to '.join(ends)})"


def _is_bound(name: str) -> bool:
    """Whether a figure says how sure another is."""
    return name.endswith(("_low", "_high", "_se", "_stderr"))


def _is_count(name: str) -> bool:
    return name in ("samples", "tokens") or name.endswith("_prompts")


def _is_share(name: str) -> bool:
    return name == "accuracy" or name.endswith(("_exact", "_prefix"))


def uncounted_notes(operations: Mapping[str, int]) -> tuple[str, ...]:
    """Return the note on what MACs leave out; none where they leave out nothing."""
    if not operations:
        return ()
    told = ", ".join(f"{name} × {times}" for name, times in operations.items())
    return (f"MACs leave out: {told}",)


def columns_of(names: Iterable[str], right: Iterable[int]) -> Columns:
    """Return columns of these names, those with a number in `right` aligned to the right."""
    aligned = set(right)
    return tuple((name, number in aligned) for number, name in enumerate(names))
