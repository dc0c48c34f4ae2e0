"""Block influence: the units that turn their input least go, in one shot.

    BI of unit l = 1 - mean over samples and tokens of cos(input of l, output of l)

One forward pass, no labels. The default ranks all units that can go; `preset="paper"` is the same, as
the paper protects none.

Reference: Men et al., 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You
Expect", https://arxiv.org/abs/2403.03853.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import check_protection

__all__ = ["METHOD", "BlockInfluenceSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class BlockInfluenceSettings:
    """How units are chosen by block influence.

    Attributes:
        protect_first: How many units at the beginning of the chain stay in any case.
        protect_last: How many at its end.
    """

    protect_first: int = 0
    protect_last: int = 0

    def __post_init__(self) -> None:
        check_protection(self.protect_first, self.protect_last)


def choose(request: Request, settings: BlockInfluenceSettings) -> Plan:
    """Return the plan that removes the units of lowest block influence.

    Raises:
        BudgetError: If no plan meets the budget.
        DataError: If the input and output of a unit cannot be compared.
        UnitError: If all units are protected.
    """
    removed, facts = request.lowest(
        "block_influence", protect_first=settings.protect_first, protect_last=settings.protect_last
    )
    return request.plan(removed, method="block_influence", settings=asdict(settings), predicted=facts)


METHOD = Method(
    name="block_influence",
    help="the units that turn their input least (ShortGPT), one shot, one forward pass",
    settings=BlockInfluenceSettings,
    presets={"default": BlockInfluenceSettings(), "paper": BlockInfluenceSettings()},
    choose=choose,
    by_evidence=lambda settings: True,
)
