import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.reports import ParetoPoint
from shoal.reports.figures import pareto_front

PAIRS = st.lists(st.tuples(st.integers(1, 6), st.integers(-3, 3)), max_size=12)


def beats(one, other, sign):
    """Whether one is as good in both and better in one."""
    mine, others = (one.latency, sign * one.quality), (other.latency, sign * other.quality)
    return mine[0] <= others[0] and mine[1] <= others[1] and mine != others


@given(PAIRS, st.booleans())
def test_the_front_is_what_no_point_beats(pairs, higher):
    points = [ParetoPoint(label=str(n), latency=x, quality=y) for n, (x, y) in enumerate(pairs)]
    front = pareto_front(points, higher_is_better=higher)
    sign = -1 if higher else 1
    unbeaten = [point for point in points if not any(beats(other, point, sign) for other in points)]
    places = sorted({(point.latency, point.quality) for point in unbeaten})
    assert [(point.latency, point.quality) for point in front] == places


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency": 0.0},
        {"latency": -1.0},
        {"latency": math.nan},
        {"quality": math.inf},
        {"quality": math.nan},
        {"spread": -0.1},
        {"spread": math.nan},
    ],
)
def test_a_point_has_finite_numbers(wrong):
    with pytest.raises(ConfigError, match="asked for the point 'a' at latency="):
        ParetoPoint(**{"label": "a", "latency": 1.0, "quality": 1.0} | wrong)


def test_a_point_is_of_a_known_kind():
    with pytest.raises(ConfigError, match="kind='best': whole, method, control work"):
        ParetoPoint(label="a", latency=1.0, quality=1.0, kind="best")
