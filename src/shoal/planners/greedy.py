"""Iterative: the unit goes whose removal costs least now, all others are costed again, and so on.

Axes: L units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from shoal.errors import BudgetError, ConfigError
from shoal.planners.enough import saves_enough
from shoal.planners.ranking import give_back

__all__ = ["remove_greedily"]

Removed = tuple[int, ...]
Costs = Callable[[Removed, Sequence[Removed]], Sequence[float]]
Keeps = Callable[[Iterable[int]], bool]


def remove_greedily(
    candidates: Iterable[int],
    savings: Sequence[float],
    need: float,
    *,
    costs: Costs,
    keeps: Keeps | None = None,
    together: int = 1,
    lazy: float | None = None,
) -> Removed:
    """Return units in the order in which greedy search removes them, until enough is saved.

    Where units save differently, those go first whose removal costs least for what it saves.

    Args:
        candidates: The units that may go.
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved.
        costs: From what is removed already and several larger sets to what each costs more than it,
            or to numbers that order them so.
        keeps: Whether what else is asked still holds of a set of removed units.
        together: How many units go before all others are costed again.
        lazy: A unit is not costed again in a round while this share of its last cost is more than
            the cheapest costs now. None costs all again in every round, 1 holds costs to never
            fall as more is removed.

    Returns:
        The units that go, the first to go first.

    Raises:
        BudgetError: If all that may go does not save enough.
        ConfigError: If fewer than one go together, or `lazy` is no share.

    Example:
        >>> alone = {0: 3.0, 1: 1.0, 2: 2.0}
        >>> def costs(gone, sets):
        ...     return [sum(alone[i] for i in larger if i not in gone) for larger in sets]
        >>> remove_greedily(range(3), [1, 1, 1], 2, costs=costs)
        (1, 2)
    """
    if together < 1 or (lazy is not None and not 0 <= lazy <= 1):
        raise ConfigError(f"asked for together={together} and lazy={lazy}: 1 or more, and a share, work.")
    free = [unit for unit in candidates if savings[unit] > 0]
    removed: Removed = ()
    known = dict.fromkeys(free, -math.inf)
    while not saves_enough(savings, need, removed):
        open_now = [u for u in free if u not in removed and (keeps is None or keeps((*removed, u)))]
        fresh = _costed(removed, open_now, known, savings, costs, lazy, together)
        ranked = sorted((cost, unit) for unit, cost in fresh.items() if cost < math.inf)
        if not ranked:
            saved = math.fsum(savings[unit] for unit in removed)
            raise BudgetError(
                f"asked to save {need:g}: what may go saves {saved:g}, by removing {len(removed)} units. "
                "Ask for no more than that, or protect fewer units."
            )
        known.update(fresh)
        for _, unit in ranked[:together]:
            if not saves_enough(savings, need, removed) and (keeps is None or keeps((*removed, unit))):
                removed = (*removed, unit)
    stay = give_back(removed, savings, need)
    return tuple(unit for unit in removed if unit in stay)


def _costed(
    removed: Removed,
    units: Sequence[int],
    known: dict[int, float],
    savings: Sequence[float],
    costs: Costs,
    lazy: float | None,
    together: int,
) -> dict[int, float]:
    """What the units cost now for what they save; those that cannot be the cheapest are left out."""
    fresh: dict[int, float] = {}
    bound = _nth_lowest((known[unit] for unit in units), together)
    while chosen := [u for u in units if u not in fresh and _least(known[u], lazy) <= bound]:
        found = costs(removed, [tuple(sorted((*removed, unit))) for unit in chosen])
        fresh |= {unit: _rate(cost, savings[unit]) for unit, cost in zip(chosen, found, strict=True)}
        bound = _nth_lowest(fresh.values(), together)
    return fresh


def _least(cost: float, lazy: float | None) -> float:
    """What a unit may have come down to since it cost this."""
    return cost * lazy if lazy is not None and cost > 0 else -math.inf


def _rate(cost: float, saving: float) -> float:
    """Cost for what is saved; a gain is a gain, however little it saves."""
    return cost / saving if cost > 0 else cost


def _nth_lowest(values: Iterable[float], count: int) -> float:
    ranked = sorted(values)[:count]
    return ranked[-1] if ranked else -math.inf
