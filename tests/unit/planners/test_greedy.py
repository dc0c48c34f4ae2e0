import math
import random

import pytest

from shoal.errors import BudgetError, ConfigError
from shoal.planners import remove_greedily


class Pairs:
    """Costs of single units and of pairs that go together; counts what is asked."""

    def __init__(self, length, seed, synergy=0.5):
        draw = random.Random(seed)
        self.alone = [draw.uniform(0.1, 2) for _ in range(length)]
        self.together = {(i, j): draw.uniform(0, synergy) for j in range(length) for i in range(j)}
        self.asked = 0

    def loss(self, removed):
        pairs = [(i, j) for j in removed for i in removed if i < j]
        return sum(self.alone[i] for i in removed) + sum(self.together[pair] for pair in pairs)

    def __call__(self, gone, sets):
        self.asked += len(sets)
        return [self.loss(larger) - self.loss(gone) for larger in sets]


def plain_greedy(costs, free, savings, need):
    removed = []
    while sum(savings[u] for u in removed) < need:
        rest = [u for u in free if u not in removed]
        removed.append(min(rest, key=lambda u: costs.loss([*removed, u]) - costs.loss(removed)))
    return tuple(removed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("need", [0, 1, 4, 8])
@pytest.mark.parametrize("lazy", [None, 0.0, 1.0])
def test_the_search_equals_a_plain_one(seed, need, lazy):
    # Costs that only grow, so that the lazy search is exact, too.
    costs = Pairs(8, seed)
    found = remove_greedily(range(8), [1.0] * 8, need, costs=costs, lazy=lazy)
    assert found == plain_greedy(costs, range(8), [1.0] * 8, need)


def test_a_lazy_search_asks_for_less():
    every, lazy = Pairs(12, 0, 0.1), Pairs(12, 0, 0.1)
    exact = remove_greedily(range(12), [1.0] * 12, 5, costs=every)
    assert remove_greedily(range(12), [1.0] * 12, 5, costs=lazy, lazy=0.8) == exact
    assert lazy.asked < 0.7 * every.asked


def test_what_saves_nothing_stays_and_dear_units_must_save_much():
    savings = [0.0, 1.0, 10.0]
    alone = [0.0, 1.0, 2.0]

    def costs(gone, sets):
        return [sum(alone[i] for i in larger if i not in gone) for larger in sets]

    assert remove_greedily(range(3), savings, 1, costs=costs) == (2,)


def test_what_is_not_needed_comes_back():
    order = iter([(0,), (0, 1)])

    def costs(gone, sets):
        next(order)
        return [-1.0 if larger[-1] == len(gone) else 1.0 for larger in sets]

    assert remove_greedily(range(2), [1.0, 5.0], 5, costs=costs) == (1,)


@pytest.mark.parametrize(("together", "rounds"), [(1, 6), (2, 3), (6, 1), (9, 1)])
def test_several_go_before_the_others_are_costed_again(together, rounds):
    asked = []

    def costs(gone, sets):
        asked.append(gone)
        return [float(larger[-1]) for larger in sets]

    removed = remove_greedily(range(6), [1.0] * 6, 6, costs=costs, together=together)
    assert sorted(removed) == [0, 1, 2, 3, 4, 5]
    assert len(asked) == rounds


def test_every_group_keeps_its_floor():
    costs = Pairs(6, 1)

    def keeps(removed):
        return all(len(group.intersection(removed)) <= 1 for group in ({0, 1, 2}, {3, 4, 5}))

    removed = remove_greedily(range(6), [1.0] * 6, 2, costs=costs, keeps=keeps, together=5)
    assert sorted(unit // 3 for unit in removed) == [0, 1]


def test_too_much_is_refused():
    with pytest.raises(BudgetError, match=r"asked to save 3: what may go saves 2, by removing 2 units"):
        remove_greedily(range(2), [1.0] * 2, 3, costs=Pairs(2, 0))
    with pytest.raises(BudgetError, match="saves 0"):
        remove_greedily(range(2), [1.0] * 2, 1, costs=lambda gone, sets: [math.inf] * len(sets))


@pytest.mark.parametrize(("together", "lazy"), [(0, None), (1, -0.1), (1, 1.5)])
def test_impossible_settings_are_refused(together, lazy):
    with pytest.raises(ConfigError, match="1 or more, and a share"):
        remove_greedily([0], [1.0], 1, costs=Pairs(1, 0), together=together, lazy=lazy)
