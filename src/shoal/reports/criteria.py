"""All criteria side by side: how each ranks the units, and how far they agree.

Criteria have letters for headings, so that a dozen of them fit on a terminal of 120 columns.

Axes: L units, from 0.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from string import ascii_uppercase

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.errors import DataError
from shoal.reports.tables import Table, evidence_table
from shoal.result import Evidence

__all__ = ["agreement_table", "criteria_table", "evidence_tables", "rank_correlation"]

_WIDTH = 110
# Columns of values that stand side by side on a terminal of 120 columns.
_MOST = 6


def evidence_tables(evidence: Evidence) -> tuple[Table, ...]:
    """Return `evidence_table` in parts that a terminal has room for."""
    names = list(evidence.importance)
    parts = max(1, math.ceil(len(names) / _MOST))
    size = math.ceil(len(names) / parts)
    return tuple(evidence_table(evidence, names[size * n : size * (n + 1)]) for n in range(parts))


def criteria_table(evidence: Evidence) -> Table:
    """Return the rank of every unit under every criterion; 1 = least important, removed first.

    Only units that can be removed are ranked. Units of one score share the lower rank.
    """
    chain, scores = evidence.chain, evidence.importance
    ranks = {name: _ranks(values, chain.removable) for name, values in scores.items()}
    rows = tuple(
        (str(unit.index), unit.name, *(ranked.get(unit.index, "-") for ranked in ranks.values()))
        for unit in chain
    )
    letters = _letters(len(scores))
    key = ", ".join(f"{letter} {name}" for letter, name in zip(letters, scores, strict=True))
    return Table(
        title=f"Rank among the {len(chain.removable)} units that can be removed "
        "(1 = least important, would be removed first)",
        columns=(("unit", True), ("name", False), *((letter, True) for letter in letters)),
        rows=rows,
        notes=(*textwrap.wrap(key, _WIDTH), *_why_not(rows)),
    )


def agreement_table(evidence: Evidence) -> Table:
    """Return the rank correlation of every two criteria, over the units that can be removed."""
    scores, removable = evidence.importance, list(evidence.chain.removable)
    letters = _letters(len(scores))
    free = [values[removable] for values in scores.values()]
    rows = tuple(
        (letter, name, *(_share(rank_correlation(mine, other)) for other in free))
        for letter, name, mine in zip(letters, scores, free, strict=True)
    )
    return Table(
        title="Agreement of the criteria (Spearman's rank correlation; 1 = the same order, -1 = the reverse)",
        columns=(("", False), ("criterion", False), *((letter, True) for letter in letters)),
        rows=rows,
        notes=(
            "of the units that can be removed and that both score"
            + ("; -: fewer than three, or all of one score" if any("-" in row for row in rows) else ""),
        ),
    )


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation of two scores, in [-1, 1].

    Equal scores share their mean rank. NaN where fewer than three units have both scores, or where
    one of the two scores all of them alike.

    Args:
        first: Scores `(L,)`; NaN for units that were not scored, which are left out.
        second: Scores `(L,)` of the same units.

    Raises:
        DataError: If the two are not of the same length.

    Example:
        >>> round(rank_correlation([0.1, 0.2, 5.0, 7.0], [1, 3, 2, 4]), 6)
        0.8

    Reference: Spearman, 1904, https://doi.org/10.2307/1412159.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise DataError(
            f"asked for the rank correlation of scores of the shapes {one.shape} and {other.shape}: two "
            "scores of the same units, (L,), work."
        )
    both = ~(np.isnan(one) | np.isnan(other))
    one, other = (_mean_ranks(values[both]) - (both.sum() + 1) / 2 for values in (one, other))
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if both.sum() >= 3 and scale > 0 else math.nan


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return means[places]


def _ranks(values: Sequence[float] | NDArray[np.float64], among: Iterable[int]) -> dict[int, str]:
    scored = {index: float(values[index]) for index in among if not np.isnan(values[index])}
    return {i: str(1 + sum(other < mine for other in scored.values())) for i, mine in scored.items()}


def _letters(count: int) -> list[str]:
    return [ascii_uppercase[n % 26] * (1 + n // 26) for n in range(count)]


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:z.2f}"


def _why_not(rows: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return ("-: it cannot be removed, or was not scored",) if any("-" in row for row in rows) else ()
