import math

import pytest

from shoal.reports.numbers import bytes_text, count_text, number_text, ratio_text, seconds_text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1000, "1 k"), (1_234_567, "1.235 M"), (2.5e12, "2.5 T")]
)
def test_counts_have_four_digits_and_a_suffix(count, text):
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 ns"), (5e-8, "50 ns"), (1e-5, "10 µs"), (1.5, "1.5 s"), (None, "-")]
)
def test_times_have_their_unit(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1024, "1 KiB"), (3 * 1024**5, "3072 TiB"), (None, "-")]
)
def test_sizes_are_binary(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_no_number_is_a_dash(value):
    assert number_text(value) == "-"


@pytest.mark.parametrize(("before", "after"), [(0, 1), (None, 1), (1, None)])
def test_a_ratio_needs_both(before, after):
    assert ratio_text(before, after) == "-"
