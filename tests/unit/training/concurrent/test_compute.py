import pytest
import torch
import torch.nn.functional as F

from gated import Toy
from shoal import ConcurrentPruner
from shoal.training.concurrent.compute import Compute, forward_macs
from shoal.units import Chain, Unit


def chain_of(*sizes, rest=0):
    """Units of these MACs in a network that has `rest` more."""
    units = [
        Unit(
            name=f"b{index}",
            index=index,
            modules=(f"b{index}",),
            container="",
            group="s",
            kind="Block",
            params=1,
            macs=size,
            removable=True,
        )
        for index, size in enumerate(sizes)
    ]
    return Chain(units=tuple(units), model="Net", params=len(units), macs=rest + sum(sizes))


def test_calls_without_units_are_counted_by_hand():
    compute = Compute(chain_of(10, 20, 30, rest=40))
    for off in ({0}, {1, 2}, set()):
        compute.count(off)
    assert (compute.calls, compute.called) == (3, 90 + 50 + 100)


def test_what_is_left_and_what_is_expected():
    compute = Compute(chain_of(10, 20, 30, rest=40))
    assert compute.left({1}) == 0.8
    assert compute.expected({0: 0.0, 1: 1.0, 2: 1.0}) == compute.left({0})
    assert compute.expected({0: 0.5, 2: 0.9}) == pytest.approx(1 - 0.05 - 0.03)


def test_asking_units_costs_a_third_of_training_on_them():
    compute = Compute(chain_of(10, 20, 30, rest=40))
    for _ in range(4):
        compute.count({2})
    # Three times the forward passes, of 70, and 60 for questions, of what would be 3 · 100 · 4.
    assert compute.saved(60.0) == pytest.approx(1 - (3 * 280 + 60) / 1200)
    assert Compute(compute.chain).saved(0.0) == 0.0


def test_a_network_without_macs_saves_none():
    compute = Compute(chain_of(0, 0))
    compute.count({0})
    assert (compute.left({0}), compute.expected({0: 0.0}), compute.saved(0.0)) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("off", "start", "macs"),
    [((), 0, 100), ((0, 2), 0, 60), ((), 1, 90), ((2,), 1, 60), (range(3), 3, 40)],
)
def test_macs_of_a_pass_are_those_of_what_is_computed(off, start, macs):
    assert forward_macs(chain_of(10, 20, 30, rest=40), off, start) == macs


@pytest.mark.parametrize("batches", [1, 8])
def test_batches_that_make_a_step_together_are_counted_each(batches):
    torch.manual_seed(0)
    net, x, y = Toy(6), torch.randn(8, 64), torch.arange(8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    pruner = ConcurrentPruner(net, x[:1], steps=40, budget="units=4", optimizer=optimizer)
    chain, passes = pruner.chain, []
    for _ in range(40):
        for _ in range(batches):
            F.cross_entropy(net.train()(x), y).backward()
            off = pruner.gates.removed if pruner.decisions.frozen else pruner.gates.off
            passes.append(forward_macs(chain, off))
        pruner.step((x, y))
        optimizer.step()
        optimizer.zero_grad()
    asked = pruner._questions.macs
    whole = 3 * chain.macs * len(passes)
    assert len(pruner.removed) == 2
    assert asked > 0
    assert pruner.progress().saved == pytest.approx(1 - (3 * sum(passes) + asked) / whole, abs=1e-12)
