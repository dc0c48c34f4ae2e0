from itertools import combinations

import pytest

from shoal.errors import BudgetError, ConfigError
from shoal.planners import best_subset, removal_by_shares
from shoal.units import Segment

CUTS = (Segment(0, 4), Segment(4, 6), Segment(6, 7))


def first(segment, keep):
    """Keep the first units."""
    return tuple(segment)[keep:]


@pytest.mark.parametrize(
    ("need", "removed"), [(0, ()), (0.5, (3,)), (1, (3,)), (2, (3, 5)), (3, (2, 3, 5)), (4, (1, 2, 3, 5))]
)
def test_as_few_units_go_as_save_enough_and_every_segment_keeps_its_share(need, removed):
    assert removal_by_shares(CUTS, [1] * 7, need, range(7), pick=first) == removed


def test_units_that_cannot_go_stay_and_count():
    picked = []

    def last_free(segment, keep):
        picked.append((segment, keep))
        return [unit for unit in segment if unit != 0][keep - (segment.start == 0) :]

    found = removal_by_shares(CUTS, [1] * 7, 4, range(1, 7), pick=last_free)
    assert found == (1, 2, 3, 5)
    assert len(picked) == len(set(picked))


def test_picks_are_asked_for_only_where_they_may_suffice():
    picked = []

    def remember(segment, keep):
        picked.append((segment, keep))
        return first(segment, keep)

    removal_by_shares(CUTS, [1] * 7, 4, range(7), pick=remember)
    assert picked == [(CUTS[0], 1), (CUTS[1], 1)]


def test_more_units_go_where_those_picked_save_little():
    savings = [1, 1, 1, 5, 1, 1, 1]

    def keep_dear(segment, keep):
        return sorted(segment, key=lambda unit: savings[unit])[: len(segment) - keep]

    assert removal_by_shares(CUTS, savings, 4, range(7), pick=keep_dear) == (0, 1, 2, 4)


def test_counts_that_are_given_are_kept_to():
    assert removal_by_shares(CUTS, [1] * 7, 1, range(7), pick=first, counts=[2, 2, 1]) == (2, 3)
    with pytest.raises(
        BudgetError, match=r"save 3: with \[2, 2, 1\] units kept in the 3 segments .* 2 can be"
    ):
        removal_by_shares(CUTS, [1] * 7, 3, range(7), pick=first, counts=[2, 2, 1])


@pytest.mark.parametrize("counts", [[], [1, 1], [0, 1, 1], [5, 1, 1], [1, 1, 1, 1]])
def test_counts_that_do_not_fit_are_refused(counts):
    with pytest.raises(ConfigError, match="in segments of .* give one count a segment"):
        removal_by_shares(CUTS, [1] * 7, 1, range(7), pick=first, counts=counts)


def test_a_need_beyond_what_shares_leave_is_refused_with_the_most():
    with pytest.raises(
        BudgetError, match=r"save 5: with a unit or more kept in the 3 segments .* 4 can be saved"
    ):
        removal_by_shares(CUTS, [1] * 7, 5, range(7), pick=first)


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_the_best_of_all_subsets_is_found(count):
    values = [3, 1, 4, 1, 5]
    found = best_subset(
        range(5), count, scores=lambda subsets: [sum(values[u] for u in s) for s in subsets], most=10
    )
    assert found == max(combinations(range(5), count), key=lambda s: sum(values[u] for u in s))


def test_too_many_subsets_are_drawn_by_the_seed():
    asked = []

    def scores(subsets):
        asked.append(tuple(subsets))
        return [1.0] * len(subsets)

    found = [best_subset(range(12), 6, scores=scores, most=20, seed=seed) for seed in (0, 0, 1)]
    assert asked[0] == asked[1] != asked[2]
    assert 10 < len(asked[0]) == len(set(asked[0])) <= 20
    assert found[0] == asked[0][0]
