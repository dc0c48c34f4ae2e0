import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import BudgetError, ConfigError, DataError
from shoal.planners.discretised import discretised_plan
from shoal.planners.fronts import Option, best_within, merge_front

THREE = [Option(start=n, stop=n + 1, cost=1.9, loss=-1.0) for n in range(3)]
SHORTER = Option(start=0, stop=3, cost=2.8, loss=-1.0)


def every_plan(length, options, start=0):
    if start == length:
        yield ()
    for index, option in enumerate(options):
        if option.start == start:
            yield from ((index, *rest) for rest in every_plan(length, options, option.stop))


@st.composite
def chains(draw, costs):
    """Draw a length and options; importances are multiples of an eighth, whose sums are exact."""
    length = draw(st.integers(0, 9))
    segments = [(n, n + 1) for n in range(length)]
    for _ in range(draw(st.integers(0, 10)) if length else 0):
        start = draw(st.integers(0, length - 1))
        segments.append((start, draw(st.integers(start + 1, min(start + 4, length)))))
    losses = st.integers(-16, 4).map(lambda eighths: eighths / 8)
    return length, [Option(start=a, stop=b, cost=draw(costs), loss=draw(losses)) for a, b in segments]


@given(chains(st.integers(0, 40)), st.integers(0, 250), st.sampled_from(["floor", "ceil"]))
@settings(max_examples=200, deadline=None)
def test_equals_brute_force_in_whole_ticks(chain, allowance, rounding):
    length, options = chain
    taken = [-(-option.cost // 10) if rounding == "ceil" else option.cost // 10 for option in options]
    fitting = [
        (-sum(options[i].loss for i in path), -sum(taken[i] for i in path))
        for path in every_plan(length, options)
        if sum(taken[i] for i in path) <= allowance // 10
    ]
    if not fitting:
        with pytest.raises(BudgetError, match="steps of rounded costs"):
            discretised_plan(length, options, allowance, quantum=10, rounding=rounding)
        return
    plan = discretised_plan(length, options, allowance, quantum=10, rounding=rounding)
    assert plan.options in set(every_plan(length, options))
    assert (-plan.loss, -sum(taken[i] for i in plan.options)) == max(fitting)
    assert plan.cost == math.fsum(options[i].cost for i in plan.options)


@given(chains(st.floats(0, 5)), st.floats(0, 1), st.sampled_from([0.5, 0.01]))
@settings(max_examples=150, deadline=None)
def test_lies_between_the_best_plans_of_the_allowances_that_rounding_makes_of_one(chain, share, quantum):
    length, options = chain
    front = merge_front(length, options)
    error = (length + 1) * quantum
    allowance = front[0].cost + 2 * error + share * (front[-1].cost - front[0].cost)
    least = [best_within(front, allowance + shift).loss for shift in (error, 0, -error)]
    floor, ceil = (
        discretised_plan(length, options, allowance, quantum=quantum, rounding=rounding)
        for rounding in ("floor", "ceil")
    )
    assert least[0] <= floor.loss <= least[1] <= ceil.loss <= least[2]
    assert ceil.cost <= allowance * (1 + 1e-8)
    assert floor.cost < allowance + error


@given(chains(st.integers(0, 20).map(lambda tenths: tenths / 10)), st.sampled_from(["floor", "ceil"]))
@settings(max_examples=100, deadline=None)
def test_equals_the_front_where_costs_are_whole_ticks(chain, rounding):
    length, options = chain
    front = merge_front(length, options)
    for tenths in range(math.ceil(front[0].cost * 10 - 1e-6), math.ceil(front[-1].cost * 10) + 2):
        plan = discretised_plan(length, options, tenths / 10, quantum=0.1, rounding=rounding)
        assert plan.loss == best_within(front, tenths / 10).loss


def test_rounding_down_exceeds_the_allowance_and_rounding_up_does_not():
    down = discretised_plan(3, [*THREE, SHORTER], 3.0, quantum=1.0, rounding="floor")
    assert (down.options, down.cost) == ((0, 1, 2), pytest.approx(5.7))
    up = discretised_plan(3, [*THREE, SHORTER], 3.0, quantum=1.0, rounding="ceil")
    assert (up.options, up.cost) == ((3,), 2.8)


@pytest.mark.parametrize("more", [0.0, 4e-8])
def test_importances_that_are_equal_in_seven_decimals_go_to_the_fewest_ticks(more):
    options = [Option(start=0, stop=1, cost=cost, loss=-1.0 - more * (cost == 3)) for cost in (3, 2, 2.5)]
    assert discretised_plan(1, options, 9, quantum=1, rounding="floor").options == (1,)


def test_importances_that_differ_in_seven_decimals_go_to_the_higher():
    options = [Option(start=0, stop=1, cost=3, loss=-1.0 - 2e-7), Option(start=0, stop=1, cost=2, loss=-1.0)]
    assert discretised_plan(1, options, 9, quantum=1, rounding="floor").options == (0,)


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_an_allowance_above_all_costs_is_no_more_work(rounding):
    plan = discretised_plan(3, THREE, 1e12, quantum=0.1, rounding=rounding)
    assert plan.options == (0, 1, 2)


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_no_layers_need_no_allowance(rounding):
    assert discretised_plan(0, [], 0.0, quantum=0.1, rounding=rounding).options == ()


@pytest.mark.parametrize(("rounding", "least"), [("floor", 2), ("ceil", 3)])
def test_an_allowance_below_every_plan_names_one_that_does(rounding, least):
    options = [*THREE, SHORTER]
    with pytest.raises(BudgetError, match=rf"at most 1\.5, .* takes {least} steps .* Allow {least} or more"):
        discretised_plan(3, options, 1.5, quantum=1.0, rounding=rounding)
    assert discretised_plan(3, options, least, quantum=1.0, rounding=rounding).options == (3,)
    with pytest.raises(BudgetError, match=r"at most -0\.1"):
        discretised_plan(0, [], -0.1, quantum=1.0, rounding=rounding)


@pytest.mark.parametrize(
    ("allowance", "quantum", "rounding"),
    [
        (1.0, 0.0, "floor"),
        (1.0, -0.1, "floor"),
        (1.0, math.nan, "floor"),
        (1.0, math.inf, "ceil"),
        (math.nan, 0.1, "ceil"),
        (math.inf, 0.1, "ceil"),
        (1.0, 0.1, "round"),
    ],
)
def test_requests_that_are_no_numbers_are_refused(allowance, quantum, rounding):
    with pytest.raises(
        ConfigError, match=f"at most {allowance} in steps of {quantum}, rounded by '{rounding}'"
    ):
        discretised_plan(3, THREE, allowance, quantum=quantum, rounding=rounding)


def test_layers_without_an_option_are_named():
    with pytest.raises(DataError, match=r"no option covers the layers \[2, 3\)"):
        discretised_plan(3, THREE[:2], 9.0, quantum=1.0, rounding="floor")
