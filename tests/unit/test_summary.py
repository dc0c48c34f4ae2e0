import json
from dataclasses import asdict, replace

import pytest
import torch

from shoal.calling import describe_inputs, inputs_like
from shoal.errors import PlanError
from shoal.summary import DTYPES, ModelSummary, holds_tensor, summary_from

IMAGE = {"shape": [1, 3, 8, 8], "dtype": "float32"}
SUMMARY = ModelSummary(name="Net", params=30, macs=300, units=("a", "b"), unit_params=(10, 20), inputs=IMAGE)


def written(summary=SUMMARY, **changes):
    return json.loads(json.dumps(asdict(summary))) | changes


def test_a_summary_says_what_the_chain_does(make_chain):
    found = ModelSummary.of(replace(make_chain((10, 20)), inputs=IMAGE))
    assert found.units == ("layers.0", "layers.1")
    assert (found.name, found.params, found.macs) == ("Net", 130, 1300)
    assert (found.unit_params, found.inputs) == ((10, 20), IMAGE)


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        IMAGE,
        {"shape": [], "dtype": "bool"},
        {"shape": [0, 3], "dtype": "int64"},
        {"tuple": []},
        {"tuple": [IMAGE, None, 2.5, True, "text", {"tuple": [3]}]},
        {"mapping": {"x": IMAGE, "shape": IMAGE, "mapping": {"mapping": {}}}},
    ],
)
@pytest.mark.parametrize("units", [(), ("a",), ("a", "b", "c")])
def test_json_and_back_is_the_same_summary(units, inputs):
    summary = replace(SUMMARY, units=units, unit_params=tuple(range(len(units))), inputs=inputs)
    again = summary_from(written(summary))
    assert again == summary
    assert again.inputs == inputs


def test_a_summary_without_inputs_has_none():
    fields = written()
    del fields["inputs"]
    assert summary_from(fields).inputs is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"units": "ab"}, "units hold 'ab': a list of texts works"),
        ({"units": {"a": 0, "b": 1}}, "units hold {'a': 0, 'b': 1}: a list of texts"),
        ({"units": None}, "units hold None"),
        ({"units": ["a", 1]}, "units hold 1: a list of texts"),
        ({"units": ["a", ["b"]]}, r"units hold \['b'\]"),
        ({"unit_params": 3}, "unit_params hold 3: a list of whole numbers from 0"),
        ({"unit_params": [10, "20"]}, "unit_params hold '20'"),
        ({"unit_params": [10, 20.0]}, "unit_params hold 20.0"),
        ({"unit_params": [10, True]}, "unit_params hold True"),
        ({"unit_params": [10, -1]}, "unit_params hold -1"),
        ({"unit_params": [10]}, "2 units with 1 unit_params: one for each"),
        ({"units": []}, "0 units with 2 unit_params"),
        ({"params": "30"}, "params is '30': a whole number from 0 works"),
        ({"params": [30]}, r"params is \[30\]: a whole"),
        ({"params": 3.5}, "params is 3.5"),
        ({"macs": None}, "macs is None"),
        ({"macs": -1}, "macs is -1"),
        ({"name": 3}, "name is 3: text works"),
    ],
)
def test_names_and_numbers_that_are_none_are_refused(changes, told):
    with pytest.raises(PlanError, match=rf"asked to read a plan for .*{told}.* Make the plan anew\."):
        summary_from(written(**changes))


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"shape": [1, 3], "dtype": "float31"}, "dtype 'float31': there are bfloat16, bool"),
        # There is one of that name in PyTorch; it is no dtype.
        ({"shape": [1, 3], "dtype": "nn"}, "dtype 'nn'"),
        ({"shape": [1, 3], "dtype": "torch.float32"}, "dtype 'torch.float32'"),
        ({"shape": [1, 3], "dtype": None}, "dtype None"),
        ({"shape": [1, 3], "dtype": ["float32"]}, r"dtype \['float32'\]"),
        ({"shape": [1, -3], "dtype": "float32"}, r"shape \[1, -3\]: its sizes are whole numbers from 0"),
        ({"shape": [1, 2.5], "dtype": "float32"}, r"shape \[1, 2.5\]"),
        ({"shape": [1, "3"], "dtype": "float32"}, r"shape \[1, '3'\]"),
        ({"shape": [True], "dtype": "float32"}, r"shape \[True\]"),
        ({"shape": 3, "dtype": "float32"}, "shape 3"),
        ({"shape": None, "dtype": "float32"}, "shape None"),
        ({"shape": [1, 3]}, r"one is {'shape': \[1, 3\]}"),
        ({"dtype": "float32"}, "one is {'dtype': 'float32'}"),
        ({}, "one is {}"),
        ([1, 3, 8, 8], r"one is \[1, 3, 8, 8\]"),
        ({"tuple": IMAGE}, "one is {'tuple': {'shape'"),
        ({"mapping": [IMAGE]}, "one is {'mapping': "),
        ({"tuple": [], "mapping": {}}, "one is {'tuple': "),
        ({"list": [IMAGE]}, "one is {'list': "),
        ({"tuple": [IMAGE, {"mapping": {"x": [3]}}]}, r"one is \[3\]"),
    ],
)
def test_inputs_that_are_none_are_refused(inputs, told):
    with pytest.raises(PlanError, match=rf"takes inputs of which .*{told}.* work, .* anew\."):
        summary_from(written(inputs=inputs))


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_what_is_taken_for_a_dtype_is_one_of_which_inputs_can_be_made(name):
    made = inputs_like({"shape": [1, 2], "dtype": name})
    assert made.dtype is getattr(torch, name)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.long, torch.half, torch.bfloat16, torch.double]
)
def test_what_inputs_are_usually_made_of_is_known(dtype):
    assert describe_inputs(torch.zeros(1, dtype=dtype))["dtype"] in DTYPES


@pytest.mark.parametrize(
    ("described", "holds"),
    [
        (None, False),
        (3, False),
        ("shape", False),
        (IMAGE, True),
        ({"shape": [], "dtype": "bool"}, True),
        ({"tuple": []}, False),
        ({"tuple": [None, {"mapping": {"shape": 1}}]}, False),
        ({"tuple": [None, {"mapping": {"x": IMAGE}}]}, True),
    ],
)
def test_inputs_hold_a_tensor_or_none(described, holds):
    assert holds_tensor(described) is holds
