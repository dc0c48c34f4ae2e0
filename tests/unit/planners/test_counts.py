import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import BudgetError, DataError
from shoal.planners import keep_counts, top_units
from shoal.units import Segment

SEGMENTS = (Segment(0, 3), Segment(3, 5))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.data())
def test_counts_fit_the_segments_and_sum_to_the_total(sizes, data):
    least = [data.draw(st.integers(0, size)) for size in sizes]
    total = data.draw(st.integers(sum(max(1, low) for low in least), sum(sizes)))
    counts = keep_counts(sizes, total, least=least)
    assert sum(counts) == total
    assert all(max(1, low) <= count <= size for low, count, size in zip(least, counts, sizes, strict=True))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.data())
def test_a_count_is_less_than_one_from_its_share_where_no_segment_is_forced(sizes, data):
    total = data.draw(st.integers(len(sizes), sum(sizes)))
    shares = [total * size / sum(sizes) for size in sizes]
    if min(shares) >= 1:
        counts = keep_counts(sizes, total)
        assert all(abs(count - share) < 1 for count, share in zip(counts, shares, strict=True))


@pytest.mark.parametrize(
    ("sizes", "total", "counts"),
    [
        ([4], 1, (1,)),
        ([4, 4], 8, (4, 4)),
        ([4, 4], 5, (3, 2)),
        ([10, 1, 1], 3, (1, 1, 1)),
        ([3, 8, 13, 2, 2], 14, (2, 4, 6, 1, 1)),
    ],
)
def test_counts_are_shares_by_largest_remainder(sizes, total, counts):
    assert keep_counts(sizes, total) == counts


@pytest.mark.parametrize("total", [0, 1, 6])
def test_a_total_that_does_not_fit_is_refused(total):
    with pytest.raises(BudgetError, match=f"keep {total} of 5 units .*: from 2 to 5 units can be kept"):
        keep_counts([3, 2], total)


def test_segments_that_must_keep_more_than_they_have_are_refused():
    with pytest.raises(BudgetError, match=r"at least \[1, 3\] of each"):
        keep_counts([3, 2], 4, least=[1, 3])


def test_the_units_of_highest_score_stay():
    assert top_units([1, 5, 3, 2, 4], SEGMENTS, [2, 1], removable=range(5)) == (1, 2, 4)


def test_units_that_cannot_be_removed_stay_and_count():
    scores = [math.nan, 5, 3, 2, 4]
    assert top_units(scores, SEGMENTS, [2, 1], removable=[1, 2, 4]) == (0, 1, 3)


def test_of_equal_scores_the_earlier_stays():
    assert top_units([1.0] * 5, SEGMENTS, [1, 1], removable=range(5)) == (0, 3)


@pytest.mark.parametrize(("counts", "kept"), [([0, 0], ()), ([3, 2], (0, 1, 2, 3, 4))])
def test_none_and_all_can_be_kept(counts, kept):
    assert top_units([1.0] * 5, SEGMENTS, counts, removable=range(5)) == kept


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_that_a_segment_cannot_keep_is_refused(count):
    with pytest.raises(
        BudgetError, match=rf"keep {count} of the 3 units in \[0, 3\): 1 of them .* from 1 to 3"
    ):
        top_units([1.0] * 5, SEGMENTS, [count, 1], removable=[1, 2, 3, 4])


def test_a_removable_unit_without_a_score_is_refused():
    with pytest.raises(DataError, match=r"the units \[2\], which have no score"):
        top_units([1.0, 1.0, math.nan, 1.0, 1.0], SEGMENTS, [1, 1], removable=range(5))
