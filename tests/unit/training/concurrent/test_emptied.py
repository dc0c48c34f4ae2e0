import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import shoal
from gated import Toy, equal
from networks import NETWORKS, gpt2, llama
from shoal import Plan, find_units
from shoal.architectures import bypassed
from shoal.calling import call
from shoal.training.concurrent.emptied import forget_
from shoal.training.concurrent.gates import Gates

SUBLAYERS = ("vit", "tuples", "pairs", "branches", "llama", "gpt2")
MAKES = {**NETWORKS, "llama": llama, "gpt2": gpt2}


ALL = [*MAKES, *(f"{name} sublayers" for name in SUBLAYERS)]
FEW = ["residual", "attributes", "vgg", "tuples sublayers", "weight_normed", "llama", "gpt2 sublayers"]


@pytest.fixture
def made(request):
    name, _, granularity = request.param.partition(" ")
    if name in ("llama", "gpt2"):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, example = MAKES[name]()
    return model, example, find_units(model, example, granularity=granularity.rstrip("s") or "block")


def some(chain):
    """Every other removable unit, which leaves one of each stage."""
    return chain.removable[1::2] or chain.removable[:1]


def output(model, example):
    with torch.no_grad():
        return call(model, deepcopy(example))


@pytest.mark.parametrize("made", ALL, indirect=True)
def test_removal_equals_bypassing_and_the_finished_network_equals_apply(made):
    model, example, chain = made
    plain, going = deepcopy(model), some(chain)
    expected = shoal.apply(plain, Plan.removing(chain, going))
    with bypassed(plain, chain, going):
        before = output(plain, example)
    gates = Gates(model, chain)
    gates.theta.update(dict.fromkeys(gates.theta, 1.0) | dict.fromkeys(going, 0.0))
    assert equal(output(model, example), before)
    for index in reversed(going):
        gates.remove_(index)
        assert equal(output(model, example), before)
    small = gates.finished()
    assert equal(output(small, example), output(expected, example))
    assert type(small) is type(plain)
    assert small.state_dict().keys() == expected.state_dict().keys()
    assert equal(dict(small.state_dict()), dict(expected.state_dict()))
    assert repr(small) == repr(expected)
    for part in small.modules():
        assert not any((part._forward_hooks, part._forward_pre_hooks, "forward" in vars(part)))
    assert not any(tensor.is_meta for tensor in (*small.parameters(), *small.buffers()))


@pytest.mark.parametrize("made", FEW, indirect=True)
def test_finishing_leaves_the_network_in_training_as_it_was(made):
    model, example, chain = made
    gates = Gates(model, chain)
    for index in some(chain):
        gates.remove_(index)
    gates.theta = dict.fromkeys(gates.theta, 1.0)
    before, keys = output(model, example), list(model.state_dict())
    smalls = [gates.finished() for _ in range(2)]
    assert equal(output(model, example), before)
    assert list(model.state_dict()) == keys
    assert equal(*(output(small, example) for small in smalls))
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("made", FEW, indirect=True)
def test_weights_of_a_unit_leave_the_network_and_nothing_else_does(made):
    model, _, chain = made
    index = some(chain)[0]
    own = tuple(f"{path}." for path in chain[index].modules)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gates = Gates(model, chain)
    gates.remove_(index)
    left = {name: tensor for name, tensor in before.items() if not name.startswith(own)}
    assert len(left) < len(before)
    assert left.keys() == model.state_dict().keys()
    assert all(torch.equal(left[name], tensor) for name, tensor in model.state_dict().items())
    assert sum(p.numel() for p in model.parameters()) == chain.params - chain[index].params


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda params: torch.optim.AdamW(params, lr=0.01),
        lambda params: torch.optim.Adagrad(params, lr=0.01),
    ],
    ids=["SGD", "AdamW", "Adagrad"],
)
def test_the_optimiser_goes_on_with_the_rest_as_if_the_units_were_only_skipped(make, count, named):
    torch.manual_seed(0)
    net, x, y = Toy(4), torch.randn(8, 64), torch.randint(0, 10, (8,))
    plain, chain = deepcopy(net), find_units(net, x)
    gates = Gates(net, chain)
    gates.draws.draw = lambda theta: frozenset(gates.removed)

    def optimised(model):
        parts = [model.stem, model.blocks, model.head]
        return make([{"params": list(p.named_parameters() if named else p.parameters())} for p in parts])

    mine, other = optimised(net), optimised(plain)
    for number in range(5):
        # What was removed has its gradients of this step already.
        skipped = list(gates.removed)
        for model, optimizer, off in ((net, mine, ()), (plain, other, skipped)):
            with bypassed(model, chain, off):
                cross_entropy(model(x), y).backward()
            if model is net and number == 2:
                lost = [p for index in range(count) for p in net.blocks[index].parameters()]
                gone = set(map(id, lost))
                for index in range(count):
                    gates.remove_(index, mine)
                # Nothing of them is held, should someone hold the parameters themselves.
                assert all(parameter.grad is None for parameter in lost)
            optimizer.step()
            optimizer.zero_grad()
    rest = dict(plain.named_parameters())
    assert len(rest) == len(list(net.parameters())) + 3 * count
    assert all(torch.equal(rest[name], parameter) for name, parameter in net.named_parameters())
    held = [parameter for group in mine.param_groups for parameter in group["params"]]
    assert not gone & {id(parameter) for parameter in (*mine.state, *held)}
    if named:
        blocks = [name for name, _ in net.blocks.named_parameters()]
        assert mine.param_groups[1]["param_names"] == blocks
    again = optimised(net)
    again.load_state_dict(mine.state_dict())
    assert equal(again.state_dict(), mine.state_dict())


def test_forgetting_nothing_changes_nothing():
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    before = deepcopy(optimizer.state_dict())
    forget_(optimizer, set())
    assert equal(before, optimizer.state_dict())
    assert net.weight.grad is not None


class Sharing(nn.Module):
    """Its blocks share a module with a buffer and no weights; one shares its weight with the tail."""

    class Block(nn.Module):
        def __init__(self, turn, linear):
            super().__init__()
            self.turn, self.linear, self.own = turn, linear, nn.Linear(8, 8)

        def forward(self, x):
            return x + self.turn(self.own(self.linear(x)).tanh())

    class Turn(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.linspace(0.5, 1.5, 8))

        def forward(self, x):
            return self.scale * x

    def __init__(self):
        super().__init__()
        turn = self.Turn()
        self.blocks = nn.ModuleList(self.Block(turn, nn.Linear(8, 8)) for _ in range(4))
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.blocks[1].linear.weight

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.tied(x)


@pytest.mark.parametrize("going", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_what_others_share_stays(going):
    torch.manual_seed(0)
    net, x = Sharing(), torch.randn(3, 8)
    chain = find_units(net, x)
    going = [index for index in going if index in chain.removable]
    assert going
    plain = deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    gates = Gates(net, chain)
    gates.draws.draw = lambda theta: frozenset(gates.removed)
    net(x).sum().backward()
    optimizer.step()
    plain.load_state_dict(net.state_dict())
    expected = shoal.apply(plain, Plan.removing(chain, going))
    for index in going:
        gates.remove_(index, optimizer)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, net.parameters()))
    assert id(net.tied.weight) in held
    assert torch.equal(net(x), expected(x))
    assert torch.equal(gates.finished()(x), expected(x))


def test_attributes_that_the_network_asks_for_stay():
    net, x = Toy(3), torch.randn(2, 64)
    for block in net.blocks:
        block.kind = "plain"
    gates = Gates(net, find_units(net, x))
    gates.remove_(1)
    assert (net.blocks[1].kind, type(net.blocks[1]).__name__) == ("plain", "Block")
    assert len(net.blocks) == 3
    assert not list(net.blocks[1].modules())[1:]
    net.to(torch.float64).train().eval().requires_grad_(False)
    assert net(x.double()).dtype == torch.float64


@pytest.mark.parametrize("norm_first", [False, True])
def test_parts_that_the_network_asks_for_stay_and_are_none_of_its_own(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, x = nn.TransformerEncoder(layer, 3), torch.randn(2, 4, 16)
    plain = deepcopy(net)
    gates = Gates(net, find_units(net, x))
    gates.draws.draw = lambda theta: frozenset(gates.removed)
    gates.remove_(0)
    assert len(list(net.parameters())) == len(list(plain.parameters())) * 2 // 3
    assert net.state_dict().keys() == {name for name in plain.state_dict() if "layers.0." not in name}
    with bypassed(plain, gates.chain, {0}):
        expected = plain(x)
    for mode in (True, False):
        assert torch.allclose(net.train(mode)(x), expected, atol=1e-6)
    assert torch.allclose(gates.finished()(x), expected, atol=1e-6)
    assert torch.allclose(net(x), expected, atol=1e-6)


def test_a_network_that_has_changed_its_dtype_is_finished_in_it():
    net, x = Toy(3), torch.randn(2, 64)
    gates = Gates(net, find_units(net, x))
    gates.theta = dict.fromkeys(gates.theta, 1.0)
    gates.remove_(1)
    net.to(torch.float64)
    expected = net.eval()(x.double())
    assert torch.equal(gates.finished()(x.double()), expected)


@pytest.mark.parametrize("remove", [True, False])
def test_a_unit_with_a_forward_of_its_own_gets_it_back(remove):
    net, x = Toy(3), torch.randn(2, 64)
    for block in net.blocks:
        block.forward = lambda h, block=block: 2 * type(block).forward(block, h)
    gates = Gates(net, find_units(net, x))
    gates.theta = dict.fromkeys(gates.theta, 1.0)
    if remove:
        gates.remove_(1)
    before = net.eval()(x)
    own = [block.forward for block in net.blocks]
    gates.finished()
    assert [block.forward for block in net.blocks] == own
    assert torch.equal(net(x), before)
