import pytest

from shoal.errors import BudgetError, ConfigError
from shoal.planners import cheapest_removal, cheapest_removals
from shoal.tables import ImportanceTable
from shoal.units import Segment

RISING, FALLING = (ImportanceTable.additive(costs, range(4)) for costs in ([1, 2, 3, 4], [4, 3, 2, 1]))
WHOLE = (Segment(0, 4),)
HALVES = (Segment(0, 2), Segment(2, 4))
EACH = tuple(Segment(unit, unit + 1) for unit in range(4))


def test_every_table_proposes_under_every_division():
    found = cheapest_removals([RISING, FALLING], [WHOLE, HALVES], [1] * 4, 2, length=4)
    expected = {
        cheapest_removal(table, [1] * 4, 2, length=4, segments=division).removed
        for table in (RISING, FALLING)
        for division in (WHOLE, HALVES)
    }
    assert set(found) == expected == {(0, 1), (0, 2), (2, 3), (1, 3)}
    assert next(iter(found)) == (0, 1)


def test_a_proposal_carries_the_finest_division_it_was_made_under():
    assert cheapest_removals([RISING], [WHOLE, HALVES], [1] * 4, 1, length=4) == {(0,): HALVES}


def test_divisions_that_leave_no_room_are_passed_over():
    assert cheapest_removals([RISING], [WHOLE, HALVES, EACH], [1] * 4, 3, length=4) == {(0, 1, 2): WHOLE}


def test_a_need_that_none_can_meet_is_refused():
    with pytest.raises(BudgetError, match="asked to save 4: .* kept in each of 1 segments is 3"):
        cheapest_removals([RISING], [WHOLE, EACH], [1] * 4, 4, length=4)


@pytest.mark.parametrize(("tables", "divisions"), [([], [WHOLE]), ([RISING], []), ([], [])])
def test_nothing_to_propose_by_is_refused(tables, divisions):
    with pytest.raises(ConfigError, match=f"{len(tables)} tables under {len(divisions)} divisions"):
        cheapest_removals(tables, divisions, [1] * 4, 1, length=4)
