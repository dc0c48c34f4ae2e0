from dataclasses import replace

import pytest
import torch
from torch import nn

from convnets import resnet
from merge_plans import apart, merge, plan_of
from shoal import Plan, find_units
from shoal.errors import DataError, PlanError, UnknownArchitectureError
from shoal.surgery import apply, expand, merge_layers
from shoal.surgery.applying import check_plan, fold, traced_for

EXAMPLE = (torch.randn(2, 3, 32, 32),)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return resnet((2, 1), width=4, classes=3).eval()


@pytest.fixture
def merging(net):
    return plan_of(net, EXAMPLE, [merge(1, 3, [2])])


@pytest.fixture
def removing(net):
    chain = find_units(net, EXAMPLE)
    return Plan.removing(chain, chain.removable[:1])


def test_both_kinds_of_plan_are_applied_and_the_network_stays(net, merging, removing):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    merged, removed = apply(net, merging), apply(net, removing)
    assert type(removed) is type(net)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in merged.modules())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("act", [apply, expand, merge_layers])
def test_the_training_mode_stays(net, merging, removing, act, train):
    net.train(train)
    for plan in (merging, removing):
        assert {each.training for each in act(net, plan).modules()} == {train}


def test_what_was_trained_without_units_is_what_comes_back(net, removing):
    trained = expand(net, removing)
    assert merge_layers(net, removing, trained) is trained


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_that_was_converted_since_is_still_the_same(net, merging, dtype):
    found = apply(net.to(dtype), merging)
    assert {each.dtype for each in found.parameters()} == {dtype}


def test_folding_is_what_a_plan_that_merges_nothing_leaves(net):
    folded = fold(net, EXAMPLE)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in folded.modules())
    assert apart(folded, net, EXAMPLE) < 1e-5


def test_what_has_no_convolutions_or_does_not_run_cannot_be_folded(net):
    with pytest.raises(UnknownArchitectureError, match="convolutions of Linear"):
        fold(nn.Linear(3, 3), torch.zeros(1, 3))
    with pytest.raises(DataError, match="asked to run ResNet on the example"):
        fold(net, torch.zeros(1, 5, 32, 32))


@pytest.mark.parametrize("kind", ["merging", "removing"])
def test_a_plan_of_another_size_is_refused_before_anything_is_cut(kind, request):
    plan, other = request.getfixturevalue(kind), resnet((2, 1), width=8, classes=3)
    with pytest.raises(PlanError, match=r"a plan for ResNet with [\d,]+ parameters on ResNet with [\d,]+"):
        check_plan(other, plan)
    with pytest.raises(PlanError, match=r"parameters on ResNet"):
        apply(other, plan)


@pytest.mark.parametrize("kind", ["merging", "removing"])
def test_a_plan_that_fits_passes(net, kind, request):
    check_plan(net, request.getfixturevalue(kind))


def test_as_many_parameters_in_other_convolutions_are_refused(net, merging):
    renamed = replace(merging.model, units=("stem", *merging.model.units[1:]))
    with pytest.raises(PlanError, match=r"with 7 convolutions on ResNet with 7, or with other names\. Make"):
        traced_for(net, replace(merging, model=renamed))


def test_a_plan_whose_inputs_do_not_fit_the_network_is_refused(net, merging):
    inputs = {"shape": [1, 5, 32, 32], "dtype": "float32"}
    with pytest.raises(PlanError, match=r"whose inputs are .*5, 32, 32.* does not run on them"):
        traced_for(net, replace(merging, model=replace(merging.model, inputs=inputs)))
