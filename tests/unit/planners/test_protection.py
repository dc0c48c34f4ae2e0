import pytest

from shoal.errors import ConfigError, UnitError
from shoal.planners import check_protection, meets, unprotected
from shoal.units import Segment


@pytest.mark.parametrize(
    ("first", "last", "expected"), [(0, 0, (1, 2, 3)), (2, 0, (2, 3)), (0, 1, (1, 2)), (2, 1, (2,))]
)
def test_what_stands_first_or_last_is_protected(make_chain, first, last, expected):
    assert unprotected(make_chain(fixed=[0]), first=first, last=last) == expected


def test_protecting_all_is_refused(make_chain):
    with pytest.raises(UnitError, match="the first 2 and the last 2 of 4 protected: none of the 4 removable"):
        unprotected(make_chain(), first=2, last=2)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (0, -2)])
def test_negative_numbers_of_protected_units_are_refused(first, last):
    check_protection(0, 3)
    with pytest.raises(ConfigError, match=f"protect_first={first} and protect_last={last}: numbers from 0"):
        check_protection(first, last)


@pytest.mark.parametrize(
    ("removed", "good"), [((), False), ((2,), False), ((0, 1), False), ((1, 2), True), ((0, 2), True)]
)
def test_a_set_meets_the_need_and_leaves_a_unit_in_each_segment(removed, good):
    assert meets([1, 1, 1.5], 2, [Segment(0, 2)])(removed) is good


def test_savings_may_miss_the_need_by_rounding():
    assert meets([0.1] * 3, 0.3)((0, 1, 2))
    assert meets([0.1] * 3, 0.0)(())
    assert not meets([0.1] * 3, 0.31)((0, 1, 2))
