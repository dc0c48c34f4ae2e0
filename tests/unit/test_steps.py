import json
from dataclasses import asdict, replace

import pytest

from shoal.errors import PlanError, UnitError
from shoal.steps import Merge, Remove, step_from
from shoal.units import Segment

MERGE = Merge(start=2, stop=5, kept=(2, 4), layers=("a", "b", "c"))


def written(step):
    return json.loads(json.dumps({"op": step.op, **asdict(step)}))


def test_a_removal_says_what_the_unit_was(make_chain):
    unit = make_chain()[2]
    step = Remove.of(unit)
    assert (step.unit, step.index, step.modules) == (unit.name, 2, unit.modules)
    assert (step.removal, step.outputs, step.removed) == (unit.removal, unit.outputs, (2,))


def test_a_fixed_unit_is_not_removed(make_chain):
    with pytest.raises(UnitError, match=r"remove unit 1 \(layers.1\): .* it changes the shape"):
        Remove.of(make_chain(fixed=[1])[1])


@pytest.mark.parametrize(
    ("kept", "removed"), [((), (2, 3, 4)), ((3,), (2, 4)), ((2, 4), (3,)), ((2, 3, 4), ())]
)
def test_a_merge_removes_what_it_does_not_keep(kept, removed):
    step = replace(MERGE, kept=kept)
    assert step.segment == Segment(2, 5)
    assert step.removed == removed


@pytest.mark.parametrize(
    "step",
    [
        MERGE,
        replace(MERGE, kept=(), fused=False, added="relu6"),
        Remove(unit="a", index=0, modules=("a", "b")),
        Remove(unit="a", index=3, modules=("a",), removal="bypass", outputs={"tuple": ["hidden", None]}),
    ],
)
def test_json_and_back_is_the_same_step(step):
    assert step_from(written(step)) == step
    assert hash(step_from(written(step))) == hash(step)


def test_an_unknown_step_is_refused():
    with pytest.raises(PlanError, match="a step 'replace': this shoal knows 'remove' and 'merge'"):
        step_from({"op": "replace"})


def test_an_unknown_way_to_remove_is_refused():
    fields = written(Remove(unit="a", index=0, modules=("a",))) | {"removal": "mask"}
    with pytest.raises(PlanError, match="removes 'a' by 'mask': this shoal knows 'delete' and 'bypass'"):
        step_from(fields)


@pytest.mark.parametrize(
    ("changed", "works"),
    [
        ({"start": "3"}, "a whole number"),
        ({"start": True}, "a whole number"),
        ({"stop": 5.0}, "a whole number"),
        ({"stop": None}, "a whole number"),
        ({"fused": "false"}, "true or false"),
        ({"fused": 1}, "true or false"),
        ({"added": None}, "text"),
    ],
)
def test_a_merge_with_a_value_of_another_kind_is_refused(changed, works):
    ((name, value),) = changed.items()
    with pytest.raises(PlanError, match=rf"merges layers with {name}={value!r}: {works} works"):
        step_from(written(MERGE) | changed)
