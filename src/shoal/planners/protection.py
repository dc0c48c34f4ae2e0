"""What a set of removed units has to respect: protected units, what each stage keeps, the budget.

Axes: L units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from shoal.errors import ConfigError, UnitError
from shoal.units import Chain, Segment

__all__ = ["check_protection", "keeps_of_each", "meets", "unprotected"]

Removed = tuple[int, ...]


def check_protection(first: int, last: int) -> None:
    """Check how many units settings protect at either end of the chain.

    Raises:
        ConfigError: If a number is negative.
    """
    if first < 0 or last < 0:
        raise ConfigError(
            f"asked for protect_first={first} and protect_last={last}: numbers from 0 upwards work."
        )


def unprotected(chain: Chain, *, first: int = 0, last: int = 0) -> tuple[int, ...]:
    """Return the removable units that are not among the first or last of the chain.

    Args:
        chain: The units.
        first: How many units at the beginning of the chain stay in any case.
        last: How many at its end.

    Raises:
        UnitError: If none is left.
    """
    free = tuple(index for index in chain.removable if first <= index < len(chain) - last)
    if not free:
        raise UnitError(
            f"asked to remove units of {chain.model} with the first {first} and the last {last} of "
            f"{len(chain)} protected: none of the {len(chain.removable)} removable units "
            "is left. Protect fewer."
        )
    return free


def keeps_of_each(groups: Iterable[Sequence[int]], floor: int) -> Callable[[Iterable[int]], bool]:
    """Return a test of whether a set of removed units leaves `floor` units in each group.

    Groups that have fewer from the start must stay whole.

    Args:
        groups: Units of every group, such as `chain.groups.values()`.
        floor: How many of each stay at least.

    Example:
        >>> test = keeps_of_each([[0, 1, 2], [3]], 1)
        >>> test([0, 1]), test([3])
        (True, False)
    """
    members = [frozenset(group) for group in groups]

    def test(removed: Iterable[int]) -> bool:
        gone = frozenset(removed)
        return all(len(group - gone) >= min(floor, len(group)) for group in members)

    return test


def meets(
    savings: Sequence[float], need: float, segments: Sequence[Segment] = ()
) -> Callable[[Removed], bool]:
    """Return a test of whether a set saves `need` and leaves a unit in each segment.

    Args:
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved, up to a rounding of 1e-9 of it.
        segments: Of each, at least one unit is kept.

    Example:
        >>> test = meets([1, 1, 1], 2, [Segment(0, 2)])
        >>> test((0, 1)), test((1, 2)), test((2,))
        (False, True, False)
    """

    def test(removed: Removed) -> bool:
        gone = set(removed)
        enough = sum(savings[unit] for unit in gone) >= need * (1 - 1e-9)
        return enough and all(any(unit not in gone for unit in segment) for segment in segments)

    return test
