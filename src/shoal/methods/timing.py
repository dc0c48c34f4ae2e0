"""Budgets of latency: what units take by themselves predicts what a network saves, and misses a little.

The plan is applied, timed beside the original, and chosen again with the units' times corrected by
what was really saved, until the measured network meets the budget.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from shoal.errors import BudgetError
from shoal.measurement import measure_latency
from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.surgery import apply

__all__ = ["choose_on_time"]

_ROUNDS = 4
# Closer than this below the budget is close enough; no more units come back.
_SLACK = 0.08


def choose_on_time(request: Request, method: Method, settings: Any) -> Plan:
    """Return the plan whose network, measured on the device at hand, meets the latency budget.

    Raises:
        BudgetError: If no plan that was tried meets it when measured.
    """
    best: tuple[int, Plan, nn.Module | None] | None = None
    tried: set[tuple[int, ...]] = set()
    nearest, whole = 1.0, 1.0
    for _ in range(_ROUNDS):
        try:
            plan = method.choose(request, settings)
        except BudgetError:
            if best is None:
                raise
            break
        if plan.removed in tried:
            break
        tried.add(plan.removed)
        before, after = _timed(request, plan)
        goal = request.budget.allowance(before)
        nearest, whole = min(nearest, after / before), before
        if after <= goal and (best is None or len(plan.removed) < best[0]):
            known = {**plan.predicted, "latency_measured": after, "latency_before_measured": before}
            best = len(plan.removed), replace(plan, predicted=known), request.shallower
        if not plan.removed or goal * (1 - _SLACK) <= after <= goal:
            break
        _correct(request, plan, before, after)
    if best is None:
        raise BudgetError(
            f"asked for {request.budget}: the fastest plan of {len(tried)} tried takes {nearest:.3f} of the "
            f"original's time when measured. Ask for {request.attainable(nearest, whole)} or more."
        )
    request.shallower = best[2]
    return best[1]


def _timed(request: Request, plan: Plan) -> tuple[float, float]:
    small = apply(request.model, plan)
    timings = measure_latency({"before": request.model, "after": small}, request.example)
    return timings["before"].median, timings["after"].median


def _correct(request: Request, plan: Plan, before: float, after: float) -> None:
    """Scale the units' times so that what the plan's units take is what was really saved."""
    table = request.latency
    predicted = sum(table.units[index] for index in plan.removed) / table.whole
    saved = max((before - after) / before, 0.1 * predicted)
    factor = saved / predicted if predicted > 0 else 1.0
    request.latency = replace(table, units=tuple(seconds * factor for seconds in table.units))
