"""What a network takes before and after, as rows of text: parameters, file, MACs, cache."""

from __future__ import annotations

from collections.abc import Callable

from shoal.measurement.cache import CacheSize
from shoal.measurement.footprint import Footprint
from shoal.reports.numbers import bytes_text, count_text, ratio_text
from shoal.reports.tables import Table, uncounted_notes

__all__ = ["footprint_table"]

Row = tuple[str, str, str, str]


def footprint_table(before: Footprint, after: Footprint, *, samples: int = 1) -> Table:
    """Return what a network took and takes now, told from its shapes.

    Args:
        before: Of the original.
        after: Of the network without the removed units.
        samples: How many samples the example holds that MACs were counted for.
    """
    rows = [
        _row("parameters", before.params, after.params, count_text),
        _row("weights", before.weights, after.weights, bytes_text),
        _row("MACs", before.macs, after.macs, count_text),
        *_cache_rows(before.cache, after.cache),
    ]
    notes = [f"MACs of one call with {samples} sample{'s' * (samples != 1)}; nothing was run on weights"]
    if before.cache is None:
        notes.append("the model hands out no cache")
    notes += uncounted_notes(before.uncounted)
    columns = (("", False), ("before", True), ("after", True), ("ratio", True))
    return Table(title="Footprint", columns=columns, rows=tuple(rows), notes=tuple(notes))


def _cache_rows(before: CacheSize | None, after: CacheSize | None) -> list[Row]:
    """Of one sequence: what its first token adds, what one past every window adds, and the rest."""
    if before is None or after is None:
        return []
    kept = sorted({*before.windows, *after.windows})
    rows = [_row("cache a token", before.per_first_token, after.per_first_token, _bytes)]
    if kept:
        rows.append(_row(f"cache a token past {kept[-1]}", before.per_token, after.per_token, _bytes))
    if before.state:
        rows.append(_row("state of a sequence", before.state, after.state, _bytes))
    return rows


def _row(name: str, before: float, after: float, text: Callable[..., str]) -> Row:
    return name, text(before), text(after), ratio_text(before, after)


def _bytes(count: float) -> str:
    return bytes_text(round(count))
