import math
from itertools import combinations
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import BudgetError, DataError
from shoal.planners import Removal, cheapest_removal, frontier, largest_removal
from shoal.tables import ImportanceTable
from shoal.units import Segment

ONES = ImportanceTable.additive([3.0, 1.0, 2.0, 5.0], range(4))
NOTHING = Removal(removed=(), cost=0.0, saved=0.0)


def every_removal(table, savings, length, segments=()):
    """Return all sets of units whose maximal runs are in the table and that spare a unit a segment."""
    units = sorted({unit for run in table.entries for unit in run})
    found = []
    for size in range(len(units) + 1):
        for removed in combinations(units, size):
            runs = Segment.runs(removed)
            if all(run in table for run in runs) and not any(
                set(segment) <= set(removed) for segment in segments
            ):
                cost, saved = sum(table[run] for run in runs), sum(savings[unit] for unit in removed)
                found.append(Removal(removed=removed, cost=cost, saved=saved))
    return found


def random_case(seed, least=0.0):
    rng = np.random.default_rng(seed)
    length, longest = int(rng.integers(4, 11)), int(rng.integers(1, 6))
    savings = rng.integers(1, 4, length).tolist()
    prunable = rng.random(length) < 0.85
    entries = {
        Segment(start, stop): float(rng.uniform(least, 1))
        for start in range(length)
        for stop in range(start + 1, min(start + longest, length) + 1)
        if prunable[start:stop].all()
    }
    cuts = sorted(rng.choice(np.arange(1, length), int(rng.integers(0, 4)), replace=False).tolist())
    segments = tuple(map(Segment, (0, *cuts), (*cuts, length)))
    return ImportanceTable(entries=entries), savings, length, segments


def check_equals_brute_force(table, savings, length, segments):
    every = every_removal(table, savings, length, segments)
    most = max(removal.saved for removal in every)
    for need in range(1, sum(savings) + 1):
        if need > most:
            with pytest.raises(BudgetError, match=f"is {most:g},"):
                cheapest_removal(table, savings, need, length=length, segments=segments)
            continue
        found = cheapest_removal(table, savings, need, length=length, segments=segments)
        least = min(removal.cost for removal in every if removal.saved >= need)
        assert found.cost == pytest.approx(least, abs=1e-12)
        assert found.saved >= need
        assert any(same.removed == found.removed for same in every)


@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("least", [0.0, -1.0], ids=["positive", "with negative costs"])
@pytest.mark.parametrize("segmented", [False, True], ids=["free", "segmented"])
def test_equals_brute_force(part, least, segmented):
    for seed in range(20 * part, 20 * part + 20):
        table, savings, length, segments = random_case(seed, least)
        check_equals_brute_force(table, savings, length, segments if segmented else ())


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("least", [0.0, -1.0], ids=["positive", "with negative costs"])
def test_the_frontier_equals_brute_force(seed, least):
    table, savings, length, segments = random_case(seed, least)
    every = every_removal(table, savings, length, segments)
    front = frontier(table, savings, length=length, segments=segments)
    best = []
    for removal in sorted(every, key=lambda removal: (-removal.saved, removal.cost)):
        if not best or removal.cost < best[-1].cost - 1e-12:
            best.append(removal)
    assert [removal.saved for removal in front] == [removal.saved for removal in best[::-1]]
    assert [removal.cost for removal in front] == pytest.approx([removal.cost for removal in best[::-1]])
    assert [removal.cost for removal in front] == sorted(removal.cost for removal in front)


@pytest.mark.parametrize("seed", range(60))
def test_savings_without_a_quantum_meet_the_need_at_nearly_the_least_cost(seed):
    table, _, length, segments = random_case(seed)
    savings = np.random.default_rng(seed).uniform(0.5, 3, length).tolist()
    every = every_removal(table, savings, length, segments)
    most = max(removal.saved for removal in every)
    for share in (0.1, 0.4, 0.7) if most else ():
        found = cheapest_removal(table, savings, share * most, length=length, segments=segments)
        assert found.saved >= share * most
        assert found.cost <= min(removal.cost for removal in every if removal.saved >= share * most * 1.001)
    if most:
        found = cheapest_removal(table, savings, most, length=length, segments=segments)
        assert found == largest_removal(table, savings, length=length, segments=segments)
        assert found.saved == pytest.approx(most)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.floats(0.01, 1))
@settings(max_examples=60, deadline=None)
def test_equal_savings_of_any_size_are_counted_exactly(scores, saving):
    table = ImportanceTable.additive(scores, range(len(scores)))
    for count in range(1, len(scores) + 1):
        found = cheapest_removal(table, [saving] * len(scores), count * saving, length=len(scores))
        assert found.cost == pytest.approx(sum(sorted(scores)[:count]))
        assert len(found.removed) == count


def test_savings_as_large_as_those_of_real_networks_are_exact():
    macs = [4_718_592, 4_718_592, 3_538_944, 4_718_592]
    found = cheapest_removal(ONES, macs, 2 * 4_718_592 - 1.5, length=4)
    assert found == Removal(removed=(0, 1), cost=4.0, saved=9_437_184.0)


@pytest.mark.parametrize("need", [0, -3.5])
def test_nothing_is_removed_where_nothing_is_needed(need):
    assert cheapest_removal(ONES, [1] * 4, need, length=4) == NOTHING


def test_all_can_be_removed():
    assert cheapest_removal(ONES, [1] * 4, 4, length=4).removed == (0, 1, 2, 3)


@pytest.mark.parametrize("length", [0, 1])
def test_a_chain_without_removable_units_saves_nothing(length):
    table, savings = ImportanceTable(entries={}), [1.0] * length
    assert frontier(table, savings, length=length) == [NOTHING]
    assert largest_removal(table, savings, length=length) == NOTHING
    with pytest.raises(BudgetError, match=f"is 0, by removing 0 of {length} units"):
        cheapest_removal(table, savings, 1, length=length)


def test_runs_are_maximal_so_that_two_neighbours_cost_what_their_run_costs():
    entries = {Segment(0, 1): 1.0, Segment(1, 2): 1.0, Segment(0, 2): 50.0, Segment(2, 3): 10.0}
    found = cheapest_removal(ImportanceTable(entries=entries), [1, 1, 1], 2, length=3)
    assert found == Removal(removed=(0, 2), cost=11.0, saved=2.0)


def test_a_run_that_is_not_in_the_table_is_not_put_together_from_shorter_ones():
    table = ImportanceTable.additive([1.0] * 4, range(4), longest=1)
    assert largest_removal(table, [1] * 4, length=4).saved == 2
    with pytest.raises(BudgetError, match="asked to save 3: the most that can be saved is 2"):
        cheapest_removal(table, [1] * 4, 3, length=4)


def test_every_segment_keeps_a_unit_and_runs_may_cross_their_border():
    segments = (Segment(0, 2), Segment(2, 4))
    found = cheapest_removal(ONES, [1] * 4, 2, length=4, segments=segments)
    assert found.removed == (1, 2)
    with pytest.raises(BudgetError, match="with a unit kept in each of 2 segments is 2"):
        cheapest_removal(ONES, [1] * 4, 3, length=4, segments=segments)


def test_an_empty_segment_asks_for_nothing():
    assert cheapest_removal(ONES, [1] * 4, 4, length=4, segments=[Segment(2, 2)]).saved == 4


def test_a_removal_that_lowers_the_loss_begins_the_frontier():
    table = ImportanceTable.additive([-1.0, 2.0, -0.5], range(3))
    front = frontier(table, [1, 1, 1], length=3)
    assert [removal.removed for removal in front] == [(0, 2), (0, 1, 2)]


def test_units_that_save_nothing_may_go_if_that_lowers_the_loss():
    table = ImportanceTable.additive([-1.0, 2.0, 1.0], range(3))
    found = cheapest_removal(table, [0, 1, 1], 1, length=3)
    assert found == Removal(removed=(0, 2), cost=0.0, saved=1.0)


def test_a_run_of_infinite_cost_is_never_removed():
    table = ImportanceTable.additive([1.0, math.inf, 2.0], range(3))
    assert largest_removal(table, [1, 1, 1], length=3).removed == (0, 2)


def test_the_largest_removal_is_the_cheapest_of_the_largest():
    entries = {Segment(0, 1): 5.0, Segment(1, 2): 1.0}
    assert largest_removal(ImportanceTable(entries=entries), [1, 1], length=2).removed == (1,)


def test_two_hundred_units_take_less_than_a_second():
    rng = np.random.default_rng(0)
    table = ImportanceTable.additive(rng.random(200).tolist(), range(200), longest=8)
    savings = rng.uniform(1, 2, 200).tolist()
    begin = perf_counter()
    found = cheapest_removal(table, savings, 100, length=200)
    assert perf_counter() - begin < 1
    assert found.saved >= 100


@pytest.mark.parametrize("cost", [math.nan, -math.inf])
def test_an_importance_that_is_no_number_is_refused(cost):
    table = ImportanceTable(entries={Segment(0, 2): cost})
    with pytest.raises(DataError, match=rf"importance {cost} of the run \[0, 2\)"):
        cheapest_removal(table, [1, 1], 1, length=2)


@pytest.mark.parametrize("saving", [-1.0, math.nan, math.inf])
def test_savings_that_are_no_savings_are_refused(saving):
    with pytest.raises(DataError, match=r"of the units \[0, 2\): what a unit saves"):
        frontier(ONES, [1.0, saving, 1.0, 1.0], length=4)


@pytest.mark.parametrize("run", [Segment(3, 5), Segment(2, 2)])
def test_runs_outside_the_chain_and_empty_ones_are_refused(run):
    with pytest.raises(DataError, match=r"4 units with the importance of the run \["):
        largest_removal(ImportanceTable(entries={run: 1.0}), [1] * 4, length=4)


def test_savings_of_another_number_of_units_are_refused():
    with pytest.raises(DataError, match="plan for 4 units with the savings of 3"):
        cheapest_removal(ONES, [1] * 3, 1, length=4)
