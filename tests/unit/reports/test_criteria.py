import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import DataError
from shoal.reports import agreement_table, criteria_table, evidence_tables
from shoal.reports.criteria import rank_correlation

NAN = math.nan


def cells(table, row):
    return table.rows[row][2:]


def shown_width(table):
    """Columns of a terminal that the rows take, three of them between two columns of the table."""
    rows = [[name for name, _ in table.columns], *table.rows]
    return sum(3 + max(len(row[column]) for row in rows) for column in range(len(table.columns)))


def test_the_least_important_unit_has_rank_one(make_evidence):
    table = criteria_table(make_evidence(3, scores={"up": [0.1, 0.2, 0.3], "down": [3, 2, 1]}))
    assert [cells(table, row) for row in range(3)] == [("1", "3"), ("2", "2"), ("3", "1")]


def test_units_of_one_score_share_the_lower_rank(make_evidence):
    table = criteria_table(make_evidence(4, scores={"a": [5, 5, 1, 7]}))
    assert [cells(table, row)[0] for row in range(4)] == ["2", "2", "1", "4"]


def test_units_that_cannot_be_removed_or_were_not_scored_have_no_rank(make_evidence):
    table = criteria_table(make_evidence(4, scores={"a": [0, 1, NAN, 2]}, fixed=[0]))
    assert [cells(table, row)[0] for row in range(4)] == ["-", "1", "-", "2"]
    assert "cannot be removed" in table.notes[-1]
    assert "3 units that can be removed" in table.title


def test_every_criterion_has_a_letter_that_the_notes_explain(make_evidence):
    table = criteria_table(make_evidence(2, scores={"gradnorm": [1, 2], "taylor": [2, 1]}))
    assert [name for name, _ in table.columns] == ["unit", "name", "A", "B"]
    assert table.notes == ("A gradnorm, B taylor",)


@pytest.mark.parametrize("count", [0, 1, 27])
def test_letters_do_not_repeat_whatever_the_number_of_criteria(make_evidence, count):
    for table in (
        criteria_table(make_evidence(3, scores=count)),
        agreement_table(make_evidence(3, scores=count)),
    ):
        headings = [name for name, _ in table.columns]
        assert len(set(headings)) == len(headings) == 2 + count
        assert all(len(row) == len(headings) for row in table.rows)


def test_a_dozen_criteria_fit_on_a_terminal_of_120_columns(make_evidence):
    evidence = make_evidence(110, scores={f"{'long_name':_<16}{n:02}": range(110) for n in range(12)})
    for table in (criteria_table(evidence), agreement_table(evidence)):
        assert shown_width(table) <= 120
        assert all(right for name, right in table.columns if name in "ABCDEFGHIJKL" and name)


@pytest.mark.parametrize(("count", "parts"), [(0, [0]), (1, [1]), (6, [6]), (7, [4, 3]), (12, [6, 6])])
def test_values_stand_in_parts_that_together_show_every_score(make_evidence, count, parts):
    tables = evidence_tables(make_evidence(3, scores=count))
    assert [len(table.columns) - 3 for table in tables] == parts
    shown = [name for table in tables for name, _ in table.columns[3:]]
    assert shown == [f"score {n}" for n in range(count)]


def test_agreement_is_of_the_units_that_can_be_removed(make_evidence):
    scores = {"a": [100, 1, 2, 3], "b": [100, 3, 2, 1], "c": [1, 1, 1, 1]}
    table = agreement_table(make_evidence(4, scores=scores, fixed=[0]))
    assert [cells(table, row) for row in range(3)] == [
        ("1.00", "-1.00", "-"),
        ("-1.00", "1.00", "-"),
        ("-", "-", "-"),
    ]
    assert "all of one score" in table.notes[0]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_without_ties_it_is_the_formula_of_squared_differences(order):
    difference = np.array(order) - np.arange(4)
    expected = 1 - 6 * (difference**2).sum() / (4 * (16 - 1))
    assert rank_correlation(order, [0, 10, 20, 1000]) == pytest.approx(expected)


def test_equal_scores_share_their_mean_rank():
    # Ranks 1.5, 1.5, 3 against 1, 2, 3.
    assert rank_correlation([7, 7, 9], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=12))
def test_rank_correlation_ignores_what_keeps_the_order(pairs):
    first, second = np.array(pairs, dtype=float).T
    found = rank_correlation(first, second)
    np.testing.assert_allclose(rank_correlation(second, np.exp(first)), found)
    np.testing.assert_allclose(rank_correlation(-first, second), -found)
    assert math.isnan(found) == (len(set(first)) == 1 or len(set(second)) == 1)


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([1], [2]), ([1, 2], [1, 2]), ([1, 2, 3, NAN], [1, 2, NAN, 3])]
)
def test_of_fewer_than_three_units_nothing_is_said(first, second):
    assert math.isnan(rank_correlation(first, second))


def test_scores_of_different_units_are_refused():
    with pytest.raises(DataError, match=r"shapes \(3,\) and \(2,\)"):
        rank_correlation([1, 2, 3], [1, 2])
