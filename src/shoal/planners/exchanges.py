"""Better sets of removed units by exchanging some of them, judged by a loss that can be measured.

Which exchanges are measured is decided by a guess that is learned from all that was measured before.

Axes: L units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from shoal.errors import ConfigError
from shoal.planners.guess import LossGuess

__all__ = ["Search", "improve_by_exchanges"]

Removed = tuple[int, ...]
# Sets measured together share one pass over the data.
_TOGETHER = 8
# The best sets known from which the guess is followed downhill.
_ELITE = 6


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search found.

    Attributes:
        best: The sets that are allowed with their losses, best first.
        measured: How many sets were measured.
    """

    best: tuple[tuple[Removed, float], ...]
    measured: int


def improve_by_exchanges(
    starts: Iterable[Removed],
    *,
    losses: Callable[[Sequence[Removed]], Sequence[float]],
    allowed: Callable[[Removed], bool],
    known: Mapping[Removed, float],
    candidates: Sequence[int],
    length: int,
    evaluations: int,
    patience: int = 3,
    hints: Mapping[Removed, float] | None = None,
) -> Search:
    """Return the best sets found by exchanging removed for kept units, starting from several sets.

    In every round the loss of all sets is guessed from those measured; from the best known sets the
    guess is followed downhill, one exchange at a time; and the most promising sets on the way that
    were not measured yet are measured, eight together. The search ends when so many rounds have not
    found anything better, when no exchange is left, or when so many sets were measured.

    Args:
        starts: Allowed sets to begin with.
        losses: Loss of the network without each of several sets.
        allowed: Whether a set meets the budget and whatever else is asked of it; see `meets`.
        known: Losses measured before, by set; that of the whole network, `()`, is among them. Those
            that are allowed are begun with, too.
        candidates: The units that may go.
        length: L.
        evaluations: The most sets measured, beside the starts.
        patience: Rounds without anything better after which the search ends.
        hints: Losses by set that were measured otherwise and only guide the guess.

    Raises:
        ConfigError: If no start is given, or one is not allowed.
        DataError: If the loss of the whole network is not known.

    Example:
        >>> cost = {0: 3.0, 1: 1.0, 2: 2.0}
        >>> found = improve_by_exchanges(
        ...     [(0,)], losses=lambda sets: [sum(cost[i] for i in s) for s in sets],
        ...     allowed=lambda s: len(s) == 1, known={(): 0.0}, candidates=range(3), length=3, evaluations=9)
        >>> found.best[0], found.measured
        (((1,), 1.0), 2)
    """
    begun = list(dict.fromkeys(tuple(sorted(start)) for start in starts))
    wrong = [start for start in begun if not allowed(start)]
    if not begun or wrong:
        raise ConfigError(
            f"asked to exchange units of {wrong or 'no set'}: begin with sets that are allowed."
        )
    seen = dict(known) | dict(zip(begun, losses(begun), strict=True))
    ranked = {units: loss for units, loss in seen.items() if allowed(units)}
    spent = stale = 0
    while spent < evaluations and stale < patience:
        guess = LossGuess({**(hints or {}), **seen}, length)
        elite = sorted(ranked, key=lambda units: (ranked[units], units))[:_ELITE]
        promising: dict[Removed, float] = {}
        for start in elite:
            promising |= _downhill(start, guess, allowed, candidates)
        fresh = sorted((units for units in promising if units not in seen), key=lambda u: (promising[u], u))
        chosen = fresh[: min(_TOGETHER, evaluations - spent)]
        if not chosen:
            break
        found = dict(zip(chosen, losses(chosen), strict=True))
        stale = 0 if min(found.values()) < min(ranked.values()) else stale + 1
        spent += len(chosen)
        ranked |= found
        seen |= found
    best = sorted(ranked.items(), key=lambda item: (item[1], item[0]))
    return Search(best=tuple(best), measured=spent)


def _downhill(
    start: Removed, guess: LossGuess, allowed: Callable[[Removed], bool], candidates: Sequence[int]
) -> dict[Removed, float]:
    """All sets looked at on the way from a set to where the guess does not fall any more."""
    looked: dict[Removed, float] = {}
    here, height = start, float(guess([start])[0])
    while True:
        near = [units for units in _neighbours(here, candidates, allowed) if units not in looked]
        if not near:
            return looked
        looked |= dict(zip(near, map(float, guess(near)), strict=True))
        lowest = min(near, key=lambda units: (looked[units], units))
        if looked[lowest] >= height - 1e-12:
            return looked
        here, height = lowest, looked[lowest]


def _neighbours(
    removed: Removed, candidates: Sequence[int], allowed: Callable[[Removed], bool]
) -> list[Removed]:
    """All allowed sets in which one unit is restored, and none, one or, if need be, two others go."""
    rest = [unit for unit in candidates if unit not in removed]
    found: list[Removed] = []
    for back in removed:
        kept = tuple(unit for unit in removed if unit != back)
        if allowed(kept):
            found.append(kept)
        single = {unit: tuple(sorted((*kept, unit))) for unit in rest}
        enough = {unit for unit, units in single.items() if allowed(units)}
        found += [single[unit] for unit in sorted(enough)]
        # Units that save less than the one that comes back may do so two at a time.
        scarce = [unit for unit in rest if unit not in enough]
        pairs = combinations(scarce, 2) if math.comb(len(scarce), 2) <= 400 else ()
        found += [units for pair in pairs if allowed(units := tuple(sorted((*kept, *pair))))]
    return found
