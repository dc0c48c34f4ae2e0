import json
from dataclasses import replace

import pytest

from shoal.comparison import Row


def test_quality_is_that_after_healing_where_there_was_some(make_row):
    row = make_row("good", [1, 2, 3])
    assert row.quality == {"loss": 2}
    assert replace(row, healed={"loss": 1.5}).quality == {"loss": 1.5}
    assert replace(row, healed={"loss": 1.5}).measured.quality == {"loss": 2}


@pytest.mark.parametrize("removed", [(), (2,), (0, 1, 2, 3)])
def test_a_row_knows_how_many_units_remain(make_row, removed):
    assert make_row("good", [1], removed=removed).units == 4 - len(removed)


@pytest.mark.parametrize("before", [None, [5, 6, 7]])
def test_a_row_comes_back_from_json(make_row, before):
    row = make_row("good", [1, 2, 3], before=before, removed=(0, 2))
    assert Row.from_json(json.loads(json.dumps(row.as_json()))) == row


def test_a_row_is_told_by_method_budget_and_seed(make_row):
    assert str(make_row("good", [1], seed=2)) == "good at units=3, seed 2"
    assert str(make_row("whole", [1], budget="")) == "whole, seed 0"
