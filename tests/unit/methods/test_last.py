import pytest

from shoal.errors import BudgetError, UnitError
from shoal.methods.last import METHOD, LastSettings, choose

DEFAULT, PAPER = METHOD.presets["default"], METHOD.presets["paper"]


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_the_default_removes_the_last_ones_before_the_final_one(ask_chain, count):
    plan = choose(ask_chain(f"units={6 - count}", params=[10] * 6), DEFAULT)
    assert plan.removed == tuple(range(5 - count, 5))
    assert plan.settings == {"keep_final": True}


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_the_paper_removes_the_last_ones_with_the_final_one(ask_chain, count):
    assert choose(ask_chain(f"units={6 - count}", params=[10] * 6), PAPER).removed == tuple(
        range(6 - count, 6)
    )


def test_no_unit_is_passed_over_where_they_save_differently(ask_chain):
    # 160 of 300 may go at most: the last two save 30, the last three 130.
    request = ask_chain("params=200", params=[70, 100, 10, 20], fixed=[])
    assert choose(request, PAPER).removed == (1, 2, 3)


def test_units_that_cannot_go_stay(ask_chain):
    request = ask_chain("units=4", params=[10] * 6, fixed=[4, 5])
    assert choose(request, DEFAULT).removed == choose(request, PAPER).removed == (2, 3)


def test_what_cannot_be_had_is_refused(ask_chain):
    with pytest.raises(BudgetError, match="with only 4 of 5 units allowed to go units=0.2 remain"):
        choose(ask_chain("units=0.1"), DEFAULT)
    assert len(choose(ask_chain("units=0.1"), PAPER).removed) == 5
    with pytest.raises(UnitError, match="none of the 1 removable units is left"):
        choose(ask_chain(fixed=[0, 1, 2, 3]), LastSettings())
