"""Pure: tables and a budget -> which units to remove. Nothing here knows models or tensors."""

from shoal.planners.counts import keep_counts, top_units
from shoal.planners.discretised import discretised_plan
from shoal.planners.enough import is_enough, saves_enough
from shoal.planners.exchanges import Search, improve_by_exchanges
from shoal.planners.exhaustive import cheapest_subset
from shoal.planners.fronts import FrontPoint, Option, best_within, merge_front
from shoal.planners.greedy import remove_greedily
from shoal.planners.positions import remove_evenly, remove_last
from shoal.planners.proposals import cheapest_removals
from shoal.planners.protection import check_protection, meets, unprotected
from shoal.planners.ranking import give_back, remove_in_order, remove_lowest
from shoal.planners.requirement import Requirement, savings_for
from shoal.planners.runs import Removal, cheapest_removal, frontier, largest_removal
from shoal.planners.shares import best_subset, removal_by_shares
from shoal.planners.windows import cheapest_window, largest_window

__all__ = [
    "FrontPoint",
    "Option",
    "Removal",
    "Requirement",
    "Search",
    "best_subset",
    "best_within",
    "cheapest_removal",
    "cheapest_removals",
    "cheapest_subset",
    "cheapest_window",
    "check_protection",
    "discretised_plan",
    "frontier",
    "give_back",
    "improve_by_exchanges",
    "is_enough",
    "keep_counts",
    "largest_removal",
    "largest_window",
    "meets",
    "merge_front",
    "removal_by_shares",
    "remove_evenly",
    "remove_greedily",
    "remove_in_order",
    "remove_last",
    "remove_lowest",
    "saves_enough",
    "savings_for",
    "top_units",
    "unprotected",
]
