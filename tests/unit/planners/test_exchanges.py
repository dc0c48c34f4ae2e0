import math
from itertools import combinations

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.planners import improve_by_exchanges, meets


def search(starts, loss, length, *, evaluations=1000, patience=1000, allowed=None):
    seen = []

    def losses(sets):
        seen.extend(sets)
        return [loss(units) for units in sets]

    size = len(starts[0])
    found = improve_by_exchanges(
        starts,
        losses=losses,
        allowed=allowed or (lambda units: len(units) == size),
        known={(): loss(()), **{(i,): loss((i,)) for i in range(length)}},
        candidates=range(length),
        length=length,
        evaluations=evaluations,
        patience=patience,
    )
    assert found.measured + len(set(starts)) == len(seen)
    assert len(set(seen[len(set(starts)) :])) == found.measured
    return found


@pytest.mark.parametrize("size", range(6))
def test_where_losses_add_up_the_best_set_is_found_from_any_other(size):
    costs = np.random.default_rng(size).random(6)
    best = min(combinations(range(6), size), key=lambda units: sum(costs[list(units)]))
    for begin in combinations(range(6), size):
        found = search([begin], lambda units: float(1 + sum(costs[list(units)])), 6)
        assert found.best[0][0] == best


@pytest.mark.parametrize("seed", range(6))
def test_with_all_patience_no_exchange_improves_the_set_that_is_found(seed):
    rng = np.random.default_rng(seed)
    table = {units: 1 + float(rng.random()) for k in range(4) for units in combinations(range(7), k)}
    best, loss = search([(0, 1, 2)], table.__getitem__, 7).best[0]
    near = [units for units in table if len(units) == 3 and len(set(units) & set(best)) == 2]
    assert loss == table[best] <= min(table[units] for units in near)


@pytest.mark.parametrize("seed", range(4))
def test_with_synergies_a_few_measurements_find_what_all_would(seed):
    draw = np.random.default_rng(seed)
    alone, pairs = draw.uniform(0.1, 1, 10), draw.uniform(0, 0.5, (10, 10))

    def loss(units):
        return float(1 + alone[list(units)].sum() + sum(pairs[i, j] for i in units for j in units if i < j))

    best = min(loss(units) for units in combinations(range(10), 5))
    lowest = tuple(sorted(alone.argsort()[:5].tolist()))
    found = search([lowest], loss, 10, evaluations=60, patience=4)
    assert found.best[0][1] <= 1.02 * best


def test_starts_and_allowed_sets_known_before_are_ranked_the_best_first():
    found = search([(0, 1), (1, 2)], lambda units: float(10 - sum(units)), 3, evaluations=0)
    assert found.best == (((1, 2), 7.0), ((0, 1), 9.0))
    found = search([(0,)], lambda units: float(10 - sum(units)), 3, evaluations=0)
    assert found.best == (((2,), 8.0), ((1,), 9.0), ((0,), 10.0))
    assert found.measured == 0


@pytest.mark.parametrize("evaluations", [0, 1, 5, 9])
def test_no_more_is_measured_than_was_granted(evaluations):
    found = search([(0, 1, 2)], lambda units: float(-sum(units)), 9, evaluations=evaluations)
    assert found.measured <= evaluations


def test_the_search_gives_up_when_rounds_bring_nothing():
    costs = np.random.default_rng(0).random(16)
    lowest = tuple(sorted(costs.argsort()[:8].tolist()))
    found = search([lowest], lambda units: float(1 + costs[list(units)].sum()), 16, patience=2)
    assert found.best[0][0] == lowest
    assert found.measured == 2 * 8


def test_a_unit_that_saves_much_is_exchanged_for_two_that_save_little():
    savings, alone = [2, 1, 1], [3.0, 0.5, 0.6]
    found = search([(0,)], lambda units: 1 + sum(alone[unit] for unit in units), 3, allowed=meets(savings, 2))
    assert found.best[0][0] == (1, 2)


def test_a_unit_comes_back_where_that_is_allowed_and_better():
    found = search([(0, 1)], lambda units: 1.0 + len(units), 2, allowed=lambda units: len(units) > 0)
    assert found.best[0] == ((0,), 2.0)


@pytest.mark.parametrize("starts", [[], [(0, 1)]])
def test_starts_that_are_not_allowed_are_refused(starts):
    with pytest.raises(ConfigError, match="begin with sets that are allowed"):
        improve_by_exchanges(
            starts,
            losses=lambda sets: [1.0 for _ in sets],
            allowed=lambda units: len(units) == 1,
            known={(): 1.0},
            candidates=range(2),
            length=2,
            evaluations=1,
        )


def test_sets_without_which_the_loss_is_infinite_are_not_taken():
    loss = {(): 0.1, (0,): 1.0, (1,): math.inf, (2,): 0.5}
    assert search([(0,)], loss.__getitem__, 3).best[0] == ((2,), 0.5)
