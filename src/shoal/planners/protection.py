"""What a set of removed units has to respect: protected units, a unit of every segment, the budget.

Axes: L units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.errors import ConfigError, UnitError
from shoal.planners.enough import saves_enough
from shoal.units import Chain, Segment

__all__ = ["check_protection", "meets", "unprotected"]

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
        kept = (any(unit not in gone for unit in segment) for segment in segments)
        return saves_enough(savings, need, gone) and all(kept)

    return test
