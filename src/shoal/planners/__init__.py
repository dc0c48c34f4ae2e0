"""Pure: tables and a budget -> which units to remove. Nothing here knows models or tensors."""

from shoal.planners.counts import keep_counts, top_units
from shoal.planners.exhaustive import cheapest_subset
from shoal.planners.greedy import remove_greedily
from shoal.planners.proposals import cheapest_removals
from shoal.planners.protection import keeps_of_each, unprotected
from shoal.planners.ranking import give_back, remove_in_order, remove_lowest
from shoal.planners.requirement import Requirement, savings_for
from shoal.planners.runs import Removal, cheapest_removal, frontier, largest_removal
from shoal.planners.shares import best_subset, removal_by_shares
from shoal.planners.swaps import improve_by_swaps, meets

__all__ = [
    "Removal",
    "Requirement",
    "best_subset",
    "cheapest_removal",
    "cheapest_removals",
    "cheapest_subset",
    "frontier",
    "give_back",
    "improve_by_swaps",
    "keep_counts",
    "keeps_of_each",
    "largest_removal",
    "meets",
    "removal_by_shares",
    "remove_greedily",
    "remove_in_order",
    "remove_lowest",
    "savings_for",
    "top_units",
    "unprotected",
]
