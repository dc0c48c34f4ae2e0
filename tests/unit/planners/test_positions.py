from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import BudgetError
from shoal.planners import remove_evenly, remove_last
from shoal.planners.positions import evenly_spaced


@given(st.integers(1, 40), st.data())
def test_evenly_spaced_units_are_distinct_and_their_distances_differ_by_one_at_most(length, data):
    count = data.draw(st.integers(0, length))
    units = evenly_spaced(range(length), count)
    assert len(set(units)) == count
    distances = {after - before for before, after in pairwise(units)}
    assert not distances or max(distances) - min(distances) <= 1
    if count:
        before, behind = units[0], length - 1 - units[-1]
        assert abs(before - behind) <= 1


@pytest.mark.parametrize(("need", "expected"), [(-1, ()), (0, ()), (1, (2,)), (2, (1, 3)), (4, (0, 1, 2, 3))])
def test_as_few_go_as_save_enough(need, expected):
    assert remove_evenly(range(4), [1] * 4, need) == expected
    assert remove_last(range(4), [1] * 4, need) == tuple(range(4 - max(need, 0), 4))


def test_what_saves_nothing_stays():
    savings = [1, 0, 1, 1, 0]
    assert remove_last(range(5), savings, 2) == (2, 3)
    assert remove_evenly(range(5), savings, 3) == (0, 2, 3)


def test_only_candidates_go_whatever_their_order():
    assert remove_last([4, 0, 2], [1] * 5, 2) == (2, 4)
    assert remove_evenly([4, 0, 2], [1] * 5, 1) == (2,)


@pytest.mark.parametrize("remove", [remove_evenly, remove_last])
def test_too_much_is_refused(remove):
    with pytest.raises(BudgetError, match="asked to save 4: what may go saves 3, by removing 3 units"):
        remove(range(3), [1] * 3, 4)
    with pytest.raises(BudgetError, match="what may go saves 0"):
        remove([], [1], 1)
