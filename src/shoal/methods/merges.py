"""What the methods that merge convolutions share: entries, what they cost and lose, the front, the plan; and
LayerMerge's special cases, which allow fewer ways to rewrite a segment.

For budgets of latency the plan is carried out and timed beside the original, and chosen again with the
table scaled to what was really saved, until the measured network meets the budget.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from shoal.errors import BudgetError
from shoal.importance import MergeLossSettings
from shoal.layers import MergeEntry
from shoal.measurement import count_macs, count_params
from shoal.methods import Method
from shoal.methods.merge_tables import MergeTables
from shoal.methods.merging_settings import MergeSettings
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import FrontPoint
from shoal.surgery import EntryRules, merge_

__all__ = ["MERGES_ALONE", "REMOVALS_ALONE", "choose_merges", "special_case"]

REMOVALS_ALONE = EntryRules(merge=False)
MERGES_ALONE = EntryRules(prune=False, empty=False)

_ROUNDS = 5
# Closer than this below the budget is close enough.
_SLACK = 0.05
# The special cases with which a plan is compared as a whole.
_CASES = {"removals alone": REMOVALS_ALONE, "merges alone": MERGES_ALONE}


def special_case(name: str, help: str, rules: EntryRules) -> Method:
    """Return the method that is LayerMerge with fewer ways to rewrite segments, to be compared with it.

    Its preset `paper` measures every entry as published. The sum of added losses is made small in any case:
    layers that stay as they are need not be learnt anew.

    Args:
        name: What users type.
        help: One line for those who choose.
        rules: Which ways to rewrite segments are looked at.
    """
    importance = replace(MergeLossSettings.published(), fresh_single=False)
    return Method(
        name=name,
        help=help,
        settings=MergeSettings,
        presets={
            "default": MergeSettings(),
            "paper": MergeSettings(importance=importance, measure="all", time_all=True),
        },
        choose=partial(choose_merges, method=name, rules=rules),
        granularity="layer",
        times_itself=True,
    )


def choose_merges(
    request: Request, settings: MergeSettings, *, method: str, rules: EntryRules, whole_steps: int = 0
) -> Plan:
    """Return the plan of merges that meets the budget and loses least.

    Args:
        request: What is asked.
        settings: How.
        method: Whose name the plan bears.
        rules: Which ways to rewrite segments are looked at.
        whole_steps: Steps of training after which the best plan by the tables is compared, as a whole
            network, with those of its special cases; 0 for not at all.

    Raises:
        BudgetError: If no plan meets the budget; names the nearest that can be had.
        DataError: If the data does not allow the losses that are asked for.
        UnknownArchitectureError: If no convolution of the network can be followed.
    """
    tables = MergeTables(request, settings, rules)
    found = {"merges and removals": _choice(tables)}
    for case, fewer in _CASES.items() if whole_steps else ():
        with suppress(BudgetError):
            found[case] = _choice(tables.only(partial(_allows, fewer)))
    plans = {case: tables.steps(chosen) for case, (chosen, _) in found.items()}
    known: dict[str, Any] = {}
    best = next(iter(plans))
    if len(set(plans.values())) > 1:
        losses = dict(zip(plans, tables.losses.of_plans(list(plans.values()), whole_steps), strict=True))
        best = min(losses, key=lambda case: losses[case])
        known = {"compared_whole": losses}
    chosen, facts = found[best]
    left = merge_(tables.convolutions.copy(), plans[best]) if plans[best] else request.model
    counts = {"params": count_params(left), "macs": count_macs(left, request.example).total}
    tables.check(counts)
    return Plan.merging(
        request.chain,
        plans[best],
        budget=request.budget,
        method=method,
        settings=asdict(settings) | {"rules": asdict(rules)},
        predicted=tables.facts(chosen) | facts | counts | known,
    )


def _allows(rules: EntryRules, entry: MergeEntry) -> bool:
    """Whether the rules of a special case allow an entry that the general ones do."""
    whole = len(entry.kept) == len(entry.segment)
    return (rules.merge or len(entry.segment) == 1) and (rules.prune or whole)


def _choice(tables: MergeTables) -> tuple[FrontPoint, dict[str, Any]]:
    """The best choice by the tables, and what remains."""
    quantity = tables.request.budget.quantity
    if quantity == "latency":
        return _on_time(tables)
    chosen = tables.best(tables.allowance)
    return chosen, {quantity: round(tables.rest + chosen.cost)}


def _on_time(tables: MergeTables) -> tuple[FrontPoint, dict[str, Any]]:
    """Return the choice whose network, measured, meets a budget of latency, and what was measured."""
    best: tuple[float, FrontPoint, dict[str, Any]] | None = None
    nearest, tried = 1.0, set[tuple[int, ...]]()
    for _ in range(_ROUNDS):
        try:
            chosen = tables.best(tables.allowance)
        except BudgetError:
            # The table may be wrong by a factor: what the cheapest choice really saves tells it.
            chosen = tables.cheapest()
        if chosen.options in tried:
            break
        tried.add(chosen.options)
        predicted = tables.rest + tables.scale * chosen.cost
        by_table = tables.before[1] - sum(tables.unchanged.values()) + chosen.cost
        before, after = tables.timed(merge_(tables.convolutions.copy(), tables.steps(chosen)))
        share = after / before
        nearest = min(nearest, share)
        known = {
            "latency": predicted,
            "latency_by_table": by_table,
            "latency_before": tables.before[0],
            "latency_folded": tables.before[1],
            "latency_measured": after,
            "latency_before_measured": before,
        }
        meets = share <= tables.allowance / tables.before[0]
        if meets and (best is None or chosen.loss < best[0]):
            best = chosen.loss, chosen, known
        if meets and share >= (1 - _SLACK) * tables.allowance / tables.before[0]:
            break
        _rescale(tables, chosen, share * tables.before[0])
    if best is None:
        raise BudgetError(
            f"asked for {tables.request.budget}: the fastest plan of {len(tried)} tried takes {nearest:.3f} "
            "of the original's time when measured. Ask for "
            f"{tables.request.attainable(nearest, tables.before[0])} or more."
        )
    return best[1], best[2]


def _rescale(tables: MergeTables, chosen: FrontPoint, after: float) -> None:
    """Scale the table so that it predicts what the choice really saved."""
    by_table = sum(tables.unchanged.values()) - chosen.cost
    saved = tables.before[1] - after
    if by_table > 0:
        tables.scale = min(3.0, max(0.2, saved / by_table))
