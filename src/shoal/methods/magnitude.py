"""Magnitude: the units of smallest weights go, in one shot.

    I of unit n = sum over its parameters of |W|

It needs no data, and knows nothing of what a unit does. First units are small and cannot be spared in
language models: on LLaMA-7B the first two have the lowest sums (the authors' released orders), so that
the default keeps two. `preset="paper"` keeps the first four and the last two ("+").

Reference: Kim et al., 2024, "Shortened LLaMA: Depth Pruning for Large Language Models with Comparison
of Retraining Methods", https://arxiv.org/abs/2402.02834.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import check_protection

__all__ = ["METHOD", "MagnitudeSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class MagnitudeSettings:
    """How units are chosen by the size of their weights.

    Attributes:
        protect_first: How many units at the beginning of the chain stay in any case.
        protect_last: How many at its end.
    """

    protect_first: int = 2
    protect_last: int = 0

    def __post_init__(self) -> None:
        check_protection(self.protect_first, self.protect_last)


def choose(request: Request, settings: MagnitudeSettings) -> Plan:
    """Return the plan that removes the units of smallest weights.

    Raises:
        BudgetError: If no plan meets the budget.
        UnitError: If all units are protected.
    """
    removed, facts = request.lowest(
        "magnitude", protect_first=settings.protect_first, protect_last=settings.protect_last
    )
    return request.plan(removed, method="magnitude", settings=asdict(settings), predicted=facts)


METHOD = Method(
    name="magnitude",
    help="the units of smallest weights, one shot, without data: a weak rule to compare with",
    settings=MagnitudeSettings,
    presets={"default": MagnitudeSettings(), "paper": MagnitudeSettings(protect_first=4, protect_last=2)},
    choose=choose,
    by_evidence=lambda settings: True,
)
