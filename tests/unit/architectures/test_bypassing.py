import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from networks import NETWORKS, tokens
from shoal.architectures import bypassed, find_units, forward_replaced
from shoal.architectures.bypassing import uncompiled
from shoal.calling import call
from shoal.errors import UnitError


class Through(nn.Module):
    def forward(self, x):
        return x


class Zero(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def removed_by_hand(model, units):
    """A copy whose lists lack the units' entries, and whose attributes hold a pass-through."""
    copied = copy.deepcopy(model)
    gone = {path: unit for unit in units for path in unit.modules}
    for container in dict.fromkeys(unit.container for unit in units):
        parent = copied.get_submodule(container)
        keys = list(parent._modules)
        for key in keys:
            unit = gone.get(f"{container}.{key}".lstrip("."))
            if unit is not None and unit.removal == "bypass":
                parent._modules[key] = Zero() if unit.outputs == "zeros" else Through()
            elif unit is not None:
                del parent._modules[key]
        kept = list(parent._modules.values())
        if len(kept) < len(keys):
            parent._modules.clear()
            parent._modules.update(zip(keys, kept, strict=False))
    return copied


def outputs(model, example):
    with torch.no_grad():
        return tree_leaves(call(model, example))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_bypass_equals_a_removal_by_hand(name):
    model, example = NETWORKS[name]()
    chain = find_units(model, example)
    sets = [[index] for index in chain.removable]
    sets += [chain.removable[:2]]
    if len(chain.removable) < len(chain):
        sets += [chain.removable]
    for removed in sets:
        expected = outputs(removed_by_hand(model, chain.select(removed)), example)
        with bypassed(model, chain, removed):
            found = outputs(model, example)
        assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected)), removed


@pytest.mark.parametrize("name", NETWORKS)
def test_bypassing_nothing_changes_nothing_and_all_is_undone_behind(name):
    model, example = NETWORKS[name]()
    chain = find_units(model, example)
    before = outputs(model, example)
    with bypassed(model, chain, []):
        assert all(map(torch.equal, outputs(model, example), before))
    with bypassed(model, chain, chain.removable):
        outputs(model, example)
    assert all(map(torch.equal, outputs(model, example), before))


def test_units_may_be_named():
    model, x = NETWORKS["residual"]()
    chain = find_units(model, x)
    with bypassed(model, chain, ["layer1.1"]):
        named = model(x)
    with bypassed(model, chain, [1]):
        assert torch.equal(model(x), named)


@pytest.mark.parametrize("unit", [99, "layer9.0"])
def test_a_unit_that_is_not_there_is_refused(unit):
    model, x = NETWORKS["residual"]()
    chain = find_units(model, x)
    with pytest.raises(UnitError, match="asked for"), bypassed(model, chain, [unit]):
        pass


def test_nothing_is_computed_for_a_bypassed_unit_and_its_hooks_still_run():
    model, x = NETWORKS["vit"]()
    chain = find_units(model, x)
    calls = []
    model.blocks[1].mlp.register_forward_hook(lambda *_: calls.append("inner"))
    model.blocks[1].register_forward_hook(lambda *_: calls.append("unit"))
    with bypassed(model, chain, [1]):
        model(x)
    assert calls == ["unit"]


def test_gradients_flow_around_a_bypassed_unit():
    model, x = NETWORKS["vit"]()
    chain = find_units(model, x)
    with bypassed(model, chain, [1]):
        model(x).sum().backward()
    assert all(parameter.grad is None for parameter in model.blocks[1].parameters())
    assert model.blocks[0].mlp[1].weight.grad.abs().sum() > 0


def test_an_answer_of_the_module_s_own_comes_back():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x + 1
    own = layer.forward
    with forward_replaced([(layer, lambda x: x + 2)]):
        assert torch.equal(layer(torch.zeros(4)), torch.full((4,), 2.0))
    assert layer.forward is own


def test_answers_may_be_nested_and_given_twice():
    layer = nn.Linear(16, 16)
    x = tokens()
    with forward_replaced([(layer, lambda x: x + 1), (layer, lambda x: x + 2)]):
        with forward_replaced([(layer, lambda x: x + 3)]):
            assert torch.equal(layer(x), x + 3)
        assert torch.equal(layer(x), x + 2)
    assert "forward" not in vars(layer)


def test_an_error_inside_leaves_no_trace():
    model, x = NETWORKS["vit"]()
    chain = find_units(model, x)
    with pytest.raises(RuntimeError, match="stop"), bypassed(model, chain, [0, 1]):
        raise RuntimeError("stop")
    assert not any("forward" in vars(module) for module in model.modules())


def wrapped(module):
    return torch.compile(module, backend="eager")


def test_networks_stand_without_wrappers_inside_of_uncompiled_and_as_they_were_behind_it():
    block, twice, shared = nn.Linear(4, 4), nn.Sequential(wrapped(nn.Linear(4, 4))), wrapped(nn.ReLU())
    net = nn.Sequential(wrapped(block), shared, wrapped(twice), shared)
    before, names = list(net), list(net.state_dict())
    with uncompiled(net) as written:
        assert written is net
        assert net[0] is block
        assert net[1] is net[3]
        assert list(net.state_dict()) == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), uncompiled(net):
        net(torch.zeros(1, 3))
    assert all(now is then for now, then in zip(net, before, strict=True))
    assert list(net.state_dict()) == names
    assert "_orig_mod" in twice[0]._modules


def test_a_network_in_a_wrapper_is_what_is_inside():
    net = nn.Sequential(wrapped(nn.Linear(4, 4)))
    with uncompiled(wrapped(net)) as written:
        assert written is net
        assert type(net[0]) is nn.Linear
