import pytest

from shoal.planners import is_enough, saves_enough


@pytest.mark.parametrize(
    ("saved", "need", "enough"),
    [
        (0.0, 0.0, True),
        (0.0, -1.0, True),
        (0.0, 1e-300, False),
        (1.0, 1.0, True),
        (1 - 1e-10, 1.0, True),
        (1 - 1e-8, 1.0, False),
        (1e12 - 1, 1e12, True),
        (1e12 - 1e4, 1e12, False),
    ],
)
def test_a_saving_may_miss_the_need_by_rounding_only(saved, need, enough):
    assert is_enough(saved, need) is enough


@pytest.mark.parametrize(("units", "enough"), [([], False), ([0, 1], False), ([2], True), ({0, 1, 2}, True)])
def test_units_save_enough_together(units, enough):
    assert saves_enough([1, 2, 4], 4, units) is enough
    assert saves_enough([1, 2, 4], 0, units)


def test_the_order_in_which_units_are_summed_does_not_matter():
    savings = [1e16, 1.0, 1.0, -1e16]
    assert saves_enough(savings, 2.0, [0, 1, 2, 3])
    assert saves_enough(savings, 2.0, [3, 2, 1, 0])
