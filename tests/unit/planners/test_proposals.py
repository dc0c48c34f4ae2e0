from time import perf_counter

import numpy as np
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


@pytest.mark.parametrize("seed", range(20))
def test_each_proposal_costs_as_little_as_planning_under_its_division_alone(seed):
    rng = np.random.default_rng(seed)
    table = ImportanceTable.additive(rng.normal(1, 1, 8).tolist(), range(8))
    savings, divisions = rng.integers(1, 4, 8).tolist(), []
    for k in range(1, 5):
        starts = [0, *sorted(rng.choice(np.arange(1, 8), k - 1, replace=False).tolist())]
        divisions.append(tuple(map(Segment, starts, (*starts[1:], 8))))
    found = cheapest_removals([table], divisions, savings, 6, length=8)
    for division in divisions:
        alone = cheapest_removal(table, savings, 6, length=8, segments=division)
        costs = [
            sum(table[run] for run in Segment.runs(removed))
            for removed in found
            if all(set(segment) - set(removed) for segment in division)
        ]
        assert min(costs) == pytest.approx(alone.cost)


def test_six_divisions_of_two_hundred_units_take_less_than_a_second():
    rng = np.random.default_rng(0)
    table = ImportanceTable.additive(rng.random(200).tolist(), range(200), longest=2).extended(range(200))
    divisions = [
        tuple(map(Segment, starts, (*starts[1:], 200)))
        for starts in ([200 * at // k for at in range(k)] for k in range(1, 7))
    ]
    begin = perf_counter()
    found = cheapest_removals([table], divisions, [1.0] * 200, 100, length=200)
    assert perf_counter() - begin < 1
    assert max(map(len, found)) == 100
