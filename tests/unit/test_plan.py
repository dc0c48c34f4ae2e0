import json
from dataclasses import asdict, replace

import pytest

from shoal.budget import Budget
from shoal.errors import PlanError, UnitError
from shoal.plan import Merge, Plan, Remove
from shoal.units import Chain, Segment, Unit


@pytest.fixture
def chain(make_chain):
    return make_chain(fixed=[0])


@pytest.fixture
def plan(chain):
    return Plan.removing(
        chain,
        [3, "layers.1"],
        budget=Budget.parse("macs=0.5"),
        method="sglp",
        settings={"preset": "paper", "k": [1, 2]},
        predicted={"loss": 0.5},
    )


def edited(plan, **changes):
    return json.dumps(json.loads(plan.to_json()) | changes)


def with_step(plan, **changes):
    fields = json.loads(plan.to_json())
    fields["steps"][0] |= changes
    return json.dumps(fields)


def test_units_are_removed_in_forward_order_each_once(chain):
    assert Plan.removing(chain, [3, 1, "layers.3", -1]).removed == (1, 3)


def test_what_remains_is_predicted(plan):
    assert plan.predicted == {"units": 2, "params": 140, "macs": 1400, "loss": 0.5}


def test_a_plan_that_removes_nothing_is_a_plan(chain):
    plan = Plan.removing(chain, [])
    assert (plan.removed, plan.runs, str(plan)) == ((), (), "by hand: remove 0 of 4 units: nothing")
    assert plan.predicted["params"] == chain.params
    assert plan.index_map == {0: 0, 1: 1, 2: 2, 3: 3}
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_may_remove_all_units(make_chain):
    plan = Plan.removing(make_chain(), range(4))
    assert (plan.runs, plan.index_map, plan.surviving_names) == ((Segment(0, 4),), {}, {})


def test_the_units_that_stay_are_renumbered(plan):
    assert plan.index_map == {0: 0, 2: 1}
    assert plan.surviving_names == {"layers.0": "layers.0", "layers.2": "layers.1"}


def test_a_bypassed_unit_moves_no_name(chain):
    bypassing = replace(chain, units=tuple(replace(unit, removal="bypass") for unit in chain))
    assert Plan.removing(bypassing, [1]).surviving_names["layers.2"] == "layers.2"


def test_the_removed_runs_are_said(plan, chain):
    assert str(plan) == "sglp: remove 2 of 4 units: [1, 2), [3, 4)"
    assert str(Plan.removing(chain, [1, 2, 3])) == "by hand: remove 3 of 4 units: [1, 4)"


def test_json_reads_back_to_an_equal_plan(plan):
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


def test_the_json_holds_what_users_look_for(plan):
    fields = json.loads(plan.to_json())
    assert fields["version"] == 1
    assert fields["index_map"] == {"0": 0, "2": 1}
    assert [(step["unit"], step["index"]) for step in fields["steps"]] == [("layers.1", 1), ("layers.3", 3)]
    assert fields["made_by"].startswith("shoal ")


def test_what_a_bypass_returns_survives_json(chain):
    unit = replace(chain[1], outputs={"tuple": ["hidden", {"value": None}]})
    plan = Plan.removing(replace(chain, units=(chain[0], unit, *chain.units[2:])), [1])
    assert Plan.from_json(plan.to_json()) == plan


def test_a_unit_that_must_stay_cannot_be_removed(chain):
    with pytest.raises(UnitError, match=r"remove unit 0 \(layers.0\): .* it changes the shape"):
        Plan.removing(chain, [0])


def test_a_unit_that_there_is_not_cannot_be_removed(chain):
    with pytest.raises(UnitError, match="asked for unit 4"):
        Plan.removing(chain, [4])


def test_a_plan_fits_the_network_that_it_was_made_for(plan, make_chain):
    plan.check(make_chain(fixed=[0]))


def test_a_plan_of_another_network_is_refused(plan, make_chain):
    with pytest.raises(PlanError, match="for Net with 4 units on Net with 3 units"):
        plan.check(make_chain((10, 20, 30)))


@pytest.mark.parametrize("text", ["", "{", "not json"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(PlanError, match="this is not JSON"):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["[]", "{}", "3", "null", '{"steps": []}'])
def test_json_that_is_no_plan_is_refused(text):
    with pytest.raises(PlanError, match="holds no plan"):
        Plan.from_json(text)


@pytest.mark.parametrize("version", [2, 0, "x"])
def test_another_version_is_refused(plan, version):
    with pytest.raises(PlanError, match=f"of version {version}: this shoal reads version 1"):
        Plan.from_json(edited(plan, version=version))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [{}]},
        {"steps": 3},
        {"model": "Net"},
        {"settings": "fast"},
        {"predicted": None},
        {"budget": {"quantity": "flops", "limit": 0.5, "relative": True}},
        {"budget": {"quantity": "macs", "limit": -1, "relative": False}},
        {"budget": {"quantity": "macs"}},
    ],
)
def test_malformed_parts_are_refused(plan, changes):
    with pytest.raises(PlanError, match="a part is missing or malformed"):
        Plan.from_json(edited(plan, **changes))


def test_a_missing_part_is_refused(plan):
    fields = json.loads(plan.to_json())
    del fields["model"]
    with pytest.raises(PlanError, match=r"malformed \('model'\)"):
        Plan.from_json(json.dumps(fields))


def test_an_unknown_step_is_refused(plan):
    with pytest.raises(PlanError, match="a step 'quantise': this shoal knows 'remove'"):
        Plan.from_json(with_step(plan, op="quantise"))
    with pytest.raises(PlanError, match="removes 'layers.1' by 'skip'"):
        Plan.from_json(with_step(plan, removal="skip"))


@pytest.mark.parametrize("name", ["units", "params"])
def test_a_plan_that_promises_what_its_steps_do_not_leave_is_refused(plan, name):
    fields = json.loads(plan.to_json())
    fields["predicted"] = {"units": 1_000, "params": 1_000} | {name: 1}
    with pytest.raises(PlanError, match="its steps leave"):
        Plan.from_json(json.dumps(fields))


# Plans of merges


LAYERS = Chain(
    units=tuple(
        Unit(
            name=f"conv{index}",
            index=index,
            modules=(f"conv{index}",),
            container="",
            group="",
            kind="Conv2d",
            params=10,
            macs=100,
            removable=index not in (0, 3),
            why="it has stride 2" if index in (0, 3) else "",
        )
        for index in range(6)
    ),
    model="Net",
    params=100,
    macs=1000,
    inputs={"shape": [1, 3, 8, 8], "dtype": "float32"},
)


def merge(start, stop, kept, **changed):
    names = tuple(f"conv{index}" for index in range(start, stop))
    return Merge(start=start, stop=stop, kept=kept, layers=names, **changed)


def merging(*steps):
    return Plan.merging(LAYERS, steps)


def test_a_plan_of_merges_is_read_back_equal():
    plan = merging(merge(1, 3, (2,), added="relu"), merge(4, 5, ()))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.model.inputs == plan.model.inputs
    assert again.merges == plan.steps
    assert again.removals == ()


def test_what_is_merged_is_counted_as_one():
    plan = merging(merge(1, 3, (1, 2)), merge(3, 5, (3, 4), fused=False), merge(5, 6, ()))
    assert plan.removed == (5,)
    assert plan.left == plan.predicted["units"] == 4
    assert plan.index_map == {0: 0, 1: 1, 2: 1, 3: 2, 4: 3}
    assert plan.surviving_names == {"conv0": "conv0"}
    assert str(plan) == "by hand: 6 layers become 4: [1, 3), [3, 5), [5, 6)"


def test_plans_of_other_merges_are_other_networks():
    assert merging(merge(1, 3, (1,))).identity != merging(merge(1, 3, (2,))).identity


def test_a_layer_that_has_to_stay_cannot_be_left_out_of_a_merge():
    with pytest.raises(UnitError, match=r"unit 3 \(conv3\): it cannot be removed: it has stride 2"):
        merging(merge(2, 5, (2, 4)))


def test_a_plan_does_not_remove_units_and_merge_layers():
    plan = merging(merge(1, 3, (1,)))
    fields = json.loads(plan.to_json())
    removal = Remove.of(LAYERS[5])
    fields["steps"].append({"op": "remove", **asdict(removal)})
    with pytest.raises(PlanError, match="two plans, one after the other"):
        Plan.from_json(json.dumps(fields))


def test_merges_that_overlap_are_refused():
    with pytest.raises(PlanError, match="those behind the step before"):
        merging(merge(1, 3, (1,)), merge(2, 4, (2, 3)))


def test_merges_need_a_chain_that_says_what_the_network_takes(chain):
    with pytest.raises(PlanError, match="merges layers of Net, whose inputs are None"):
        Plan.merging(chain, [Merge(start=1, stop=3, kept=(1, 2), layers=("layers.1", "layers.2"))])


@pytest.mark.parametrize("inputs", [None, "absent"])
def test_a_plan_of_merges_without_inputs_is_not_read(inputs):
    fields = json.loads(merging(merge(1, 3, (1,))).to_json())
    if inputs is None:
        fields["model"]["inputs"] = None
    else:
        del fields["model"]["inputs"]
    with pytest.raises(PlanError, match="whose inputs are None: layers are found by running .* anew"):
        Plan.from_json(json.dumps(fields))


def test_a_plan_of_removals_needs_no_inputs(plan):
    fields = json.loads(plan.to_json())
    del fields["model"]["inputs"]
    assert Plan.from_json(json.dumps(fields)) == plan


def test_a_plan_whose_inputs_are_of_no_dtype_is_not_read():
    fields = json.loads(merging(merge(1, 3, (1,))).to_json())
    fields["model"]["inputs"]["dtype"] = "float31"
    with pytest.raises(PlanError, match="inputs of which one has the dtype 'float31'"):
        Plan.from_json(json.dumps(fields))
