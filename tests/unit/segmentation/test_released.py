"""How the released read-out and the row sums compare with the exact program on the whole matrix."""

from itertools import pairwise

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.segmentation import (
    released_backtracking,
    released_rule,
    row_sums,
    segment_series,
    segment_similarity,
)

LENGTH = 28


def cka_like_series(rng):
    place = np.concatenate(([0.0], rng.gamma(1, 1, LENGTH - 1).cumsum()))
    place[10:] += 3
    place[19:] += 3
    return row_sums(np.exp(-np.abs(place[:, None] - place[None, :]) / 10))


def scatter(series, starts):
    return sum(np.var(part) * len(part) for part in np.split(series, starts[1:]))


@pytest.fixture(scope="module")
def many_series():
    rng = np.random.default_rng(0)
    return [(series, segment_series(series, most=7)) for series in (cka_like_series(rng) for _ in range(500))]


# Percent of 500 wrong, and the median excess over the least loss, over all of them. Where a segment
# of one unit ends the chain the released comparison is a tie, which rounding decides, hence ± 7.
@pytest.mark.parametrize(
    ("k", "wrong", "excess"), [(3, 91, 42), (4, 91, 38), (5, 81, 22), (6, 77, 18), (7, 78, 21)]
)
def test_the_released_backtracking_is_as_wrong_as_it_was_measured_to_be(many_series, k, wrong, excess):
    found = [released_backtracking(series, k) for series, _ in many_series]
    exact = [best.starts[k - 1] for _, best in many_series]
    excesses = [
        scatter(series, starts) / best.losses[k - 1] - 1
        for starts, (series, best) in zip(found, many_series, strict=True)
    ]
    assert min(excesses) > -1e-9
    assert 100 * np.mean([a != b for a, b in zip(found, exact, strict=True)]) == pytest.approx(wrong, abs=7)
    assert 100 * np.median(excesses) == pytest.approx(excess, abs=7)


@pytest.mark.parametrize("k", [3, 5, 7])
def test_the_released_rule_returns_the_most_it_may(many_series, k):
    assert np.mean([released_rule(best, most=k) == k for _, best in many_series]) >= 0.99


@pytest.mark.parametrize("k", [1, 2, LENGTH])
def test_the_released_backtracking_returns_starts_in_order(many_series, k):
    starts = released_backtracking(many_series[0][0], k)
    assert len(starts) == k
    assert starts[0] == 0
    assert all(a < b < LENGTH for a, b in pairwise(starts))


def test_the_released_backtracking_takes_the_exact_cuts_where_nothing_is_lost():
    assert released_backtracking([1.0] * 6, 3) == (0, 1, 2)
    assert released_backtracking([0.0, 0.0, 7.0, 7.0], 2) == (0, 2)


@pytest.mark.parametrize("k", [0, 4])
def test_the_released_backtracking_refuses_impossible_counts(k):
    with pytest.raises(ConfigError, match=f"{k} segments of 3 units: from 1 to 3 work"):
        released_backtracking([1.0, 2.0, 3.0], k)


def boundaries_recovered(rng, k, noise, trials=100):
    hits = np.zeros(3)
    for _ in range(trials):
        cuts = np.sort(rng.choice(np.arange(1, 32), k - 1, replace=False))
        group = np.searchsorted(cuts, np.arange(32), side="right")
        features = rng.standard_normal((k, 64))[group] + noise * rng.standard_normal((32, 64)) + 0.5
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        similarity = features @ features.T
        sums, planted = row_sums(similarity), set(cuts.tolist())
        kernel, series = (segment(values, most=k) for segment, values in
                          ((segment_similarity, similarity), (segment_series, sums)))  # fmt: skip
        ways = (kernel.starts[k - 1], series.starts[k - 1], released_backtracking(sums, k))
        hits += [len(planted.intersection(starts)) for starts in ways]
    return 100 * hits / (trials * (k - 1))


@pytest.mark.parametrize(
    ("k", "noise", "by_sums", "released"),
    [
        (3, 0.3, 93, 88),
        (3, 0.6, 84, 73),
        (3, 1.0, 68, 54),
        (5, 0.6, 72, 60),
        (7, 0.3, 79, 71),
        (7, 1.0, 52, 44),
    ],
)
def test_the_whole_matrix_recovers_planted_groups_and_row_sums_do_not(k, noise, by_sums, released):
    found = boundaries_recovered(np.random.default_rng(0), k, noise)
    assert found[0] >= 99
    assert found[1] == pytest.approx(by_sums, abs=8)
    assert found[2] == pytest.approx(released, abs=10)
    assert found[2] < found[1]
