"""Networks whose blocks are compiled, each by itself, train with gates as those that are not."""

from copy import deepcopy

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from gated import Toy, random_batches, train
from shoal import find_units
from shoal.architectures.bypassing import uncompiled
from shoal.errors import ConfigError
from shoal.training.concurrent.gates import Gates
from shoal.training.concurrent.pruner import ConcurrentPruner
from shoal.training.concurrent.settings import ConcurrentSettings

# Torch hides this warning of its own making, but not where warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")

STEPS = 60


class Dropping(nn.Module):
    """Blocks with batch norm and dropout."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear, self.drop = nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Dropout(0.3)

        def forward(self, x):
            return x + self.drop(self.linear(self.norm(x)).relu())

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(64, 8), nn.Linear(8, 10)
        self.blocks = nn.ModuleList(self.Block() for _ in range(6))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture(autouse=True)
def fresh():
    """No test finds what another has compiled; more than four graphs for any piece of code are an error."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=4, fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


def in_place(net, backend):
    for block in net.blocks:
        block.compile(backend=backend, fullgraph=True)


def wrapped(net, backend):
    for index, block in enumerate(net.blocks):
        net.blocks[index] = torch.compile(block, backend=backend, fullgraph=True)


def not_at_all(net, backend):
    pass


WAYS = [in_place, wrapped]


def made(make, way, backend="eager", **settings):
    """A network in training, compiled in some way, and its pruner."""
    torch.manual_seed(0)
    net = make()
    way(net, backend)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    settings = ConcurrentSettings(start=0.7, window=0.6, probes=2, **settings)
    pruner = ConcurrentPruner(
        net, torch.zeros(2, 64), steps=STEPS, budget="units=3", optimizer=optimizer, settings=settings
    )
    return net, pruner


def run(net, pruner):
    """Train with draws and questions, then without a unit, then with gates settled."""
    torch.manual_seed(1)
    batches = random_batches(STEPS, 16)
    train(net, batches[:15], pruner.optimizer, pruner)
    pruner.gates.remove_(2, pruner.optimizer)
    train(net, batches[15:], pruner.optimizer, pruner)
    return pruner.finish()


def weights(net):
    """By the names that they have where nothing is compiled."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in net.state_dict().items()}


def same(net, other):
    mine, theirs = weights(net), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(("make", "estimator"), [(Toy, "flip"), (Dropping, "flip"), (Dropping, "slope")])
@pytest.mark.parametrize("way", WAYS)
def test_blocks_are_compiled_a_few_times_and_change_nothing(way, make, estimator):
    plain, other = made(make, not_at_all, estimator=estimator)
    expected = run(plain, other)
    counter = CompileCounter()
    net, pruner = made(make, way, counter, estimator=estimator)
    assert pruner.chain.macs == other.chain.macs
    assert counter.frame_count == 0
    small = run(net, pruner)
    # Once for training, once for questions: blocks of one make share what was compiled.
    assert counter.frame_count == 2
    assert pruner.removed == other.removed
    assert len(small.blocks) == 3
    assert same(net, plain)
    assert same(small, expected)
    x = torch.randn(4, 64)
    assert torch.equal(small.eval()(x), expected.eval()(x))
    assert torch.equal(net.eval()(x), small(x))


@pytest.mark.parametrize("way", WAYS)
def test_batches_of_another_size_and_looks_at_the_network_are_compiled_once_more(way):
    counter = CompileCounter()
    results = []
    for each in (not_at_all, way):
        net, pruner = made(Toy, each, counter)
        torch.manual_seed(1)
        for size in (16, 16, 10) * 5:
            x, y = torch.randn(size, 64), torch.randint(0, 10, (size,))
            train(net, [(x, y)], pruner.optimizer, pruner)
            with torch.no_grad():
                net.eval()(x)
        results.append((net, pruner.finish()))
    (plain, expected), (net, small) = results
    assert same(net, plain)
    assert same(small, expected)
    assert counter.frame_count <= 4


class Checkpointed(Toy):
    """Computes its blocks again in the backward pass."""

    reentrant = False

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=self.reentrant)
        return self.head(h)


class Reentrant(Checkpointed):
    reentrant = True


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(("make", "estimator"), [(Checkpointed, "flip"), (Reentrant, "slope")])
def test_compiled_blocks_may_be_computed_again_in_the_backward_pass(make, estimator):
    expected = run(*made(Toy, not_at_all, estimator=estimator))
    counter = CompileCounter()
    assert same(run(*made(make, in_place, counter, estimator=estimator)), expected)
    assert counter.frame_count <= 3


@pytest.mark.parametrize("way", WAYS)
def test_what_is_finished_can_be_compiled_as_a_whole(way):
    net, pruner = made(Toy, way)
    small = run(net, pruner).eval()
    # Nothing of it is compiled any more, in whatever way it was.
    assert {(type(block).__name__, block._compiled_call_impl) for block in small.blocks} == {("Block", None)}
    x = torch.randn(4, 64)
    for each in (small, net.eval(), deepcopy(net)):
        torch._dynamo.reset()
        counter = CompileCounter()
        whole = torch.compile(each, backend=counter, fullgraph=True)
        with torch.no_grad():
            assert torch.equal(whole(x), small(x))
        assert counter.frame_count == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_network_in_training_has_lost_the_same_units(way):
    net, pruner = made(Toy, way)
    pruner.gates.remove_(2, pruner.optimizer)
    pruner.gates.theta = dict.fromkeys(pruner.gates.theta, 1.0)
    x, copy = torch.randn(4, 64), deepcopy(net)
    assert not list(copy.blocks[2].parameters())
    assert torch.equal(copy.train()(x), net.eval()(x))
    assert pruner.gates.calls == 0


@pytest.mark.parametrize("way", WAYS)
def test_hooks_of_compiled_blocks_run_where_they_compute(way):
    net, pruner = made(Toy, way)
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, output: 0.5 * output)
    pruner.gates.draws.draw = lambda theta: frozenset({1, 4})
    net.head, x = nn.Identity(), torch.randn(4, 64)
    h = torch.tanh(net.stem(x))
    for index, block in enumerate(net.blocks):
        h = block(h) if index not in (1, 4) else 0.5 * h if way is wrapped else h
    assert torch.equal(net.train()(x), h)


def test_a_compiled_part_with_units_inside_is_refused():
    net = nn.Sequential(nn.Linear(64, 32), Toy(4, inputs=32))
    x = torch.zeros(2, 64)
    chain = find_units(net, x)
    whole = torch.compile(net[1], backend="eager")
    net[1].compile(backend="eager")
    for part in (net[1], whole):
        net[1] = part
        with pytest.raises(ConfigError, match="units of '1', which is compiled as a whole: every"):
            Gates(net, chain)


def test_compiled_parts_of_blocks_are_left_to_themselves():
    net, pruner = made(
        Toy, lambda net, backend: [block.first.compile(backend=backend) for block in net.blocks]
    )
    plain, other = made(Toy, not_at_all)
    assert same(run(net, pruner), run(plain, other))


def test_networks_run_as_written_inside_of_uncompiled():
    for way in WAYS:
        counter = CompileCounter()
        net = Toy(2)
        plain, x = deepcopy(net), torch.randn(3, 64)
        way(net, counter)
        with uncompiled(net):
            assert torch.equal(net(x), plain(x))
        assert counter.frame_count == 0
        assert torch.equal(net(x), plain(x))
        assert counter.frame_count == 1
        torch._dynamo.reset()
