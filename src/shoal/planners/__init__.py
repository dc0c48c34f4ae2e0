"""Pure: tables and a budget -> which units to remove. Nothing here knows models or tensors."""

from shoal.planners.counts import keep_counts, top_units
from shoal.planners.exhaustive import cheapest_subset
from shoal.planners.proposals import cheapest_removals
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
    "improve_by_swaps",
    "keep_counts",
    "largest_removal",
    "meets",
    "removal_by_shares",
    "savings_for",
    "top_units",
]
