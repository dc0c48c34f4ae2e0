"""Several opinions on what units cost, several divisions into segments: the plans that they propose.

Axes: L units.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.errors import BudgetError, ConfigError
from shoal.planners.protection import meets
from shoal.planners.runs import cheapest_removal
from shoal.tables import ImportanceTable
from shoal.units import Segment

__all__ = ["cheapest_removals"]

Division = tuple[Segment, ...]


def cheapest_removals(
    tables: Sequence[ImportanceTable],
    divisions: Sequence[Division],
    savings: Sequence[float],
    need: float,
    *,
    length: int,
) -> dict[tuple[int, ...], Division]:
    """Return the cheapest removal by every table under every division, each once.

    Args:
        tables: What the removal of runs costs, by one opinion each.
        divisions: Segments of the chain, coarsest first; of each segment a unit is kept.
        savings: What the removal of each unit saves, `(L,)`.
        need: How much must be saved.
        length: L.

    Returns:
        The removals, with the finest division that each respects of those that proposed it. The
        first is that of the first table under the first division.

    Raises:
        BudgetError: If no table under any division allows a removal that saves enough.
        ConfigError: If there is no table or no division.

    Example:
        >>> tables = [ImportanceTable.additive(costs, range(3)) for costs in ([1, 2, 3], [3, 2, 1])]
        >>> list(cheapest_removals(tables, [(Segment(0, 3),)], [1, 1, 1], 1, length=3))
        [(0,), (2,)]
    """
    if not tables or not divisions:
        raise ConfigError(
            f"asked for plans by {len(tables)} tables under {len(divisions)} divisions: give one or more "
            "of each."
        )
    proposals: dict[tuple[int, ...], Division] = {}
    refusal: BudgetError | None = None
    for table in tables:
        # The cheapest of all is also the cheapest under every division that it respects.
        free: tuple[int, ...] | None = None
        for division in (None, *divisions):
            cuts, found = division or (), free
            try:
                if found is None or not meets(savings, need, cuts)(found):
                    found = cheapest_removal(table, savings, need, length=length, segments=cuts).removed
            except BudgetError as error:
                refusal = refusal or (error if division else None)
                continue
            if division is None:
                free = found
            else:
                proposals[found] = max(proposals.get(found, ()), division, key=len)
    if refusal is not None and not proposals:
        raise refusal
    return proposals
