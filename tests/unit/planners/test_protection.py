import pytest

from shoal.errors import UnitError
from shoal.planners import keeps_of_each, unprotected


@pytest.mark.parametrize(
    ("first", "last", "expected"), [(0, 0, (1, 2, 3)), (2, 0, (2, 3)), (0, 1, (1, 2)), (2, 1, (2,))]
)
def test_what_stands_first_or_last_is_protected(make_chain, first, last, expected):
    assert unprotected(make_chain(fixed=[0]), first=first, last=last) == expected


def test_protecting_all_is_refused(make_chain):
    with pytest.raises(UnitError, match="the first 2 and the last 2 of 4 protected: none of the 4 removable"):
        unprotected(make_chain(), first=2, last=2)


@pytest.mark.parametrize(
    ("floor", "removed", "kept"),
    [(0, [0, 1, 2, 3], True), (1, [0, 1], True), (1, [0, 1, 2], False), (2, [0], True), (2, [3], False)],
)
def test_each_group_keeps_its_floor(floor, removed, kept):
    assert keeps_of_each([[0, 1, 2], [3]], floor)(removed) is kept
