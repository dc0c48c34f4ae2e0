"""Which units a plan may take at all: what is protected by position, and how much each stage keeps.

Axes: L units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from shoal.errors import UnitError
from shoal.units import Chain

__all__ = ["keeps_of_each", "unprotected"]


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
