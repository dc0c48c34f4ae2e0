"""Pure: tables and a budget -> which units to remove. Nothing here knows models or tensors."""

from shoal.planners.counts import keep_counts, top_units
from shoal.planners.exhaustive import cheapest_subset
from shoal.planners.requirement import Requirement, savings_for
from shoal.planners.runs import Removal, cheapest_removal, frontier, largest_removal
from shoal.planners.swaps import improve_by_swaps

__all__ = [
    "Removal",
    "Requirement",
    "cheapest_removal",
    "cheapest_subset",
    "frontier",
    "improve_by_swaps",
    "keep_counts",
    "largest_removal",
    "savings_for",
    "top_units",
]
