"""A network gone through unit by unit is the network gone through at once: states and gradients."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from networks import NETWORKS, llama
from shoal import find_units
from shoal.activations import UnitStream, activation_store, watching
from shoal.calling import call, evaluating
from shoal.errors import ConfigError
from shoal.units import Chain, Unit

WHOLE = [
    "residual",
    "bottleneck",
    "attributes",
    "convnext",
    "vit",
    "listed",
    "between",
    "tuples",
    "post_norm",
]


def made(name):
    return llama() if name == "llama" else NETWORKS[name]()


def loss_of(outputs):
    values = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs.values()))
    return values.flatten(1).square().mean(dim=1)


def unit_of(name, **fields):
    return Unit(
        name=name,
        index=int(name),
        modules=(name,),
        container="",
        group="",
        kind="",
        params=1,
        macs=1,
        removable=True,
        **fields,
    )


def chain_of(network, **fields):
    units = tuple(unit_of(str(index), **fields) for index in range(len(network)))
    return Chain(units=units, model="Network", params=1, macs=1)


@contextmanager
def held(unit):
    yield


@contextmanager
def streamed(network, chain):
    with evaluating(network), activation_store(1e9) as store:
        yield UnitStream(network, chain, store)


def forward(network, inputs, chain=None):
    chain = chain_of(network) if chain is None else chain
    with streamed(network, chain) as stream:
        return stream.forward([inputs], held, lambda unit: None)[0]


@pytest.mark.parametrize("name", [*WHOLE, "llama"])
def test_states_and_gradients_are_those_of_one_pass(name):
    network, inputs = made(name)
    chain = find_units(network, inputs)
    with evaluating(network), watching(network, chain) as boundaries:
        outputs = call(network, inputs)
        states, starts, stops = boundaries.points()
        loss_of(outputs).sum().backward()
    wanted = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    gradients = {}
    with streamed(network, chain) as stream:
        (batch,) = stream.forward([inputs], held, lambda unit: None)
        found = batch.points()
        for ours, theirs in zip(found[0], states, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert found[1:] == (starts, stops)
        torch.testing.assert_close(stream.finish(batch, loss_of), loss_of(outputs).detach())
        stream.backward(
            [batch], held, lambda unit, *_: gradients.setdefault(unit.index, _[-1]), lambda unit: None
        )
    assert sorted(gradients) == list(range(len(chain)))
    assert not batch.returned
    assert not batch.gradients
    for unit in chain:
        for name, parameter in network.get_submodule(unit.modules[0]).named_parameters(unit.modules[0]):
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_unit_has_its_weights_while_all_batches_go_through_and_no_longer(count):
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    told = []

    @contextmanager
    def weights(unit):
        told.append(f"+{unit.index}")
        yield
        told.append(f"-{unit.index}")

    def seen(unit, before, after, gradient):
        told.append("seen")
        assert before.shape == after.shape == gradient.shape == (2, 4)

    with streamed(network, chain_of(network)) as stream:
        batches = stream.forward([torch.randn(2, 4)] * count, weights, lambda unit: told.append("done"))
        assert told == ["+0", "done", "-0", "+1", "done", "-1", "+2", "done", "-2"]
        told.clear()
        for batch in batches:
            stream.finish(batch, loss_of)
        stream.backward(batches, weights, seen, lambda unit: told.append("done"))
    each = ["seen"] * count
    assert told == ["+2", *each, "done", "-2", "+1", *each, "done", "-1", "+0", *each, "done", "-0"]


def test_a_batch_without_losses_has_no_gradients():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with streamed(network, chain_of(network)) as stream:
        batches = stream.forward([torch.randn(2, 4)], held, lambda unit: None)
        assert stream.finish(batches[0], lambda outputs: None) is None
        stream.backward(batches, held, lambda *_: pytest.fail("seen"), lambda unit: None)
    assert network[0].weight.grad is None


class Sharing(nn.Module):
    """The first unit writes into a dict what the last one reads."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Shared(index) for index in range(3))

    def forward(self, x):
        notes = {}
        for layer in self.layers:
            x = layer(x, notes)
        return x


class Shared(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index, self.linear = index, nn.Linear(4, 4)

    def forward(self, x, notes):
        x = x + self.linear(x)
        if self.index == 0:
            notes["first"] = (x * 2,)
        return x + notes["first"][0] if self.index == 2 else x


def test_what_units_write_into_mappings_reaches_later_ones_and_gradients_find_back():
    network, x = Sharing(), torch.randn(3, 4)
    loss_of(network(x)).sum().backward()
    wanted = [layer.linear.weight.grad.clone() for layer in network.layers]
    network.zero_grad()
    units = tuple(
        Unit(
            name=f"layers.{index}",
            index=index,
            modules=(f"layers.{index}",),
            container="layers",
            group="layers",
            kind="Shared",
            params=1,
            macs=1,
            removable=True,
        )
        for index in range(3)
    )
    chain = Chain(units=units, model="Sharing", params=1, macs=1)
    with streamed(network, chain) as stream:
        batches = stream.forward([x], held, lambda unit: None)
        torch.testing.assert_close(batches[0].left[-1], network(x).detach())
        stream.finish(batches[0], loss_of)
        stream.backward(batches, held, lambda *_: None, lambda unit: None)
    for layer, gradient in zip(network.layers, wanted, strict=True):
        torch.testing.assert_close(layer.linear.weight.grad, gradient)


class Doing(nn.Module):
    """Something that a unit or the network around it must not do."""

    def __init__(self, what):
        super().__init__()
        self.what, self.linear = what, nn.Linear(4, 4)

    def forward(self, x, other=None):
        if self.what == "writes into an argument":
            other.add_(1)
        if self.what == "appends to a list":
            other.append(x)
        if self.what == "writes into weights":
            self.linear.weight.data = self.linear.weight.data * 1
            self.linear.weight.mul_(1)
        return 1 if self.what == "returns a number" else self.linear(x)


class Around(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.add_module("0", Doing(what))
        self.add_module("1", Doing(""))
        self.what = what

    def __len__(self):
        return 2

    def forward(self, x):
        first, second = self.get_submodule("0"), self.get_submodule("1")
        other = [] if "list" in self.what else torch.zeros(1)
        if self.what == "calls them in another order":
            return first(second(x))
        if self.what == "leaves one out":
            return first(x)
        if self.what == "calls one twice":
            return second(first(first(x)))
        if self.what == "gives no state":
            return second(first(x.long()))
        x = first(x, other)
        return second(x.mul_(2) if self.what == "overwrites a state" else x)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("calls them in another order", "1 is called where 0 should be"),
        ("leaves one out", "1 is not called on this data"),
        ("calls one twice", "0 is called where 1 should be"),
        ("gives no state", "0 takes no hidden state"),
        ("returns a number", "0 returns no hidden state"),
        ("writes into an argument", "0 writes into what it is given"),
        ("appends to a list", "0 writes into what it is given"),
        ("overwrites a state", "0 has what it returned overwritten by the network around it"),
        ("writes into weights", "it writes into its weights while it runs, at 0"),
    ],
)
def test_what_would_be_lost_from_one_unit_to_the_next_is_refused(what, match):
    with pytest.raises(ConfigError, match=match):
        forward(Around(what), torch.randn(2, 4))


@pytest.mark.parametrize("fields", [{"outputs": "zeros"}])
def test_branches_are_refused(fields):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="0 is not one whole module"):
        forward(network, torch.randn(2, 4), chain_of(network, **fields))
