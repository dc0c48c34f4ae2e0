"""Perplexity: the units without which the measured loss rises least go, in one shot.

    I of unit n = mean loss of the network without n

of which the perplexity is the exponential, with the same order. Any loss will do: classifiers are
ranked by their cross-entropy. Each unit is left out once, and what comes before it is not computed
again. `preset="paper"` keeps the first four units and the last two ("+"), as the released code does.

Reference: Kim et al., 2024, "Shortened LLaMA: Depth Pruning for Large Language Models with Comparison
of Retraining Methods", https://arxiv.org/abs/2402.02834.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import check_protection

__all__ = ["METHOD", "PerplexitySettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class PerplexitySettings:
    """How units are chosen by the loss without each of them.

    Attributes:
        protect_first: How many units at the beginning of the chain stay in any case.
        protect_last: How many at its end.
    """

    protect_first: int = 0
    protect_last: int = 0

    def __post_init__(self) -> None:
        check_protection(self.protect_first, self.protect_last)


def choose(request: Request, settings: PerplexitySettings) -> Plan:
    """Return the plan that removes the units whose removal alone costs least.

    Its `scores` are the losses added by each alone, its `loss` is measured without all of them.

    Raises:
        BudgetError: If no plan meets the budget.
        DataError: If there is nothing to compute a loss from, or it is not finite.
        UnitError: If all units are protected.
    """
    removed, facts = request.lowest(
        "skip_loss", protect_first=settings.protect_first, protect_last=settings.protect_last
    )
    known: dict[str, object] = dict(facts)
    if removed:
        known["loss_before"], known["loss"] = request.losses.of([(), removed])
    return request.plan(removed, method="perplexity", settings=asdict(settings), predicted=known)


METHOD = Method(
    name="perplexity",
    help="the units whose removal alone adds least to the measured loss (of text or classes), one shot",
    settings=PerplexitySettings,
    presets={"default": PerplexitySettings(), "paper": PerplexitySettings(protect_first=4, protect_last=2)},
    choose=choose,
)
