import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.planners.ticks import common_quantum, fewest_ticks, whole_ticks


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=10))
def test_the_quantum_of_whole_numbers_is_their_greatest_common_divisor(values):
    assert common_quantum(map(float, values)) == math.gcd(*values)


@given(st.floats(1e-6, 1e6), st.lists(st.integers(1, 64), min_size=1, max_size=8))
def test_multiples_of_one_number_share_a_quantum(unit, counts):
    values = [unit * count for count in counts]
    quantum = common_quantum(values)
    assert quantum is not None
    assert all(abs(value / quantum - round(value / quantum)) < 1e-9 for value in values)


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0]])
def test_nothing_has_the_quantum_one(values):
    assert common_quantum(values) == 1.0


def test_measured_times_share_no_quantum():
    assert common_quantum([0.001234567, 0.001345219, 0.0017]) is None


def test_ticks_forgive_the_rounding_of_a_division_and_no_more():
    assert fewest_ticks(0.1 * 3, 0.1) == 3
    assert fewest_ticks(3.0000001, 1.0) == 4
    assert fewest_ticks(-1.0, 0.1) == 0
    assert whole_ticks(0.3, 0.1) == 3
    assert whole_ticks(2.9999999, 1.0) == 2
