"""Random: units go in an order drawn at random, all orders being as likely.

One draw says little: compare with five or more, the seeds of which are named, and protect what the
method protects that is compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random

from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import check_protection, remove_in_order, unprotected

__all__ = ["METHOD", "RandomSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class RandomSettings:
    """Which order is drawn.

    Attributes:
        seed: Of the draw.
        protect_first: How many units at the beginning of the chain stay in any case.
        protect_last: How many at its end.
    """

    seed: int = 0
    protect_first: int = 0
    protect_last: int = 0

    def __post_init__(self) -> None:
        check_protection(self.protect_first, self.protect_last)


def choose(request: Request, settings: RandomSettings) -> Plan:
    """Return the plan that removes units in a random order until the budget is met.

    Raises:
        BudgetError: If no plan meets the budget.
        UnitError: If all units are protected.
    """
    order = list(unprotected(request.chain, first=settings.protect_first, last=settings.protect_last))
    savings, need = request.savings(candidates=order)
    Random(settings.seed).shuffle(order)
    removed = remove_in_order(order, savings, need)
    return request.plan(removed, method="random", settings=asdict(settings), predicted={})


METHOD = Method(
    name="random",
    help="control: a random order; draw several seeds",
    settings=RandomSettings,
    presets={"default": RandomSettings(), "paper": RandomSettings()},
    choose=choose,
    by_evidence=lambda settings: True,
    draws=True,
    control=True,
)
