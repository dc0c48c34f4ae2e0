from copy import deepcopy
from itertools import product

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from gated import Toy, digits, mean_loss, noted, random_batches, train, turned
from networks import NETWORKS, gpt2, llama
from shoal import find_units
from shoal.calling import call
from shoal.training.concurrent.gains import SlopeGains, flip_gains
from shoal.training.concurrent.gates import Gates

STATES = [frozenset(i for i, shut in enumerate(state) if shut) for state in product((0, 1), repeat=8)]


@pytest.fixture(scope="module")
def enumerated():
    """Of a toy trained with gates: the loss of all 256 states by whole passes, and both estimates at each."""
    torch.manual_seed(0)
    net = Toy()
    chain = find_units(net, torch.zeros(2, 64))
    gates = Gates(net, chain, start=0.8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    train(net, random_batches(300, 64), optimizer)
    gates.forget()
    net.double()
    plain = deepcopy(net).eval()
    x, y = (part[:16] for part in digits())
    x = x.double()
    losses = {off: mean_loss(plain, chain, x, y, off) for off in STATES}
    slopes = SlopeGains(gates)
    loss_of = lambda outputs: cross_entropy(outputs, y).item()  # noqa: E731
    flips, straight = {}, {}
    for off in STATES:
        gates.draws.draw = lambda theta, off=off: off
        cross_entropy(net(x), y).backward()
        flips[off] = flip_gains(gates, range(8), loss_of)
        straight[off] = slopes(gates, range(8), loss_of)
        gates.forget()
    return losses, flips, straight


def weight(off, theta, without=None):
    """The probability that just these gates are shut."""
    chances = [1 - theta if index in off else theta for index in range(8) if index != without]
    return torch.tensor(chances, dtype=torch.float64).prod().item()


def truth(losses, theta):
    """The gain of every unit, B − A, in expectation over the others' gates."""
    on = [[off for off in STATES if index not in off] for index in range(8)]
    return [
        sum(weight(off, theta, index) * (losses[off | {index}] - losses[off]) for off in on[index])
        for index in range(8)
    ]


def expectation(estimates, theta):
    return [sum(weight(off, theta) * gains[index] for off, gains in estimates.items()) for index in range(8)]


def where_open(estimates, theta):
    """As `expectation`, of just the states in which the unit computes."""
    return [
        sum(weight(off, theta, index) * gains[index] for off, gains in estimates.items() if index not in off)
        for index in range(8)
    ]


@pytest.mark.parametrize("theta", [0.1, 0.5, 0.9])
def test_flips_have_no_bias(enumerated, theta):
    losses, flips, _ = enumerated
    assert expectation(flips, theta) == pytest.approx(truth(losses, theta), abs=1e-9)


@pytest.mark.parametrize(("theta", "expected"), [(0.9, 0.56), (0.5, 0.45)])
def test_the_slope_at_the_drawn_gate_is_biased(enumerated, theta, expected):
    """As far as was found of this toy before, with other seeds."""
    losses, _, slopes = enumerated
    true, found = truth(losses, theta), expectation(slopes, theta)
    bias = sum(abs(one - other) for one, other in zip(found, true, strict=True))
    assert bias / sum(map(abs, true)) == pytest.approx(expected, abs=0.15)


THETAS = (0.95, 0.8, 0.5, 0.2)


def test_the_slope_says_too_little_of_open_gates_and_too_much_of_shut_ones(enumerated):
    losses, _, slopes = enumerated
    found = [sum(expectation(slopes, theta)) / sum(truth(losses, theta)) for theta in THETAS]
    assert found == sorted(found)
    assert found == pytest.approx([0.20, 0.68, 1.34, 1.64], abs=0.15)


def test_the_slope_where_a_gate_is_open_is_a_fraction_of_the_gain(enumerated):
    losses, _, slopes = enumerated
    found = [sum(where_open(slopes, theta)) / sum(truth(losses, theta)) for theta in THETAS]
    assert found == pytest.approx([0.03, 0.09, 0.29, 0.44], abs=0.15)


def test_the_slope_is_that_of_scaling_what_the_unit_adds(enumerated):
    """Against central differences of a gate that multiplies the branch."""
    _, _, slopes = enumerated
    torch.manual_seed(0)
    net = Toy(8).double()
    chain = find_units(net, torch.zeros(2, 64).double())
    x, y = (part[:16] for part in digits())
    x = x.double()

    def loss_at(off, index, gate):
        h = torch.tanh(net.stem(x))
        for number, block in enumerate(net.blocks):
            scale = gate if number == index else float(number not in off)
            h = h + scale * (block(h) - h)
        return cross_entropy(net.head(h), y).item()

    off, step = frozenset({1, 2, 6}), 1e-5
    expected = [
        (loss_at(off, i, (i not in off) - step) - loss_at(off, i, (i not in off) + step)) / (2 * step)
        for i in range(8)
    ]
    gates = Gates(net, chain)
    gates.draws.draw = lambda theta: off
    slopes = SlopeGains(gates)
    cross_entropy(net(x), y).backward()
    found = slopes(gates, range(8), lambda outputs: 0.0)
    assert [found[index] for index in range(8)] == pytest.approx(expected, abs=1e-8)


MAKES = {**NETWORKS, "llama": llama, "gpt2": gpt2}
SUBLAYERS = ("vit", "tuples", "pairs", "branches", "llama", "gpt2")
FEW = ["residual", "vgg", "tuples", "convnext", "gpt2"]
WRITING = ["overwriting", "eager"]


@pytest.fixture(params=[*FEW, *(f"{name} sublayers" for name in SUBLAYERS)])
def made(request):
    """A network in training mode, its inputs, and its units."""
    name, _, granularity = request.param.partition(" ")
    if name in ("llama", "gpt2"):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, example = MAKES[name]()
    if hasattr(model, "config"):
        model.config.use_cache = False
    chain = find_units(model, example, granularity=granularity.rstrip("s") or "block")
    return model.train(), example, chain


def squares(outputs):
    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    return sum(leaf.double().square().mean() for leaf in leaves if leaf.is_floating_point())


@pytest.mark.parametrize("made", [*FEW, *WRITING, "llama sublayers", "pairs sublayers"], indirect=True)
def test_flips_are_the_differences_of_whole_passes(made):
    model, example, chain = made
    plain, gates = deepcopy(model), Gates(model, chain)
    off = frozenset(chain.removable[::2])
    gates.draws.draw = lambda theta: off
    with noted(model) as states:
        call(model, deepcopy(example))
    loss = lambda wanted: squares(turned(plain, chain, example, wanted, states)).item()  # noqa: E731
    expected = {index: loss(off | {index}) - loss(off - {index}) for index in chain.removable}
    assert flip_gains(gates, chain.removable, lambda outputs: squares(outputs).item()) == expected


def test_slopes_of_every_make_of_unit_are_found_and_leave_no_trace(made):
    model, example, chain = made
    gates = Gates(model, chain)
    gates.draws.draw = lambda theta: frozenset(chain.removable[::2])
    slopes = SlopeGains(gates)
    squares(call(model, deepcopy(example))).backward()
    running = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    found = slopes(gates, chain.removable, lambda outputs: 0.0)
    assert sorted(found) == list(chain.removable)
    assert all(abs(gain) < 1e6 for gain in found.values())
    assert any(found.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(running[name], buffer) for name, buffer in model.named_buffers())
    slopes.close()
    gates.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_units_whose_output_was_overwritten_have_no_slope():
    model, x = NETWORKS["eager"]()
    chain = find_units(model, x)
    gates = Gates(model.train(), chain)
    gates.draws.draw = lambda theta: frozenset({2})
    slopes = SlopeGains(gates)
    squares(model(x)).backward()
    # The second writes into what the first has put out.
    assert sorted(slopes(gates, range(3), lambda outputs: 0.0)) == [1, 2]


@pytest.mark.parametrize("units", [(), (3,), (0, 7), range(8)])
def test_only_who_is_asked_about_is_answered_for(units):
    torch.manual_seed(0)
    net, x = Toy(), torch.randn(4, 64)
    gates = Gates(net, find_units(net, x))
    slopes = SlopeGains(gates)
    squares(net(x)).backward()
    ran = gates.replay.computed
    assert list(flip_gains(gates, units, lambda outputs: squares(outputs).item())) == sorted(units)[::-1]
    assert len(units) < 8 or gates.replay.computed - ran <= sum(range(1, 9))
    assert sorted(slopes(gates, units, lambda outputs: 0.0)) == sorted(units)
