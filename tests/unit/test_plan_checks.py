from dataclasses import replace

import pytest

from shoal.errors import PlanError, UnitError
from shoal.plan_checks import check_removable, check_same, check_steps
from shoal.steps import Merge, Remove
from shoal.summary import ModelSummary

IMAGE = {"shape": [1, 3, 8, 8], "dtype": "float32"}
MODEL = ModelSummary(
    name="Net",
    params=200,
    macs=2000,
    units=("a", "b", "c", "d:2"),
    unit_params=(10, 20, 30, 40),
    inputs=IMAGE,
)


def remove(index):
    name = MODEL.units[index]
    return Remove(unit=name, index=index, modules=(name.partition(":")[0],))


def merge(start, stop, kept):
    return Merge(start=start, stop=stop, kept=kept, layers=MODEL.units[start:stop])


def refused(steps, message, model=MODEL, predicted=None):
    with pytest.raises(PlanError, match=message):
        check_steps(model, steps, predicted or {})


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (remove(1), remove(3)),
        tuple(map(remove, range(4))),
        (merge(1, 3, (2,)),),
        (merge(0, 1, ()), merge(1, 4, (1, 2, 3))),
    ],
)
def test_steps_that_name_units_in_order_fit(steps):
    check_steps(MODEL, steps, {})


@pytest.mark.parametrize("removed", [[], [1], [0, 3], [0, 1, 2, 3]])
def test_what_is_promised_is_what_the_steps_leave(removed):
    left = 200 - sum(MODEL.unit_params[index] for index in removed)
    steps = [remove(index) for index in removed]
    check_steps(MODEL, steps, {"units": 4 - len(removed), "params": left, "latency": 0.5})
    for wrong in ({"units": 5}, {"params": left + 1}, {"params": "all"}, {"units": None}):
        ((name, said),) = wrong.items()
        refused(steps, f"leaves {said!r} {name}: its steps leave", predicted=wrong)


@pytest.mark.parametrize(
    "changed", [{"index": 2}, {"index": 9}, {"index": -3}, {"index": "1"}, {"index": [1]}, {"unit": "x"}]
)
def test_a_step_that_names_no_unit_of_the_plan_is_refused(changed):
    refused([replace(remove(1), **changed)], "of its 4 units that one is")


def test_a_step_that_removes_the_modules_of_another_unit_is_refused():
    refused([replace(remove(1), modules=("c",))], r"by the modules \['c'\]: they are not its own")


@pytest.mark.parametrize("removed", [[3, 3], [2, 1]])
def test_units_go_once_and_in_forward_order(removed):
    refused([remove(index) for index in removed], r"each is removed once, in forward order")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([merge(0, 2, (0,)), merge(1, 3, (1, 2))], "those behind the step before"),
        ([merge(2, 4, (2,)), merge(0, 2, (0,))], "those behind the step before"),
        ([merge(2, 5, (2, 3))], "of its 4 layers"),
        ([merge(3, 1, ())], r"the layers \[3, 1\), \[\]: of its 4 layers"),
        ([merge(1, 1, ())], r"the layers \[1, 1\), \[\]: of its 4 layers"),
        ([merge(-1, 3, ())], r"the layers \[-1, 3\)"),
        ([replace(merge(1, 3, (1,)), layers=("x", "y"))], r"the layers \[1, 3\), \['x', 'y'\]"),
        ([merge(1, 3, (2, 1))], "each is kept once, in forward order"),
        ([merge(1, 3, (1, 1))], "each is kept once"),
        ([merge(1, 3, (3,))], r"keeps \[3\] of the layers \[1, 3\)"),
        ([merge(1, 3, ([1],))], r"keeps \[\[1\]\] of"),
        ([merge(1, 3, (True,))], r"keeps \[True\] of"),
        ([merge(1, 3, (1.0,))], r"keeps \[1.0\] of"),
        ([merge(1, 3, (1,)), remove(3)], "two plans, one after the other"),
    ],
)
def test_merges_that_do_not_fit_are_refused(steps, message):
    refused(steps, message)


@pytest.mark.parametrize("inputs", [None, 3, "text", {"tuple": []}, {"mapping": {"flag": True}}])
def test_merges_need_inputs_to_find_the_layers_with_and_removals_do_not(inputs):
    model = replace(MODEL, inputs=inputs)
    refused([merge(1, 3, (1,))], "of Net, whose inputs are .* with a tensor in them.* anew", model=model)
    check_steps(model, [remove(1)], {})


@pytest.mark.parametrize("chosen", [[], [1], [1, 2, 3]])
def test_units_that_can_go_are_let_go(make_chain, chosen):
    chain = make_chain(fixed=[0])
    check_removable(chain, [chain[index] for index in chosen])


@pytest.mark.parametrize(
    ("fixed", "chosen", "advice"),
    [
        ([0], [0], r"The nearest cut that works removes \[1\]"),
        ([2], [2, 3], r"The nearest cut that works removes \[1, 3\]"),
        ([0, 1, 2, 3], [1], r"None of its units can be"),
    ],
)
def test_a_unit_that_must_stay_is_named_with_the_nearest_cut(make_chain, fixed, chosen, advice):
    chain = make_chain(fixed=fixed)
    with pytest.raises(UnitError, match=rf"cannot be removed: it changes the shape.*{advice}"):
        check_removable(chain, [chain[index] for index in chosen])


def test_networks_with_the_same_units_are_the_same():
    check_same(MODEL, replace(MODEL, name="Other", inputs=None))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"units": ("a", "b", "x", "d:2")}, r"unit 2 is 'c' in the plan and 'x' in the model"),
        ({"units": ("a", "b", "c")}, r"with 4 units on Net with 3 units\. Make"),
        ({"units": ()}, r"with 4 units on Net with 0 units\. Make"),
        ({"unit_params": (10, 20, 30, 41), "params": 201}, "200 parameters on Net with 201: .* other sizes"),
    ],
)
def test_networks_with_other_units_are_not(changed, message):
    with pytest.raises(PlanError, match=message):
        check_same(MODEL, replace(MODEL, **changed))
