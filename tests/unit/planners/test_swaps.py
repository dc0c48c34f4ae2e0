import math
from itertools import combinations

import numpy as np
import pytest

from shoal.planners import improve_by_swaps, meets
from shoal.units import Segment


def search(removed, loss, single, evaluations=1000, allowed=None):
    seen = []

    def losses(sets):
        seen.extend(sets)
        return [loss(units) for units in sets]

    found = improve_by_swaps(
        removed,
        losses=losses,
        allowed=allowed or (lambda units: len(units) == len(removed)),
        single=single,
        evaluations=evaluations,
    )
    assert found[2] == len(seen) == len(set(seen))
    return found


@pytest.mark.parametrize("size", range(6))
def test_where_losses_add_up_the_best_set_is_found_from_any_other(size):
    costs = dict(enumerate(np.random.default_rng(size).random(6).tolist()))
    best = min(combinations(range(6), size), key=lambda units: sum(costs[unit] for unit in units))
    for begin in combinations(range(6), size):
        removed, loss, _ = search(begin, lambda units: sum(costs[unit] for unit in units), costs)
        assert removed == best
        assert loss == pytest.approx(sum(costs[unit] for unit in best))


@pytest.mark.parametrize("seed", range(10))
def test_no_exchange_improves_the_set_that_is_found(seed):
    rng = np.random.default_rng(seed)
    table = {units: float(rng.random()) for units in combinations(range(7), 3)}
    removed, loss, _ = search((0, 1, 2), table.__getitem__, dict.fromkeys(range(7), 0.0))
    near = [units for units in table if len(set(units) & set(removed)) == 2]
    assert loss == table[removed] <= min(table[units] for units in near)


def test_a_unit_is_restored_where_that_is_allowed_and_better():
    found = search(
        (0, 1), lambda units: float(len(units)), {0: 1.0, 1: 1.0}, allowed=lambda units: len(units) > 0
    )
    assert found[:2] in [((0,), 1.0), ((1,), 1.0)]


def test_sets_that_are_not_allowed_are_not_measured():
    assert search(
        (2,), lambda units: -float(units[0]), {0: 1.0, 1: 1.0, 2: 1.0}, allowed=lambda units: False
    ) == (
        (2,),
        -2.0,
        1,
    )


@pytest.mark.parametrize("evaluations", [1, 2, 5, 9, 12])
def test_no_more_sets_are_measured_than_allowed(evaluations):
    single = dict.fromkeys(range(20), 1.0)
    assert search((0, 1), lambda units: -float(sum(units)), single, evaluations)[2] <= evaluations


@pytest.mark.parametrize(
    ("removed", "good"), [((), False), ((2,), False), ((0, 1), False), ((1, 2), True), ((0, 2), True)]
)
def test_a_set_meets_the_need_and_leaves_a_unit_in_each_segment(removed, good):
    assert meets([1, 1, 1.5], 2, [Segment(0, 2)])(removed) is good


def test_savings_may_miss_the_need_by_rounding():
    assert meets([0.1] * 3, 0.3)((0, 1, 2))
    assert meets([0.1] * 3, 0.0)(())
    assert not meets([0.1] * 3, 0.31)((0, 1, 2))


def test_sets_without_which_the_loss_is_infinite_are_not_taken():
    loss = {(0,): 1.0, (1,): math.inf, (2,): 0.5}
    assert search((0,), loss.__getitem__, {0: 1.0, 1: 0.0, 2: math.inf})[:2] == ((2,), 0.5)
