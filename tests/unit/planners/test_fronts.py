import math
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import BudgetError, DataError
from shoal.planners.fronts import (
    FrontPoint,
    Option,
    best_within,
    cheapest_rests,
    merge_front,
    options_by_stop,
)

SEPARATE = [Option(start=n, stop=n + 1, cost=2.0, loss=0.0) for n in range(3)]
MERGED = [Option(start=0, stop=2, cost=3.0, loss=0.5), Option(start=0, stop=3, cost=3.5, loss=2.0)]

whole_costs, whole_losses = st.integers(0, 6).map(float), st.integers(-3, 6).map(float)
any_costs, any_losses = st.floats(0, 10), st.floats(-3, 10)


def every_plan(length, options, start=0):
    """Yield the options of every way to rewrite the layers from a start on."""
    if start == length:
        yield ()
    for index, option in enumerate(options):
        if option.start == start:
            yield from ((index, *rest) for rest in every_plan(length, options, option.stop))


def sums(options, path):
    return math.fsum(options[i].cost for i in path), math.fsum(options[i].loss for i in path)


def undominated(pairs):
    front = []
    for cost, loss in sorted(pairs):
        if not front or loss < front[-1][1]:
            front.append((cost, loss))
    return front


def pairs(front):
    return [(plan.cost, plan.loss) for plan in front]


@st.composite
def chains(draw, costs, losses, whole=True):
    """Draw a length and options; `whole` ones give every layer an option of its own."""
    length = draw(st.integers(0, 12))
    starts = list(range(length)) if whole else []
    spans = [1] * len(starts)
    for _ in range(draw(st.integers(0, 12)) if length else 0):
        starts.append(draw(st.integers(0, length - 1)))
        spans.append(draw(st.integers(1, min(5, length - starts[-1]))))
    order = draw(st.permutations(range(len(starts))))
    return length, [
        Option(start=starts[i], stop=starts[i] + spans[i], cost=draw(costs), loss=draw(losses)) for i in order
    ]


@given(chains(whole_costs, whole_losses))
@settings(max_examples=150, deadline=None)
def test_the_front_of_whole_numbers_equals_brute_force(chain):
    length, options = chain
    front = merge_front(length, options)
    assert pairs(front) == undominated(sums(options, path) for path in every_plan(length, options))


@given(chains(any_costs, any_losses))
@settings(max_examples=150, deadline=None)
def test_the_front_of_any_numbers_equals_brute_force_up_to_rounding(chain):
    length, options = chain
    front = pairs(merge_front(length, options))
    assert front == undominated(front)
    for cost, loss in undominated(sums(options, path) for path in every_plan(length, options)):
        assert any(c <= cost + 1e-12 and least <= loss + 1e-12 for c, least in front)


@given(chains(any_costs, any_losses))
@settings(max_examples=100, deadline=None)
def test_every_plan_covers_all_layers_and_sums_up_its_options(chain):
    length, options = chain
    for plan in merge_front(length, options):
        segments = [options[index] for index in plan.options]
        assert [layer for each in segments for layer in range(each.start, each.stop)] == [*range(length)]
        assert (plan.cost, plan.loss) == sums(options, plan.options)


@given(chains(whole_costs, whole_losses))
@settings(max_examples=100, deadline=None)
def test_the_best_within_every_allowance_equals_brute_force_and_costs_no_more(chain):
    length, options = chain
    front = merge_front(length, options)
    every = [sums(options, path) for path in every_plan(length, options)]
    for allowance in np.arange(min(every)[0], max(every)[0] + 2, 0.5).tolist():
        plan = best_within(front, allowance)
        assert plan.cost <= allowance
        assert plan.loss == min(loss for cost, loss in every if cost <= allowance)


@given(chains(any_costs, any_losses), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_what_costs_more_than_the_most_is_left_out_and_nothing_else(chain, share):
    length, options = chain
    front = merge_front(length, options)
    most = front[0].cost + share * (front[-1].cost - front[0].cost)
    # A cost that differs from the most by its rounding may fall on either side.
    clear = [plan for plan in front if abs(plan.cost - most) > 1e-8 * most]
    kept = pairs(merge_front(length, options, most=most))
    assert [pair for pair in pairs(clear) if pair in kept] == [
        (plan.cost, plan.loss) for plan in clear if plan.cost <= most
    ]
    assert set(kept) <= set(pairs(front))


@given(chains(whole_costs, whole_losses, whole=False))
@settings(max_examples=150, deadline=None)
def test_a_chain_that_options_do_not_cover_is_refused_and_every_other_planned(chain):
    length, options = chain
    if any(every_plan(length, options)) or not length:
        assert merge_front(length, options)
    else:
        with pytest.raises(DataError, match=f"asked to plan for {length} layers: "):
            merge_front(length, options)


def test_merging_pays_from_the_cost_on_that_it_saves():
    front = merge_front(3, [*SEPARATE, *MERGED])
    assert front == (
        FrontPoint(cost=3.5, loss=2.0, options=(4,)),
        FrontPoint(cost=5.0, loss=0.5, options=(3, 2)),
        FrontPoint(cost=6.0, loss=0.0, options=(0, 1, 2)),
    )
    assert best_within(front, 5.9).options == (3, 2)
    assert best_within(front, math.inf).options == (0, 1, 2)


def test_no_layers_cost_and_lose_nothing():
    nothing = FrontPoint(cost=0.0, loss=0.0, options=())
    assert merge_front(0, []) == merge_front(0, [], most=0) == (nothing,)
    assert best_within([nothing], 0) == nothing


def test_one_layer_has_the_undominated_of_its_options():
    options = [
        Option(start=0, stop=1, cost=cost, loss=loss) for cost, loss in ((2, 1), (1, 2), (2, 2), (3, 1))
    ]
    assert [plan.options for plan in merge_front(1, options)] == [(1,), (0,)]


def test_options_that_cost_and_lose_nothing_leave_one_plan():
    options = [Option(start=a, stop=b, cost=0.0, loss=0.0) for a in range(6) for b in range(a + 1, 7)]
    (plan,) = merge_front(6, options, most=0)
    assert (plan.cost, plan.loss) == (0, 0)


@pytest.mark.parametrize(("dearer", "better"), [(0, 0), (0, 1), (1, 0)])
def test_only_the_best_of_equal_costs_and_the_cheapest_of_equal_losses_go_on(dearer, better):
    options = [
        Option(start=n, stop=n + 1, cost=1 + dearer * worth, loss=-better * worth)
        for n in range(18)
        for worth in (0.0, 2.0**n)
    ]
    before = perf_counter()
    assert pairs(merge_front(18, options)) == [(18, -better * (2**18 - 1))]
    # Were all of them kept, there would be 2¹⁸ labels.
    assert perf_counter() - before < 0.5


def test_an_option_that_gains_is_taken_where_it_can_be_paid():
    gain = Option(start=1, stop=2, cost=2.5, loss=-1.0)
    front = merge_front(3, [*SEPARATE, gain])
    assert pairs(front) == [(6.0, 0.0), (6.5, -1.0)]


def test_plans_whose_costs_differ_by_the_order_of_summing_are_one_point():
    assert 0.1 + 0.2 + 0.3 > 0.3 + 0.2 + 0.1
    rising = [(0, 2, 0.1), (2, 4, 0.2), (4, 5, 0.3)]
    falling = [(0, 1, 0.3), (1, 3, 0.2), (3, 5, 0.1)]
    options = [Option(start=a, stop=b, cost=cost, loss=0.0) for a, b, cost in rising]
    options += [Option(start=a, stop=b, cost=cost, loss=1.0) for a, b, cost in falling]
    assert merge_front(5, options) == (FrontPoint(cost=0.6, loss=0.0, options=(0, 1, 2)),)


def test_a_dead_end_is_no_way():
    dead_end = Option(start=0, stop=2, cost=0.0, loss=-9.0)
    options = [
        Option(start=0, stop=1, cost=1.0, loss=0.0),
        Option(start=1, stop=3, cost=1.0, loss=0.0),
        dead_end,
    ]
    assert pairs(merge_front(3, options)) == [(2.0, 0.0)]
    assert cheapest_rests(options, options_by_stop(3, options), [1, 1, 0]) == [2, 1, math.inf, 0]


def test_an_allowance_is_met_up_to_the_rounding_of_a_share():
    options = [Option(start=n, stop=n + 1, cost=0.1, loss=0.0) for n in range(3)]
    (plan,) = merge_front(3, options, most=0.3 * (1 - 1e-10))
    assert best_within([plan], 0.3 * (1 - 1e-10)) == plan
    with pytest.raises(BudgetError, match=r"at most 0\.3: the cheapest costs 0\.3"):
        best_within([plan], 0.3 * (1 - 1e-8))


@pytest.mark.parametrize("allowance", [3.4, 0, -1, math.nan])
def test_an_allowance_below_the_cheapest_names_it(allowance):
    options = [*SEPARATE, *MERGED]
    message = r"the cheapest costs 3\.5 and loses 2\. Allow no less"
    with pytest.raises(BudgetError, match=message):
        merge_front(3, options, most=allowance)
    with pytest.raises(BudgetError, match=message):
        best_within(merge_front(3, options), allowance)


def test_an_empty_front_has_no_best_plan():
    with pytest.raises(DataError, match="the best plan of an empty front"):
        best_within([], 1.0)


def test_layers_without_an_option_are_named():
    options = [Option(start=n, stop=n + 1, cost=1, loss=0) for n in (0, 3, 6)]
    with pytest.raises(DataError, match=r"no option covers the layers \[1, 3\), \[4, 6\)\. Give every layer"):
        merge_front(7, options)
    with pytest.raises(DataError, match=r"no option covers the layers \[0, 2\)"):
        merge_front(2, [])


def test_options_that_do_not_meet_are_named_by_their_borders():
    options = [Option(start=0, stop=2, cost=1, loss=0), Option(start=1, stop=3, cost=1, loss=0)]
    with pytest.raises(DataError, match="end at the borders 0, 2, and none leads from there to 3"):
        merge_front(3, options)


def test_options_beyond_the_layers_and_fewer_than_no_layers_are_refused():
    with pytest.raises(DataError, match=r"for 2 layers with an option for the layers \[0, 3\)"):
        merge_front(2, [*SEPARATE[:2], MERGED[1]])
    with pytest.raises(DataError, match="asked to plan for -1 layers"):
        merge_front(-1, [])


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (2, 1), (-1, 1)])
def test_an_option_holds_a_layer_or_more(start, stop):
    with pytest.raises(DataError, match=rf"\[{start}, {stop}\): it needs one layer or more"):
        Option(start=start, stop=stop, cost=0.0, loss=0.0)


@pytest.mark.parametrize(
    ("cost", "loss"),
    [(-1e-9, 0.0), (math.nan, 0.0), (math.inf, 0.0), (0.0, math.nan), (0.0, math.inf), (0.0, -math.inf)],
)
def test_costs_and_losses_that_are_no_numbers_are_refused(cost, loss):
    with pytest.raises(DataError, match=f"costs {cost} and loses {loss}: both must be finite"):
        Option(start=0, stop=1, cost=cost, loss=loss)


def test_long_chains_of_costs_that_never_coincide_take_no_time():
    rng = np.random.default_rng(0)
    spans = [(a, b) for a in range(50) for b in range(a + 1, min(a + 8, 50) + 1)]
    costs = [rng.uniform(0.5, 1, b - a).sum() for a, b in spans]
    losses = [rng.uniform(0, 1, b - a - 1).sum() for a, b in spans]
    options = [
        Option(start=a, stop=b, cost=cost * rng.uniform(0.4, 1), loss=loss)
        for (a, b), cost, loss in zip(spans, costs, losses, strict=True)
    ]
    before = perf_counter()
    front = merge_front(50, options)
    assert perf_counter() - before < 0.5
    assert len(front) > 100


def test_plans_that_cannot_be_completed_within_the_most_are_given_up():
    # Every subset of 40 layers is worth its cost, and the last layer takes nearly all of what is allowed.
    paid = [Option(start=n, stop=n + 1, cost=2.0**n, loss=-(2.0**n)) for n in range(40)]
    free = [Option(start=n, stop=n + 1, cost=0.0, loss=0.0) for n in range(40)]
    last = Option(start=40, stop=41, cost=2.0**28, loss=0.0)
    front = merge_front(41, [*paid, *free, last], most=2.0**28 + 999)
    assert [plan.cost - 2**28 for plan in front] == list(range(1000))
