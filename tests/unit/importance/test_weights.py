import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from shoal import find_units
from shoal.importance.weights import magnitudes, parameters_of, taylor_sum


@pytest.fixture
def net():
    """A network that is only its lists of layers, for a chain written down."""
    return nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(2, 3) for _ in range(4))})


def test_all_parameters_of_a_unit_count_and_those_of_no_unit_do_not(small_resnet):
    chain = find_units(small_resnet, torch.zeros(1, 3, 8, 8))
    found = magnitudes(small_resnet, chain)
    for unit in chain:
        block = small_resnet.get_submodule(unit.name)
        by_hand = sum(p.detach().abs().sum().item() for p in block.parameters())
        assert found[unit.index] == pytest.approx(by_hand, rel=1e-5)
        assert sum(p.numel() for p in parameters_of(small_resnet, unit)) == unit.params
    small_resnet.linear.weight.data *= 10
    np.testing.assert_array_equal(magnitudes(small_resnet, chain), found)


def test_a_unit_may_be_a_run_of_modules():
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    run = SimpleNamespace(modules=("0", "2"))
    for layer in model:
        nn.init.ones_(layer.weight)
    assert magnitudes(model, [run]).tolist() == [8]


def test_the_absolute_value_is_taken_of_every_weight(net, make_chain):
    for number, layer in enumerate(net["layers"]):
        for parameter in layer.parameters():
            parameter.data.fill_(-2.0)
            parameter.grad = torch.full_like(parameter, 0.5 * number)
    assert [taylor_sum(parameters_of(net, unit)) for unit in make_chain([9] * 4)] == [0, 9, 18, 27]
    assert magnitudes(net, make_chain([9] * 4)).tolist() == [18] * 4


def test_parameters_without_a_gradient_count_nothing_and_integers_have_no_score(net, make_chain):
    net["layers"][0].weight.grad = torch.ones(3, 2)
    net["layers"][2] = nn.ParameterList([nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)])
    found = [taylor_sum(parameters_of(net, unit)) for unit in make_chain([9] * 4)]
    assert found[0] == pytest.approx(net["layers"][0].weight.abs().sum().item())
    assert found[1] == found[3] == 0
    assert math.isnan(found[2])
    assert magnitudes(net, make_chain([9] * 4))[2] == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_halves_do_not_vanish(net, make_chain, dtype):
    net.to(dtype)
    for layer in net["layers"]:
        layer.weight.data.fill_(1e-4)
        layer.weight.grad = torch.full_like(layer.weight, 1e-4)
    assert taylor_sum(list(net["layers"][0].parameters())) == pytest.approx(6e-8, rel=0.02)
