import math

import pytest

from shoal.errors import BudgetError, DataError
from shoal.planners import give_back, remove_in_order, remove_lowest


@pytest.mark.parametrize(
    ("need", "expected"), [(0, ()), (1, (3,)), (2, (1, 3)), (3, (1, 2, 3)), (4, (0, 1, 2, 3))]
)
def test_the_lowest_go_until_enough_is_saved(need, expected):
    assert remove_lowest([4, 2, 3, 1], [1, 1, 1, 1], need, candidates=range(4)) == expected


def test_of_equal_scores_the_earlier_unit_goes():
    assert remove_lowest([1, 1, 1], [1, 1, 1], 2, candidates=[2, 1, 0]) == (0, 1)


def test_only_candidates_with_a_finite_score_go():
    scores = [0.0, math.nan, math.inf, 1.0]
    assert remove_lowest(scores, [1] * 4, 2, candidates=[0, 2, 3]) == (0, 3)
    with pytest.raises(DataError, match=r"asked to rank the units \[1\], which have no score"):
        remove_lowest(scores, [1] * 4, 1, candidates=[0, 1])
    with pytest.raises(BudgetError, match="asked to save 3: what may go saves 2"):
        remove_lowest(scores, [1] * 4, 3, candidates=[0, 2, 3])


def test_what_saves_nothing_is_passed_over():
    assert remove_in_order([0, 1], [0, 1], 1) == (1,)


def test_what_is_not_needed_comes_back_the_latest_first():
    assert remove_in_order([0, 1, 2], [1, 2, 5], 6) == (0, 2)
    assert give_back([0, 1, 2], [1, 1, 1], 1) == (0,)
    assert give_back([], [], 0) == ()
