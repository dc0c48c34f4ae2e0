import math

import pytest

from shoal.errors import BudgetError, ConfigError
from shoal.planners import Removal, cheapest_removal, cheapest_subset
from shoal.tables import ImportanceTable
from shoal.units import Segment


@pytest.mark.parametrize("need", [1, 3, 6])
def test_agrees_with_the_program_over_runs(need):
    table = ImportanceTable.additive([3.0, 1.0, 4.0, 1.5, 2.0], [0, 1, 3, 4])
    savings = [2, 1, 9, 1, 2]
    by_sets = cheapest_subset(
        lambda units: sum(table[run] for run in Segment.runs(units)), [0, 1, 3, 4], savings, need
    )
    assert by_sets == cheapest_removal(table, savings, need, length=5)


def test_sees_what_sums_do_not():
    found = cheapest_subset(lambda units: 0.0 if units == (0, 2) else 1.0, range(3), [1, 1, 1], 1)
    assert found == Removal(removed=(0, 2), cost=0.0, saved=2.0)


def test_only_sets_that_save_enough_are_priced():
    seen = []
    cheapest_subset(lambda units: seen.append(units) or 1.0, range(3), [1, 1, 1], 2)
    assert seen == [(0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_of_sets_that_cost_the_same_the_smallest_and_first_is_taken():
    assert cheapest_subset(lambda units: 1.0, [2, 0, 1], [1, 1, 1], 1).removed == (0,)


@pytest.mark.parametrize("need", [0, -1])
def test_nothing_is_removed_where_nothing_is_needed(need):
    assert cheapest_subset(lambda units: -1.0, range(3), [1] * 3, need).removed == ()


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_set_whose_cost_is_no_number_is_passed_over(bad):
    assert cheapest_subset(lambda units: bad if 0 in units else 2.0, range(2), [1, 1], 1).removed == (1,)


@pytest.mark.parametrize("removable", [[], [0, 1]])
def test_a_need_that_cannot_be_met_is_refused(removable):
    with pytest.raises(
        BudgetError, match=f"asked to save 3: the most that can be saved is {len(removable)},"
    ):
        cheapest_subset(lambda units: 0.0, removable, [1, 1], 3)


def test_more_than_twenty_units_are_refused():
    with pytest.raises(ConfigError, match="every set of 21 removable units: that is done for 20 at most"):
        cheapest_subset(lambda units: 0.0, range(21), [1] * 21, 1)
