"""Uniform: evenly spaced units go, whatever they do.

A control that scores have to beat: on diffusion transformers every other block taken out was reported
as better than scores by damage (Fang et al., 2024, "TinyFusion", https://arxiv.org/abs/2412.01199).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import remove_evenly

__all__ = ["METHOD", "UniformSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class UniformSettings:
    """Even spacing leaves nothing to set."""


def choose(request: Request, settings: UniformSettings) -> Plan:
    """Return the plan that removes as few evenly spaced units, of those that can go, as meet the budget.

    Raises:
        BudgetError: If no plan meets the budget.
    """
    removed = remove_evenly(request.chain.removable, *request.savings())
    return request.plan(removed, method="uniform", settings=asdict(settings), predicted={})


METHOD = Method(
    name="uniform",
    help="control: evenly spaced units",
    settings=UniformSettings,
    presets={"default": UniformSettings(), "paper": UniformSettings()},
    choose=choose,
    by_evidence=lambda settings: True,
    control=True,
)
