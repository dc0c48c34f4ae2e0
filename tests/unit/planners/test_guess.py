import math
from itertools import combinations

import numpy as np
import pytest

from shoal.errors import DataError
from shoal.planners.guess import LossGuess


def additive(length, seed, synergy=0.0):
    draw = np.random.default_rng(seed)
    alone, pairs = draw.uniform(0.05, 0.5, length), draw.uniform(0, synergy, (length, length))
    return lambda units: float(
        1 + sum(alone[i] for i in units) + sum(pairs[i, j] for i in units for j in units if i < j)
    )


def ranks(values):
    return np.argsort(np.argsort(values))


@pytest.mark.parametrize("length", [1, 2, 6])
@pytest.mark.parametrize("seed", range(3))
def test_where_losses_add_up_singles_rank_all_sets(length, seed):
    loss = additive(length, seed)
    known = {units: loss(units) for size in (0, 1) for units in combinations(range(length), size)}
    guess = LossGuess(known, length)
    for size in range(length + 1):
        sets = list(combinations(range(length), size))
        guessed, true = guess(sets), [loss(units) for units in sets]
        assert np.argmin(guessed) == np.argmin(true)
        assert np.argmax(guessed) == np.argmax(true)
        if len(sets) > 1:
            assert np.corrcoef(ranks(guessed), ranks(true))[0, 1] > 0.97


def test_measured_pairs_tell_which_units_do_not_go_together():
    length = 6
    loss = additive(length, 1, synergy=1.0)
    sets = list(combinations(range(length), 3))
    true = np.array([loss(units) for units in sets])

    def agreement(largest):
        known = {u: loss(u) for size in range(largest + 1) for u in combinations(range(length), size)}
        guessed = LossGuess(known, length)(sets)
        return np.corrcoef(ranks(guessed), ranks(true))[0, 1]

    assert agreement(1) < 0.7 < 0.8 < agreement(2)


def test_a_measured_set_is_guessed_as_it_was_measured():
    known = {(): 1.0, (0,): 2.0, (1,): 3.0, (0, 1): 9.0}
    guessed = LossGuess(known, 2)(list(known))
    scale = 1.5
    assert guessed == pytest.approx(np.arcsinh((np.array(list(known.values())) - 1) / scale), abs=0.01)


def test_losses_below_the_networks_own_and_infinite_ones_are_ranked():
    known = {(): 1.0, (0,): 0.9, (1,): math.inf, (2,): 1.5}
    guessed = LossGuess(known, 3)([(0,), (2,), (1,)])
    assert list(guessed.argsort()) == [0, 1, 2]


@pytest.mark.parametrize("known", [{}, {(0,): 1.0}, {(): math.inf}, {(): math.nan}])
def test_nothing_is_guessed_without_the_networks_own_loss(known):
    with pytest.raises(DataError, match="asked to guess losses where the whole network's is"):
        LossGuess(known, 1)
