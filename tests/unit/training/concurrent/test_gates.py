from copy import deepcopy

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.utils._pytree import tree_leaves

from gated import Toy, equal, noted, turned
from networks import NETWORKS, gpt2, llama
from shoal import ConcurrentPruner, find_units
from shoal.architectures import bypassed
from shoal.calling import call
from shoal.errors import ConfigError, UnitError
from shoal.training.concurrent.gates import Gates


class Dropping(nn.Module):
    """Draws random numbers before, in, between and after its blocks, and adds an early state at the end."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm, self.linear, self.drop = (
                nn.BatchNorm1d(width),
                nn.Linear(width, width),
                nn.Dropout(0.3),
            )

        def forward(self, x):
            return x + self.drop(self.linear(self.norm(x)))

    def __init__(self, width=16, depth=4):
        super().__init__()
        self.stem, self.head = nn.Linear(8, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(self.Block(width) for _ in range(depth))

    def forward(self, x):
        drop = lambda h: nn.functional.dropout(h, 0.2, self.training)  # noqa: E731
        around = x = drop(self.stem(x))
        for index, block in enumerate(self.blocks):
            x = drop(block(x)) + (0.5 * around if index == 2 else 0)
        return {"logits": self.head(drop(x)), "all": (x, around)}


def dropping():
    torch.manual_seed(3)
    return Dropping(), torch.randn(6, 8)


class Keywords(nn.Module):
    """Takes a scale by keyword."""

    def __init__(self):
        super().__init__()
        self.inner = Dropping()

    def forward(self, x, *, scale=1.0):
        return self.inner(scale * x)


def keywords():
    torch.manual_seed(3)
    return Keywords(), {"x": torch.randn(6, 8), "scale": 2.0}


class Preparing(nn.Module):
    """Writes into its input before its first block."""

    def __init__(self):
        super().__init__()
        self.inner = Dropping()

    def forward(self, x):
        return self.inner(x.mul_(1.5))


def preparing():
    torch.manual_seed(3)
    return Preparing(), torch.randn(6, 8)


class Twice(nn.Module):
    """Calls its second block, which draws random numbers, once more at the end."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Dropping.Block(8) for _ in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.blocks[1](x)


def twice():
    torch.manual_seed(3)
    return Twice(), torch.randn(6, 8)


MAKES = {
    **NETWORKS,
    **{make.__name__: make for make in (dropping, keywords, preparing, twice, llama, gpt2)},
}
SUBLAYERS = ("vit", "tuples", "pairs", "branches", "llama", "gpt2")


@pytest.fixture(params=[*MAKES, *(f"{name} sublayers" for name in SUBLAYERS)])
def made(request):
    """A network in training mode, its inputs, and its units."""
    name, _, granularity = request.param.partition(" ")
    if name in ("llama", "gpt2"):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, example = MAKES[name]()
    if hasattr(model, "config"):
        model.config.use_cache = False
    chain = find_units(model, deepcopy(example), granularity=granularity.rstrip("s") or "block")
    return model.train(), example, chain


def sets_of(chain):
    """No unit, each alone, all, every other one."""
    free = chain.removable
    return [frozenset(units) for units in ((), *((index,) for index in free), free, free[::2])]


def recorded(gates, model, example, off):
    """Call a gated network with just these units left out; return its outputs and its random states."""
    gates.forget()
    gates.draws.draw = lambda theta: frozenset(off)
    with noted(model) as states:
        outputs = call(model, deepcopy(example))
    return outputs, states


def failed(outputs):
    """Go back from the outputs; return what was raised, as networks that write in place may make torch do."""
    try:
        sum(leaf.square().sum() for leaf in tree_leaves(outputs) if leaf.requires_grad).backward()
    except (RuntimeError, AttributeError) as error:
        return None if "'int' object" in str(error) else type(error)


def iterates(module):
    """Whether power iterations change what it computes from call to call."""
    return any("spectral" in type(part).__name__.lower() for part in module.modules())


def test_replays_equal_whole_training_calls_without_the_units(made):
    model, example, chain = made
    plain = deepcopy(model)
    gates = Gates(model, chain)
    for off in (frozenset(), frozenset(chain.removable[::2])):
        outputs, states = recorded(gates, model, example, off)
        running = {name: buffer.clone() for name, buffer in model.named_buffers()}
        before = torch.get_rng_state()
        for wanted in reversed(sets_of(chain)):
            found = gates.replayed(wanted)
            expected = turned(plain, chain, example, wanted, states)
            if iterates(model):
                found = tree_leaves(found)
                torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)
            else:
                assert equal(found, expected), (off, wanted)
        assert iterates(model) or equal(gates.replayed(off), outputs)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(running[name], buffer) for name, buffer in model.named_buffers())


def test_gradients_are_those_of_a_plain_call_without_the_units(made):
    model, example, chain = made
    plain = deepcopy(model)
    gates = Gates(model, chain)
    for off in sets_of(chain):
        model.zero_grad()
        plain.zero_grad()
        state = torch.get_rng_state()
        outputs, _ = recorded(gates, model, example, off)
        torch.set_rng_state(state)
        with bypassed(plain, chain, off):
            expected = call(plain, deepcopy(example))
        assert equal(outputs, expected)
        assert [failed(outputs), failed(expected)] in ([None, None], [RuntimeError, RuntimeError])
        for (name, mine), other in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert (mine.grad is None) == (other.grad is None), name
            assert mine.grad is None or torch.equal(mine.grad, other.grad), name
        gates.forget()


def test_under_autocast_replays_have_its_precision():
    torch.manual_seed(0)
    net, x = Toy(4).train(), torch.randn(8, 64)
    plain, chain = deepcopy(net), find_units(net, x)
    gates = Gates(net, chain)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, states = recorded(gates, net, x, {2})
        for wanted in sets_of(chain):
            expected = turned(plain, chain, x, wanted, states)
            assert expected[0].dtype == torch.bfloat16
            assert equal(gates.replayed(wanted), expected)
    # Outside, too, where users take the step.
    assert equal(gates.replayed({2}), outputs)
    assert equal(gates.replayed({0}), turned_under_autocast(plain, chain, x, {0}, states))


def turned_under_autocast(*args):
    with torch.autocast("cpu", torch.bfloat16):
        return turned(*args)


class Checkpointed(nn.Module):
    """Computes its blocks again in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(Dropping.Block(8) for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            again = self.training and self.reentrant is not None
            x = (
                torch.utils.checkpoint.checkpoint(block, x, use_reentrant=self.reentrant)
                if again
                else block(x)
            )
        return self.head(x)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("off", [(), (0,), (1, 3), (0, 1, 2, 3)])
def test_checkpointed_blocks_have_the_same_gradients(reentrant, off):
    torch.manual_seed(0)
    net, x = Checkpointed(reentrant).eval(), torch.randn(6, 8)
    plain, chain = deepcopy(net).train(), find_units(net, x)
    plain.reentrant = None
    gates = Gates(net.train(), chain)
    state = torch.get_rng_state()
    outputs, _ = recorded(gates, net, x, off)
    torch.set_rng_state(state)
    with bypassed(plain, chain, off):
        expected = plain(x)
    assert equal(outputs, expected)
    assert [failed(outputs), failed(expected)] == [None, None]
    for mine, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, other.grad)
    assert equal(gates.replayed(off), outputs)
    gates.forget()
    assert not any("forward" in vars(module) for module in net.modules())


class Normalised(nn.Module):
    """Keeps statistics that are no batch norm's."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(4, track_running_stats=True)
        self.linear = nn.Linear(8, 8)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.count = self.count + 1
        return x + self.linear(self.norm(x)) / (1 + self.count)


def test_buffers_are_what_they_were_in_the_call_and_come_back():
    torch.manual_seed(0)
    net, x = nn.Sequential(*(Normalised() for _ in range(3))), torch.randn(5, 4, 8)
    chain = find_units(net.eval(), x)
    plain = deepcopy(net).train()
    gates = Gates(net.train(), chain)
    outputs, states = recorded(gates, net, x, ())
    after = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for wanted in sets_of(chain):
        assert equal(gates.replayed(wanted), turned(plain, chain, x, wanted, states))
    assert equal(gates.replayed(()), outputs)
    assert net[0].count == 1
    assert all(torch.equal(after[name], buffer) for name, buffer in net.named_buffers())


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy(6).train()


@pytest.fixture
def x():
    return torch.randn(4, 64, generator=torch.Generator().manual_seed(1))


def test_each_call_draws_which_gates_are_open(toy, x):
    gates = Gates(toy, find_units(toy, x), start=0.3)
    assert gates.theta == dict.fromkeys(range(6), 0.3)
    gates.theta |= {0: 1.0, 4: 0.0}
    shut = []
    for _ in range(40):
        toy(x)
        gates.forget()
        shut.append(gates.off)
    assert frozenset.union(*shut) == {1, 2, 3, 4, 5}
    assert frozenset.intersection(*shut) == {4}


def test_a_skipped_unit_is_not_computed(toy, x):
    ran = []
    for index, block in enumerate(toy.blocks):
        block.first.register_forward_hook(lambda *_, index=index: ran.append(index))
    gates = Gates(toy, find_units(toy, x))
    ran.clear()
    recorded(gates, toy, x, {1, 4})
    assert ran == [0, 2, 3, 5]
    ran.clear()
    gates.replayed({1})
    assert ran == [4, 5]


def test_in_evaluation_the_units_with_theta_above_one_half_compute(toy, x):
    plain, chain = deepcopy(toy), find_units(toy, x)
    gates = Gates(toy, chain)
    gates.theta.update({0: 0.5, 1: 0.51, 2: 0.0, 3: 1.0})
    assert gates.settled() == {0, 2}
    for mode, grad in ((False, True), (False, False), (True, False)):
        toy.train(mode)
        with torch.set_grad_enabled(grad), bypassed(plain, chain, {0, 2}):
            assert torch.equal(toy(x), plain(x))
    assert gates.calls == 0


def test_evaluation_between_a_call_and_its_step_changes_nothing(toy, x):
    gates = Gates(toy, find_units(toy, x))
    outputs, _ = recorded(gates, toy, x, {1})
    toy.eval()(x)
    with torch.no_grad():
        toy.train()(2 * x)
    assert equal(gates.replayed({1}), outputs)
    assert gates.calls == 1


def test_asking_without_a_call_is_refused(toy, x):
    gates = Gates(toy, find_units(toy, x))
    for forgotten in (False, True):
        with pytest.raises(ConfigError, match="was not called in training mode since the last step"):
            gates.replayed(())
        if not forgotten:
            toy(x)
            gates.forget()


def test_a_call_that_fails_leaves_nothing_behind(toy, x):
    gates = Gates(toy, find_units(toy, x))
    gates.draws.draw = lambda theta: frozenset()
    for error in (ZeroDivisionError, KeyboardInterrupt):

        def fail(*_, error=error):
            raise error

        handle = toy.blocks[3].first.register_forward_hook(fail)
        with pytest.raises(error):
            toy(x)
        handle.remove()
        with pytest.raises(ConfigError, match="was not called"):
            gates.replayed(())
    outputs, _ = recorded(gates, toy, x, {1})
    assert equal(gates.replayed({1}), outputs)
    assert not any("forward" in vars(module) for module in toy.modules())


def test_gates_that_are_closed_after_an_interrupted_call_leave_nothing_behind(toy, x):
    def interrupt(*_):
        raise KeyboardInterrupt

    gates = Gates(toy, find_units(toy, x))
    handle = toy.head.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        toy(x)
    handle.remove()
    gates.close()
    assert not any("forward" in vars(module) for module in toy.modules())


@pytest.mark.parametrize("off", [(), (1,)])
def test_after_an_interrupted_call_units_can_leave(toy, x, off):
    def interrupt(*_):
        raise KeyboardInterrupt

    plain, gates = deepcopy(toy), Gates(toy, find_units(toy, x))
    gates.draws.draw = lambda theta: frozenset(off)
    handle = toy.head.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        toy.train()(x)
    handle.remove()
    for index in (1, 2):
        gates.remove_(index)
    small = gates.finished()
    with bypassed(plain, gates.chain, (1, 2)):
        assert torch.equal(small.eval()(x), plain.eval()(x))


def test_a_network_that_has_gates_gets_no_others(toy, x):
    gates = Gates(toy, find_units(toy, x))
    with pytest.raises(ConfigError, match=r"a Toy that has gates already. finish\(\) or close\(\)"):
        Gates(toy, gates.chain)
    outer = nn.Sequential(toy)
    with pytest.raises(ConfigError, match="a Sequential that has gates already"):
        Gates(outer, find_units(deepcopy(outer), x))
    Gates(deepcopy(toy), gates.chain).close()
    gates.close()
    Gates(toy, gates.chain).close()


def test_a_network_for_several_devices_is_refused(toy, x):
    chain = find_units(toy, x)
    with pytest.raises(ConfigError, match=r"gates on a DataParallel: give the network inside, `.module`"):
        Gates(nn.DataParallel(toy), chain)


def test_a_network_that_is_compiled_later_is_refused(toy, x):
    gates = Gates(toy, find_units(toy, x))
    toy.compile(backend="eager")
    with pytest.raises(ConfigError, match="call a gated Toy that is compiled as a whole"):
        toy.train()(x)
    gates.close()


def test_calls_between_two_steps_have_one_draw(toy, x):
    gates = Gates(toy.train(), find_units(toy, x), start=0.5)
    drawn = set()
    for _ in range(20):
        found = []
        for _ in range(3):
            toy(x)
            found.append(gates.off)
        assert len({*found}) == 1
        drawn |= {*found}
        gates.forget()
    assert len(drawn) > 5


def test_batches_that_a_loop_skips_meet_other_draws(toy, x):
    gates = Gates(toy.train(), find_units(toy, x), start=0.5)
    found = []
    for _ in range(40):
        toy(x)
        found.append(gates.off)
    assert len({*found}) > 5
    assert all(len({*found[at : at + 4]}) == 1 for at in range(0, 40, 4))


def test_mixtures_of_experts_are_asked_without_their_routing():
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
        output_router_logits=True,
    )
    torch.manual_seed(0)
    model, ids = transformers.MixtralForCausalLM(config).train(), torch.randint(0, 32, (2, 8))
    gates = Gates(model, find_units(model, {"input_ids": ids}))
    gates.draws.draw = lambda theta: frozenset({1})
    outputs = model(input_ids=ids, labels=ids)
    assert outputs.router_logits
    for off in ({1}, {1, 2}, {2}):
        assert torch.equal(gates.replayed(off).logits, outputs.logits) == (off == {1})
    assert config.output_router_logits
    gates.forget()
    outputs = model(input_ids=ids, output_router_logits=True)
    assert outputs.router_logits
    assert torch.equal(gates.replayed({1}).logits, outputs.logits)
    assert gates.replayed({1, 2}).router_logits is None
    gates.close()


def test_closed_gates_leave_an_ordinary_network(toy, x):
    plain = deepcopy(toy)
    gates = Gates(toy, find_units(toy, x), start=0.01)
    gates.close()
    assert torch.equal(toy(x), plain(x))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in toy.modules())


def test_a_copy_of_a_gated_network_is_not_gated(toy, x):
    gates = Gates(toy, find_units(toy, x), start=0.01)
    plain = deepcopy(toy)
    expected = plain(x)
    assert torch.equal(plain(x), expected)
    assert gates.calls == 0
    gates.remove_(2)
    shorter = deepcopy(toy)
    chain = gates.chain
    with bypassed(plain, chain, {2}):
        assert torch.equal(shorter(x), plain(x))


def test_a_network_without_removable_units_is_refused(x):
    toy = Toy(1)
    chain = find_units(Toy(2), x)
    fixed = type(chain)(units=(), model="Toy", params=chain.params, macs=chain.macs)
    with pytest.raises(UnitError, match="none of its 0 units can be removed"):
        Gates(toy, fixed)


def test_a_network_that_is_compiled_as_a_whole_is_refused(toy, x):
    chain = find_units(toy, x)
    with pytest.raises(ConfigError, match="compiled as a whole"):
        Gates(torch.compile(toy, backend="eager"), chain)


def test_a_unit_without_a_gate_is_not_removed(toy, x):
    gates = Gates(toy, find_units(toy, x))
    gates.remove_(1)
    with pytest.raises(UnitError, match=r"remove unit 1: it has no gate. Units \[0, 2, 3, 4, 5\] have one"):
        gates.remove_(1)


def test_a_state_taken_up_draws_on_as_if_nothing_had_happened(toy, x):
    chain = find_units(toy, x)
    gates = Gates(deepcopy(toy), chain, start=0.5)
    gates.model(x)
    gates.remove_(3)
    gates.remove_(0)
    gates.theta[5] = 0.125
    other = Gates(deepcopy(toy), chain, start=0.9, seed=8)
    other.restore_(gates.state())
    assert (other.theta, other.removed, other.calls) == (gates.theta, [3, 0], 1)
    for _ in range(9):
        gates.model(x)
        other.model(x)
        assert other.off == gates.off >= {0, 3}
    assert other.model.state_dict().keys() == gates.model.state_dict().keys()


class Several(nn.Module):
    """Takes any number of maps, and a scale by name."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))

    def forward(self, *xs, scale=1.0):
        x = sum(xs) * scale
        for block in self.blocks:
            x = x + block(x)
        return x


def test_arguments_are_given_as_they_were_by_place_or_by_name():
    net = Several()
    x = torch.randn(2, 4)
    gates = Gates(net, find_units(net, (x, x)))
    given = []
    net.register_forward_pre_hook(lambda _, args: given.append(len(args)))
    for _ in range(2):
        net.train()(x, x, scale=2.0)
        assert torch.equal(gates.replayed(gates.off), gates.outputs)
        gates.forget()
    assert given == [2] * 4
    net(x, x, scale=2.0)
    assert list(gates.inputs) == ["0", "1", "scale"]


def test_labels_given_by_place_are_seen():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))

        def forward(self, x, labels=None):
            for block in self.blocks:
                x = x + block(x)
            return x

    net, x, y = Labelled(), torch.randn(2, 4), torch.tensor([0, 1])
    pruner = ConcurrentPruner(net, x, steps=4, budget="units=2")
    for _ in range(2):
        net(x, y).sum().backward()
        pruner.step()
    assert any(gain.count for gain in pruner.decisions.gains.values())


def test_arguments_that_come_by_place_alone_have_names_too():
    class Placed(Several):
        def forward(self, x, /, labels=None):
            return super().forward(x)

    net, x, y = Placed(), torch.randn(2, 4), torch.tensor([0, 1])
    gates = Gates(net.train(), find_units(net, x))
    net(x, y)
    assert list(gates.inputs) == ["x", "labels"]
