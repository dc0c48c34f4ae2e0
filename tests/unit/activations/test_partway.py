"""A call up to a unit computes that unit alone; what went before is answered, what follows is not begun."""

import pytest
import torch
from torch import nn

from networks import NETWORKS
from shoal import find_units
from shoal.activations.partway import PartialCall, tensors_of
from shoal.calling import call

CPU = torch.device("cpu")


@pytest.fixture
def tuples():
    """Layers that hand their mask through beside the hidden state."""
    network, inputs = NETWORKS["tuples"]()
    return network, find_units(network, inputs), inputs


def counted(network, chain):
    calls = []
    for unit in chain:
        block = network.get_submodule(unit.name).block
        block.register_forward_hook(lambda *_, name=unit.name: calls.append(name))
    return calls


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_only_the_unit_at_hand_is_computed(tuples, stop):
    network, chain, inputs = tuples
    returned = []
    with torch.no_grad():
        for _ in range(stop):
            returned.append(PartialCall(network, chain, inputs, returned, CPU).returned)
        calls = counted(network, chain)
        run = PartialCall(network, chain, inputs, returned, CPU)
    assert calls == [chain[stop].name]
    assert run.outputs is None
    assert (run.hidden is inputs["x"]) == (stop == 0)


def test_a_call_to_the_end_returns_what_the_network_returns(tuples):
    network, chain, inputs = tuples
    returned = []
    with torch.no_grad():
        for _ in chain:
            returned.append(PartialCall(network, chain, inputs, returned, CPU).returned)
        calls = counted(network, chain)
        run = PartialCall(network, chain, inputs, returned, CPU)
        assert not calls
        assert torch.equal(run.outputs["logits"], call(network, inputs)["logits"])


def test_what_is_handed_through_is_that_of_each_call_and_not_kept(tuples):
    network, chain, inputs = tuples
    with torch.no_grad():
        run = PartialCall(network, chain, inputs, [], CPU)
        assert tensors_of(run.returned) == [run.left]
        again = PartialCall(network, chain, {**inputs, "mask": 2 * inputs["mask"]}, [run.returned], CPU)
    assert torch.equal(again.left, network.layers[1](hidden=run.left, mask=2 * inputs["mask"])[0])


def test_with_gradients_what_earlier_units_returned_collects_them(tuples):
    network, chain, inputs = tuples
    with torch.no_grad():
        first = PartialCall(network, chain, inputs, [], CPU).returned
    run = PartialCall(network, chain, inputs, [first], CPU)
    run.left.sum().backward()
    ((tensor, gradient),) = run.gradients()
    assert tensor is tensors_of(first)[0]
    state = tensor.clone().requires_grad_()
    network.layers[1](hidden=state, mask=inputs["mask"])[0].sum().backward()
    torch.testing.assert_close(gradient, state.grad)


def test_what_is_given_stays_as_it_was():
    network, x = NETWORKS["eager"]()
    chain = find_units(network, x)
    state = PartialCall(network, chain, x, [], CPU).hidden
    before = state.clone()
    assert (before < 0).any()
    PartialCall(network, chain, x, [], CPU)
    assert torch.equal(state, before)


def test_the_network_is_left_as_it_was(tuples):
    network, chain, inputs = tuples
    PartialCall(network, chain, inputs, [], CPU)
    assert not any("forward" in vars(module) for module in network.modules())
    assert isinstance(network.layers[0], nn.Module)
