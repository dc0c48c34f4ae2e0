import math

import pytest

from shoal.planners.program import Run, most_saved, solve


def runs(*costs):
    return [Run(start=unit, stop=unit + 1, cost=cost, saved=1.0) for unit, cost in enumerate(costs)]


def test_the_last_bin_holds_whatever_saves_more():
    solution = solve([Run(start=0, stop=3, cost=2.0, saved=3.0)], 3, tick=1.0, bins=1)
    assert solution.least.tolist() == [0.0, 2.0]
    assert solution.trace(1) == (0, 1, 2)


def test_every_bin_is_traced_to_units_that_cost_what_it_says():
    costs = [3.0, 1.0, 4.0, 1.5, 9.0, 2.5]
    solution = solve(runs(*costs), 6, tick=1.0, bins=3)
    for ticks in range(4):
        units = solution.trace(ticks)
        assert len(units) == ticks
        assert sum(costs[unit] for unit in units) == solution.least[ticks]


def test_neighbours_are_not_removed_by_two_runs():
    assert solve(runs(1.0, 1.0), 2, tick=1.0, bins=2).least.tolist() == [0.0, 1.0, math.inf]
    assert most_saved(runs(1.0, 1.0), 2) == (0,)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_without_runs_nothing_is_saved(length):
    assert solve([], length, tick=1.0, bins=1).least.tolist() == [0.0, math.inf]
    assert most_saved([], length) == ()
