"""Greedy: the control of all that choose by measured loss. Every unit is measured in every round.

It is SLEB without protected units and without a round in which something is not measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan

__all__ = ["METHOD", "GreedySettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class GreedySettings:
    """Exact greedy search leaves nothing to set."""


def choose(request: Request, settings: GreedySettings) -> Plan:
    """Return the plan that removes, one after the other, the unit that costs least.

    Raises:
        BudgetError: If no plan meets the budget.
        DataError: If there is nothing to compute a loss from, or it is not finite.
    """
    removed, facts = request.least_lost()
    return request.plan(removed, method="greedy", settings=asdict(settings), predicted=facts)


METHOD = Method(
    name="greedy",
    help="control: exact greedy search by measured loss, all measured in every round",
    settings=GreedySettings,
    presets={"default": GreedySettings(), "paper": GreedySettings()},
    choose=choose,
    control=True,
)
