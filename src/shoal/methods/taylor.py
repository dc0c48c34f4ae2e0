"""Taylor: the units whose weights the loss depends on least, to first order, go in one shot.

    I of unit n = sum over its parameters of |dL/dW · W|

with L the mean loss over all the data: products are summed with their signs over the samples and the
absolute value is taken last, as the released code does. One forward and one backward pass. On language
models the score may put the first unit first, which cannot be spared, so that the default keeps it;
`preset="paper"` keeps the first four and the last two ("+").

Reference: Kim et al., 2024, "Shortened LLaMA: Depth Pruning for Large Language Models with Comparison
of Retraining Methods", https://arxiv.org/abs/2402.02834.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import check_protection

__all__ = ["METHOD", "TaylorSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class TaylorSettings:
    """How units are chosen by Taylor scores.

    Attributes:
        protect_first: How many units at the beginning of the chain stay in any case.
        protect_last: How many at its end.
    """

    protect_first: int = 1
    protect_last: int = 0

    def __post_init__(self) -> None:
        check_protection(self.protect_first, self.protect_last)


def choose(request: Request, settings: TaylorSettings) -> Plan:
    """Return the plan that removes the units of lowest Taylor score.

    Raises:
        BudgetError: If no plan meets the budget.
        DataError: If there is nothing to compute a loss from.
        UnitError: If all units are protected.
    """
    removed, facts = request.lowest(
        "taylor", protect_first=settings.protect_first, protect_last=settings.protect_last
    )
    return request.plan(removed, method="taylor", settings=asdict(settings), predicted=facts)


METHOD = Method(
    name="taylor",
    help="the units of least |gradient · weight| (Shortened LLaMA), one shot, one backward pass",
    settings=TaylorSettings,
    presets={"default": TaylorSettings(), "paper": TaylorSettings(protect_first=4, protect_last=2)},
    choose=choose,
    by_evidence=lambda settings: True,
)
