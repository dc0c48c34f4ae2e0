import pytest

from shoal.tables import ImportanceTable
from shoal.units import Segment

SCORES = [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_run_costs_the_sum_of_its_units():
    table = ImportanceTable.additive(SCORES, range(5))
    assert len(table) == 15
    assert all(table[run] == sum(SCORES[run.start : run.stop]) for run in table.entries)


def test_runs_of_units_that_must_stay_are_left_out():
    table = ImportanceTable.additive(SCORES, [4, 0, 1])
    assert set(table.entries) == {Segment(0, 1), Segment(0, 2), Segment(1, 2), Segment(4, 5)}
    assert Segment(1, 3) not in table


@pytest.mark.parametrize(("longest", "found"), [(0, 0), (1, 1), (3, 3), (9, 5), (None, 5)])
def test_runs_are_no_longer_than_allowed(longest, found):
    assert ImportanceTable.additive(SCORES, range(5), longest=longest).longest == found


def test_an_empty_table_has_no_runs():
    table = ImportanceTable.additive(SCORES, [])
    assert (len(table), table.longest) == (0, 0)
    assert table.extended(range(5)).entries == {}


@pytest.mark.parametrize("longest", [1, 2, 3, 5])
def test_an_additive_table_is_extended_to_all_sums(longest):
    short = ImportanceTable.additive(SCORES, [0, 1, 2, 4], longest=longest, source="sums")
    extended = short.extended([0, 1, 2, 4])
    assert extended.entries == ImportanceTable.additive(SCORES, [0, 1, 2, 4]).entries
    assert extended.source == "sums"


def test_an_extended_table_keeps_what_was_measured_and_adds_what_a_unit_adds():
    measured = {
        Segment(0, 1): 1.0,
        Segment(1, 2): 1.0,
        Segment(2, 3): 1.0,
        Segment(0, 2): 5.0,
        Segment(1, 3): 7.0,
    }
    extended = ImportanceTable(entries=measured).extended(range(3))
    assert extended.entries == measured | {Segment(0, 3): 5.0 + 7.0 - 1.0}


def test_a_run_is_not_extended_over_a_part_that_is_not_in_the_table():
    holed = ImportanceTable(entries={Segment(0, 1): 1.0, Segment(1, 3): 2.0})
    assert Segment(0, 3) not in holed.extended(range(3))
