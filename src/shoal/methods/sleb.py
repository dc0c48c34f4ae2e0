"""SLEB: the unit goes without which the measured loss is lowest, all others are measured again, and
so on.

    cost of unit j = mean loss of what is left without j, less the loss of what is left

What comes before a unit is not computed again for it. By default units that cost much more than the
cheapest are not measured in every round (`lazy`); where units save differently, the cost for what is
saved decides. `preset="paper"` measures all in every round and keeps the first and the last unit, as
the released code does.

Reference: Song et al., 2024, "SLEB: Streamlining LLMs through Redundancy Verification and Elimination
of Transformer Blocks", https://arxiv.org/abs/2402.09025.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.errors import ConfigError
from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import check_protection

__all__ = ["METHOD", "SLEBSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class SLEBSettings:
    """How units are chosen one after the other.

    Attributes:
        lazy: A unit is not measured again in a round while this share of what it cost last is more
            than the cheapest costs now; all are in every round where it is None.
        protect_first: How many units at the beginning of the chain stay in any case.
        protect_last: How many at its end.
    """

    lazy: float | None = 0.5
    protect_first: int = 0
    protect_last: int = 0

    def __post_init__(self) -> None:
        check_protection(self.protect_first, self.protect_last)
        if self.lazy is not None and not 0 <= self.lazy <= 1:
            raise ConfigError(f"asked for lazy={self.lazy}: a share from 0 to 1, or None, works.")


PAPER = SLEBSettings(lazy=None, protect_first=1, protect_last=1)


def choose(request: Request, settings: SLEBSettings) -> Plan:
    """Return the plan that removes, one after the other, the unit that costs least.

    Raises:
        BudgetError: If no plan meets the budget.
        DataError: If there is nothing to compute a loss from, or it is not finite.
        UnitError: If all units are protected.
    """
    removed, facts = request.least_lost(**asdict(settings))
    return request.plan(removed, method="sleb", settings=asdict(settings), predicted=facts)


METHOD = Method(
    name="sleb",
    help="greedy by measured loss, with what a removal cannot change not measured again (SLEB)",
    settings=SLEBSettings,
    presets={"default": SLEBSettings(), "paper": PAPER},
    choose=choose,
)
