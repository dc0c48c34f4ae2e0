import collections

import pytest
import torch
from torch import nn

from shoal.architectures.hidden import (
    Bypass,
    describe,
    hidden_input,
    hidden_output,
    in_zeros,
    rebuild,
    replace_hidden,
    stand_ins,
)

Pair = collections.namedtuple("Pair", ["state", "extra"])


@pytest.fixture
def x():
    return torch.randn(2, 3)


IDS = torch.arange(4)


def test_the_hidden_input_is_the_first_floating_point_argument(x):
    assert hidden_input((IDS, None, x, x + 1), {}) is x


def test_the_hidden_input_may_be_a_keyword(x):
    assert hidden_input((IDS,), {"mask": IDS, "hidden_states": x}) is x


def test_there_may_be_no_hidden_input():
    assert hidden_input((), {}) is None
    assert hidden_input((IDS, "text"), {"n": 3}) is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x, x + 1],
        lambda x: (None, x),
        lambda x: {"state": x},
        lambda x: Pair(x, None),
        lambda x: collections.OrderedDict(state=x, extra=IDS),
    ],
    ids=["tensor", "tuple", "list", "after None", "dict", "named tuple", "ordered"],
)
class TestEveryStructure:
    def test_yields_its_hidden_state(self, wrap, x):
        assert hidden_output(wrap(x)) is x

    def test_takes_another_hidden_state_in_its_place(self, wrap, x):
        other = torch.zeros(5)
        output = wrap(x)
        replaced = replace_hidden(output, other)
        assert hidden_output(replaced) is other
        assert type(replaced) is type(output)
        assert hidden_output(output) is x


@pytest.mark.parametrize("output", [None, 3, "text", IDS, (IDS, torch.zeros(1)), (), {}, {"ids": IDS}])
def test_what_does_not_begin_with_a_floating_point_tensor_has_no_hidden_state(output):
    assert hidden_output(output) is None


def test_a_bypass_returns_what_the_description_of_a_call_says(x):
    mask, weights = torch.ones(2), None
    output = (x * 2, mask, [weights, True], {"aux": mask})
    description = describe(output, (x, mask), {})
    assert description == {
        "tuple": [
            "hidden",
            {"arg": 1},
            {"list": [{"value": None}, {"value": True}]},
            {"dict": {"aux": {"arg": 1}}},
        ]
    }
    rebuilt = rebuild(description, (x, mask), {})
    assert rebuilt[0] is x
    assert rebuilt[1] is mask
    assert rebuilt[2:] == ([None, True], {"aux": mask})


def test_a_keyword_that_is_handed_through_is_described_by_its_name(x):
    assert describe((x * 2, IDS), (), {"x": x, "ids": IDS}) == {"tuple": ["hidden", {"kwarg": "ids"}]}


@pytest.mark.parametrize("extra", [torch.ones(1), object(), Pair(1, 2)], ids=["tensor", "object", "named"])
@pytest.mark.parametrize(
    "wrap", [lambda x, e: (x, e), lambda x, e: {"a": x, "b": [e]}], ids=["tuple", "dict"]
)
def test_what_only_the_unit_can_make_has_no_description(x, extra, wrap):
    assert describe(wrap(x, extra), (x,), {}) is None


def test_what_only_the_unit_can_make_may_be_left_out(x):
    weights = torch.ones(1)
    assert describe((x, weights), (x,), {}, spare=True) == {"tuple": ["hidden", {"value": None}]}
    assert describe([x, (weights, IDS)], (IDS,), {}, spare=True) == {
        "list": ["hidden", {"tuple": [{"value": None}, {"arg": 0}]}]
    }


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("hidden", "zeros"),
        ({"tuple": ["hidden", {"arg": 1}]}, {"tuple": ["zeros", {"arg": 1}]}),
        ({"list": [{"tuple": ["hidden"]}]}, {"list": [{"tuple": ["zeros"]}]}),
        (
            {"dict": {"tuple": "hidden", "b": {"value": "hidden"}}},
            {"dict": {"tuple": "zeros", "b": {"value": "hidden"}}},
        ),
        ({"value": None}, {"value": None}),
        (None, None),
    ],
)
def test_zeros_take_the_hidden_state_s_place_and_no_other(description, expected):
    assert in_zeros(description) == expected


def test_a_unit_that_is_handed_through_needs_one_stand_in_that_does_it(x):
    first, *others = stand_ins({"tuple": ["hidden", {"arg": 1}]}, 3)
    assert first(x, IDS) == (x, IDS)
    assert [type(other) for other in others] == [nn.Identity, nn.Identity]


def test_every_module_of_a_branch_has_a_stand_in_of_its_own(x):
    first, second = stand_ins({"each": ["hidden", {"tuple": ["zeros", {"value": None}]}]}, 2)
    assert first(x) is x
    zeros, nothing = second(hidden=x, mask=IDS)
    assert torch.equal(zeros, torch.zeros_like(x))
    assert nothing is None


def test_arguments_that_a_later_call_leaves_out_become_none(x):
    assert rebuild({"tuple": ["hidden", {"arg": 3}, {"kwarg": "mask"}]}, (x,), {}) == (x, None, None)


def test_zeros_have_the_hidden_state_s_shape_and_dtype(x):
    assert torch.equal(rebuild("zeros", (x.double(),), {}), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("description", ["hidden", "zeros"])
def test_a_bypassed_unit_needs_a_hidden_state(description):
    with pytest.raises(ValueError, match="called without a floating-point tensor"):
        rebuild(description, (IDS,), {})


@pytest.mark.parametrize("description", [None, "other", {}, {"what": 1}, {"arg": 0, "kwarg": "x"}, 7])
def test_a_malformed_description_is_refused(x, description):
    with pytest.raises(ValueError, match="does not describe what a unit returns"):
        rebuild(description, (x,), {})


def test_a_pass_through_has_no_parameters_and_hands_its_input_on(x):
    stand_in = Bypass({"tuple": ["hidden", {"kwarg": "mask"}]})
    assert list(stand_in.parameters()) == []
    assert stand_in(x, mask=IDS) == (x, IDS)


def test_a_pass_through_fits_where_a_layer_stood(x):
    network = nn.Sequential(nn.Linear(3, 3), Bypass())
    assert torch.equal(network(x), network[0](x))
