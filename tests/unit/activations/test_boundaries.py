import itertools

import pytest
import torch
from torch import nn

from networks import NETWORKS, Attention, feedforward, gpt2, llama, tokens
from shoal.activations import watching
from shoal.architectures import find_units
from shoal.calling import call
from shoal.errors import DataError

UNBROKEN = [
    "residual",
    "bottleneck",
    "inverted",
    "vit",
    "listed",
    "post_norm",
    "weight_normed",
    "pairs",
    "tuples",
]


def watched(name, *, copies=False):
    model, example = llama() if name == "llama" else NETWORKS[name]()
    chain = find_units(model, example)
    with watching(model, chain) as boundaries:
        boundaries.copies = copies
        call(model, example)
    return model, example, chain, boundaries


@pytest.mark.parametrize("name", UNBROKEN)
@pytest.mark.parametrize("copies", [False, True])
def test_an_unbroken_chain_has_one_state_more_than_units(name, copies):
    _, _, chain, boundaries = watched(name, copies=copies)
    tensors, starts, stops = boundaries.points()
    assert len(tensors) == len(chain) + 1
    assert starts == list(range(len(chain)))
    assert stops == list(range(1, len(chain) + 1))
    assert [tuple(tensor.shape) for tensor in tensors[1:]] == [unit.out_shape for unit in chain]


def test_a_language_model_is_an_unbroken_chain():
    pytest.importorskip("transformers")
    _, _, chain, boundaries = watched("llama")
    assert len(boundaries.points()[0]) == len(chain) + 1


def test_where_something_stands_between_the_units_there_are_more_states():
    _, _, chain, boundaries = watched("vgg")
    tensors, starts, stops = boundaries.points()
    # Pooling, twice, the second time with the flattening behind it.
    assert len(tensors) == len(chain) + 3
    assert [index for index in range(1, len(chain)) if starts[index] != stops[index - 1]] == [2, 5]


@pytest.mark.parametrize("name", NETWORKS)
def test_states_are_what_the_units_take_and_return(name):
    model, _, chain, boundaries = watched(name, copies=True)
    for unit, (before, after) in zip(chain, boundaries.pairs(), strict=True):
        assert (tuple(before.shape), tuple(after.shape)) == (unit.in_shape, unit.out_shape)
        if name != "tuples":
            state = before.clone()
            for path in unit.modules:
                state = model.get_submodule(path)(state)
            state = before + state if unit.is_branch else state
            torch.testing.assert_close(state, after, rtol=0, atol=0)


class Scaled(nn.Module):
    """A block whose branches come with a factor that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(16), feedforward(16)

    def forward(self, x):
        x = x + 0.1 * self.attention(x)
        return x + 0.1 * self.mlp(x)


@pytest.mark.parametrize("make", [lambda: (nn.Sequential(Scaled(), Scaled()), tokens()), llama, gpt2])
def test_behind_a_sublayer_the_state_is_the_one_with_its_output_added_as_the_network_adds_it(make):
    model, example = make()
    chain = find_units(model, example, granularity="sublayer")
    with torch.no_grad(), watching(model, chain) as boundaries:
        call(model, example)
        (first, *_), starts, stops = boundaries.points()
    assert starts == list(range(len(chain)))
    assert stops == list(range(1, len(chain) + 1))
    assert first is boundaries.inputs[0]
    for (_, after), (following, _) in itertools.pairwise(boundaries.pairs()):
        assert after is following


@pytest.mark.parametrize(("name", "expected"), [("residual", False), ("overwriting", True), ("eager", True)])
def test_a_network_that_overwrites_its_states_is_noticed(name, expected):
    assert watched(name)[3].overwritten() is expected


def test_copies_make_a_chain_of_what_units_overwrite_themselves():
    _, _, chain, boundaries = watched("eager", copies=True)
    assert len(boundaries.points()[0]) == len(chain) + 1


def test_what_the_network_overwrites_between_units_is_another_state():
    _, _, chain, boundaries = watched("overwriting", copies=True)
    tensors, starts, stops = boundaries.points()
    assert len(tensors) == 2 * len(chain)
    for before, after in zip(starts[1:], stops, strict=False):
        assert torch.equal(tensors[before], tensors[after].relu())


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_are_never_overwritten_and_change_no_result(name):
    model, example, chain, boundaries = watched(name, copies=True)
    assert not boundaries.overwritten()
    expected = torch.utils._pytree.tree_leaves(call(model, example))
    with watching(model, chain) as boundaries:
        boundaries.copies = True
        found = torch.utils._pytree.tree_leaves(call(model, example))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("copies", [False, True])
def test_gradients_reach_the_states_that_are_noted(copies):
    model, x = NETWORKS["vit"]()
    chain = find_units(model, x)
    with watching(model, chain) as boundaries:
        boundaries.copies = copies
        loss = model(x).square().sum()
    gradients = torch.autograd.grad(loss, boundaries.outputs)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_unit_that_was_not_called_is_named():
    model, x = NETWORKS["vit"]()
    chain = find_units(model, x)
    model.blocks = model.blocks[:2]
    with pytest.raises(AttributeError), watching(model, chain):
        pass
    model, x = NETWORKS["vit"]()
    with watching(model, chain) as boundaries:
        model.blocks[0](torch.randn(2, 16, 16))
        with pytest.raises(DataError, match=r"watch 4 units: blocks.1 was not called on this batch"):
            boundaries.pairs()
        with pytest.raises(DataError, match="takes the same way through the network"):
            boundaries.points()


def test_nothing_is_known_after_clearing():
    _, _, chain, boundaries = watched("vit")
    boundaries.clear()
    assert boundaries.inputs == boundaries.outputs == [None] * len(chain)
    assert not boundaries.overwritten()


def test_each_forward_call_takes_the_place_of_the_last():
    model, x = NETWORKS["vit"]()
    chain = find_units(model, x)
    with watching(model, chain) as boundaries:
        model(x)
        first = boundaries.outputs[-1]
        model(2 * x)
        tensors, *_ = boundaries.points()
    assert boundaries.outputs[-1] is not first
    assert len(tensors) == len(chain) + 1


def test_hooks_are_gone_behind_the_with():
    model, *_ = watched("vit")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
