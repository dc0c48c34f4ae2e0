import random

import pytest

from shoal.errors import BudgetError
from shoal.planners import cheapest_window, largest_window
from shoal.tables import ImportanceTable
from shoal.units import Segment


def table(length, seed):
    draw = random.Random(seed)
    windows = [Segment(start, stop) for start in range(length) for stop in range(start + 1, length + 1)]
    return ImportanceTable(entries={window: draw.random() for window in windows})


def by_hand(costs, savings, need):
    """Of the windows of which no smaller one saves enough, the one of least cost."""
    enough = [window for window in costs.entries if sum(savings[index] for index in window) >= need]
    minimal = [window for window in enough if not any(set(other) < set(window) for other in enough)]
    return min(sorted(minimal), key=lambda window: costs[window])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("need", [1, 3, 10, 20])
def test_it_is_the_cheapest_of_the_windows_within_which_no_other_saves_enough(seed, need):
    draw = random.Random(seed)
    savings = [draw.choice([0, 1, 2, 5]) for _ in range(9)]
    if sum(savings) >= need:
        costs = table(9, seed)
        assert cheapest_window(costs, savings, need) == by_hand(costs, savings, need)


def test_of_equal_costs_the_first_goes():
    costs = ImportanceTable(entries={Segment(2, 3): 1.0, Segment(0, 1): 1.0, Segment(1, 2): 1.0})
    assert cheapest_window(costs, [1, 1, 1], 1) == Segment(0, 1)


def test_shares_that_were_rounded_still_suffice():
    assert cheapest_window(table(3, 0), [0.1, 0.1, 0.1], 0.1 + 0.2) == Segment(0, 3)


def test_too_much_for_one_window_is_refused_with_the_most_that_one_saves():
    costs = ImportanceTable.additive([1.0] * 5, [0, 1, 3, 4])
    with pytest.raises(
        BudgetError, match=r"asked to save 4 with a single window .* one saves is 3, \[3, 5\)\. .* several"
    ):
        cheapest_window(costs, [1, 1, 9, 1, 2], 4)
    with pytest.raises(BudgetError, match=r"one saves is 0, \[0, 0\)"):
        cheapest_window(ImportanceTable(entries={}), [1], 1)


def test_the_largest_window_is_the_first_that_saves_the_most():
    costs = ImportanceTable.additive([1.0] * 5, [0, 1, 3, 4])
    assert largest_window(costs, [1, 1, 9, 1, 1]) == Segment(0, 2)
    assert largest_window(costs, [1, 1, 9, 0, 3]) == Segment(3, 5)
    assert len(largest_window(ImportanceTable(entries={}), [1])) == 0
