from itertools import combinations
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shoal.errors import ConfigError, DataError
from shoal.segmentation import released_backtracking, row_sums, segment_series, segment_similarity

LENGTHS = range(1, 13)
TWO_GROUPS = np.full((12, 12), 0.1)
TWO_GROUPS[:6, :6] = TWO_GROUPS[6:, 6:] = 1.0


def kernel_scatter(similarity, start, stop):
    part = similarity[start:stop, start:stop]
    return np.trace(part) - part.sum() / len(part)


def series_scatter(series, start, stop):
    part = series[start:stop]
    return ((part - part.mean()) ** 2).sum()


def loss_of(scatter, values, starts):
    return sum(scatter(values, a, b) for a, b in zip(starts, (*starts[1:], len(values)), strict=True))


def least_loss(scatter, values, k):
    divisions = ((0, *cuts) for cuts in combinations(range(1, len(values)), k - 1))
    return min(loss_of(scatter, values, starts) for starts in divisions)


def gram(rng, length, width=5):
    rows = rng.standard_normal((length, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


@pytest.mark.parametrize("length", LENGTHS)
def test_of_a_similarity_equals_brute_force(length):
    similarity = gram(np.random.default_rng(length), length)
    found = segment_similarity(similarity, most=5)
    for k in range(1, min(5, length) + 1):
        assert found.losses[k - 1] == pytest.approx(least_loss(kernel_scatter, similarity, k), abs=1e-12)
        assert loss_of(kernel_scatter, similarity, found.starts[k - 1]) == pytest.approx(
            found.losses[k - 1], abs=1e-12
        )


@pytest.mark.parametrize("length", LENGTHS)
def test_of_a_series_equals_brute_force(length):
    series = np.random.default_rng(length).standard_normal(length)
    found = segment_series(series, most=5)
    for k in range(1, min(5, length) + 1):
        assert found.losses[k - 1] == pytest.approx(least_loss(series_scatter, series, k), abs=1e-12)
        assert loss_of(series_scatter, series, found.starts[k - 1]) == pytest.approx(
            found.losses[k - 1], abs=1e-12
        )


def test_of_a_matrix_whose_diagonal_is_not_one_equals_brute_force():
    rows = np.random.default_rng(0).standard_normal((9, 4))
    found = segment_similarity(rows @ rows.T, most=4)
    assert found.losses == pytest.approx([least_loss(kernel_scatter, rows @ rows.T, k) for k in range(1, 5)])


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-100, 100)))
@settings(max_examples=50, deadline=None)
def test_more_segments_never_lose_more_and_single_units_lose_nothing(series):
    found = segment_series(series)
    losses = np.array(found.losses)
    assert len(losses) == len(found.starts) == len(series)
    assert np.all(np.diff(losses) <= 1e-9 * max(1.0, losses[0]))
    assert losses[-1] == 0
    for k, starts in enumerate(found.starts, start=1):
        assert starts[0] == 0
        assert len(starts) == len(set(starts)) == k
        assert list(starts) == sorted(starts)


def test_the_series_is_the_similarity_of_numbers():
    series = np.random.default_rng(1).standard_normal(15)
    by_series, by_kernel = segment_series(series), segment_similarity(np.outer(series, series))
    assert by_series.losses == pytest.approx(by_kernel.losses, abs=1e-12)


def test_the_input_is_never_sorted():
    series = [5.0, 5.0, 1.0, 1.0, 5.0, 5.0]
    found = segment_series(series, most=3)
    assert found.starts[2] == (0, 2, 4)
    assert found.losses[1] > 0
    assert series == [5.0, 5.0, 1.0, 1.0, 5.0, 5.0]


def test_ties_go_to_the_smallest_start():
    assert segment_series([0.0] * 5).starts[2] == (0, 1, 2)


def test_a_common_offset_changes_no_cut():
    series = np.random.default_rng(2).standard_normal(20)
    assert segment_series(series + 1e6).starts[4] == segment_series(series).starts[4]


def test_the_whole_matrix_sees_two_groups_that_row_sums_lose():
    assert row_sums(TWO_GROUPS) == pytest.approx([6.6] * 12)
    found = segment_similarity(TWO_GROUPS)
    assert found.losses[:2] == pytest.approx([5.4, 0.0], abs=1e-12)
    assert found.starts[1] == (0, 6)
    assert segment_series(row_sums(TWO_GROUPS)).losses[0] == pytest.approx(0.0, abs=1e-12)


def test_only_as_many_segments_as_asked_are_computed():
    assert len(segment_series([1.0, 2.0, 4.0], most=2).losses) == 2
    assert len(segment_series([1.0, 2.0, 4.0], most=9).losses) == 3


def test_two_hundred_units_take_well_under_a_second():
    similarity = gram(np.random.default_rng(0), 200, width=50)
    begin = perf_counter()
    segment_similarity(similarity)
    assert perf_counter() - begin < 1


@pytest.mark.parametrize("most", [0, -1])
def test_no_segments_at_all_cannot_be_asked_for(most):
    with pytest.raises(ConfigError, match=f"at most {most} segments: a number from 1 to 2 works"):
        segment_series([1.0, 2.0], most=most)


@pytest.mark.parametrize("values", [np.zeros((0, 0)), np.zeros((2, 3)), np.zeros(3), np.zeros((2, 2, 2))])
@pytest.mark.parametrize("function", [segment_similarity, row_sums])
def test_a_similarity_that_is_not_square_is_refused(function, values):
    with pytest.raises(DataError, match="it is square"):
        function(values)


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros((2, 2))])
@pytest.mark.parametrize("function", [segment_series, lambda series: released_backtracking(series, 1)])
def test_a_series_that_is_no_vector_is_refused(function, values):
    with pytest.raises(DataError, match="one number a unit"):
        function(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_unit(bad):
    similarity = np.eye(4)
    similarity[2, 3] = bad
    with pytest.raises(DataError, match=f"1 values that are not finite; the first, {bad}, is of unit 2"):
        segment_similarity(similarity)
    with pytest.raises(DataError, match="is of unit 2"):
        row_sums(similarity)
    with pytest.raises(DataError, match="is of unit 1"):
        segment_series([0.0, bad])
    with pytest.raises(DataError, match="is of unit 1"):
        released_backtracking([0.0, bad], 1)
