"""How many segments come into question, and in what order they are tried.

Axes: L units.
"""

from __future__ import annotations

from typing import Literal

from numpy.typing import ArrayLike

from shoal.errors import ConfigError
from shoal.segmentation.choice import bic, penalised, released_rule
from shoal.segmentation.fisher import released_backtracking, row_sums
from shoal.units import Segment, Segmentation

__all__ = ["Rule", "numbers_of_segments", "released_segments"]

Rule = Literal["penalised", "bic", "released", "all"]


def numbers_of_segments(segmentation: Segmentation, rule: int | Rule, *, most: int) -> list[int]:
    """Return the numbers of segments that come into question, in the order in which they do.

    A division into many segments, each of which keeps a unit, may not leave room for a budget; what
    a rule chose is then followed by ever fewer segments. A number stands alone.

    Args:
        segmentation: The best segmentations.
        rule: A number of segments, or `penalised`, `bic`, `released` (see the functions of these
            names), or `all` for 1 … most.
        most: The most segments of `released` and `all`.

    Raises:
        ConfigError: If there is no such rule.

    Example:
        >>> from shoal.segmentation import segment_series
        >>> numbers_of_segments(segment_series([0, 0, 0, 9, 9, 9]), "bic", most=6)
        [2, 1]
    """
    most = min(most, segmentation.length)
    if isinstance(rule, int):
        return [rule]
    if rule == "all":
        return list(range(1, most + 1))
    if rule == "released":
        return list(range(released_rule(segmentation, most=most), 0, -1))
    rules = {"penalised": penalised, "bic": bic}
    if rule not in rules:
        raise ConfigError(
            f"asked for segments={rule!r}: a number or one of {', '.join(rules)}, released, all works."
        )
    return list(range(rules[rule](segmentation), 0, -1))


def released_segments(similarity: ArrayLike, k: int) -> tuple[Segment, ...]:
    """Return the k segments that the released SGLP code cuts a chain into: by row sums, cuts too late.

    Args:
        similarity: `(L, L)`, as for `segment_similarity`.
        k: The number of segments, 1 … L.

    Raises:
        ConfigError: If k is not in 1 … L.
        DataError: If the similarity is no square matrix of finite numbers.

    Example:
        >>> [str(segment) for segment in released_segments([[1, 1, 0], [1, 1, 0], [0, 0, 1]], 2)]
        ['[0, 2)', '[2, 3)']
    """
    sums = row_sums(similarity)
    starts = released_backtracking(sums, k)
    return tuple(map(Segment, starts, (*starts[1:], len(sums))))
