"""Last: the deepest units go, whatever they do.

Two rules are in use. The default keeps the final unit and removes the n before it, [L - 1 - n, L - 1)
(the simple rule of Gromov et al., 2024, https://arxiv.org/abs/2403.17887). `preset="paper"` removes
the last n, [L - n, L), the final unit with them (reverse order; Lu et al., 2024, "Reassessing Layer
Pruning in LLMs", https://arxiv.org/abs/2411.15558), which those who tune afterwards report as good.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import remove_last, unprotected

__all__ = ["METHOD", "LastSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class LastSettings:
    """Which units count as the last.

    Attributes:
        keep_final: Whether the final unit of the chain stays.
    """

    keep_final: bool = True


def choose(request: Request, settings: LastSettings) -> Plan:
    """Return the plan that removes as few of the last units as meet the budget.

    Raises:
        BudgetError: If no plan meets the budget.
        UnitError: If the final unit is kept and is the only one that can go.
    """
    free = unprotected(request.chain, last=int(settings.keep_final))
    savings, need = request.savings(candidates=free)
    removed = remove_last(free, savings, need)
    return request.plan(removed, method="last", settings=asdict(settings), predicted={})


METHOD = Method(
    name="last",
    help="control: the last units, the final one kept (preset paper: the final one too)",
    settings=LastSettings,
    presets={"default": LastSettings(), "paper": LastSettings(keep_final=False)},
    choose=choose,
    by_evidence=lambda settings: True,
    control=True,
)
