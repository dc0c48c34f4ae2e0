import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.segmentation import (
    bic,
    numbers_of_segments,
    penalised,
    released_backtracking,
    released_rule,
    released_segments,
    segment_series,
)

CURVE = segment_series([0, 0.1, 0, 9, 9, 9.1, 4, 4.1])


@pytest.mark.parametrize(("rule", "chosen"), [("penalised", penalised), ("bic", bic)])
def test_a_rule_s_number_is_followed_by_fewer(rule, chosen):
    assert numbers_of_segments(CURVE, rule, most=8) == list(range(chosen(CURVE), 0, -1))
    assert chosen(CURVE) > 1


@pytest.mark.parametrize("most", [1, 3, 8, 20])
def test_the_most_bounds_the_released_rule_and_all(most):
    chosen = released_rule(CURVE, most=min(most, 8))
    assert numbers_of_segments(CURVE, "released", most=most) == list(range(chosen, 0, -1))
    assert numbers_of_segments(CURVE, "all", most=most) == list(range(1, min(most, 8) + 1))


@pytest.mark.parametrize("number", [0, 1, 5, 99])
def test_a_number_stands_alone(number):
    assert numbers_of_segments(CURVE, number, most=3) == [number]


def test_an_unknown_rule_is_refused():
    with pytest.raises(
        ConfigError, match="segments='elbow': a number or one of penalised, bic, released, all"
    ):
        numbers_of_segments(CURVE, "elbow", most=3)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_released_segments_are_those_of_the_released_cuts_of_row_sums(k):
    draw = np.random.default_rng(0).random((6, 6))
    similarity = draw + draw.T
    segments = released_segments(similarity, k)
    assert tuple(segment.start for segment in segments) == released_backtracking(similarity.sum(axis=1), k)
    assert [unit for segment in segments for unit in segment] == list(range(6))


def test_released_segments_of_an_impossible_number_are_refused():
    with pytest.raises(ConfigError, match="7 segments of 6 units"):
        released_segments(np.eye(6), 7)
