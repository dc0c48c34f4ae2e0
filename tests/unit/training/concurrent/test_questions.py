from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from gated import Toy
from shoal import find_units
from shoal.architectures import bypassed
from shoal.errors import ConfigError, DataError
from shoal.training.concurrent.compute import forward_macs
from shoal.training.concurrent.gates import Gates
from shoal.training.concurrent.questions import Questions
from shoal.training.concurrent.settings import ConcurrentSettings

X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8)


def asking(loss=None, **settings):
    torch.manual_seed(0)
    net = Toy(6)
    gates = Gates(net, find_units(net, X[:1]))
    net.train()
    return net, gates, Questions(gates, ConcurrentSettings(**settings), loss)


@pytest.mark.parametrize("number", [1, 3, 6, 9])
def test_so_many_units_are_asked_each_once(number):
    net, gates, questions = asking()
    gates.theta[2] = 1.0
    net(X)
    assert len(questions.ask((X, Y), number)) == min(number, 6)
    assert sorted(questions.ask((X, Y), 6)) == list(range(6))


@pytest.mark.parametrize(("revisit", "low", "high"), [(0.0, 0, 0), (0.3, 60, 120), (1.0, 300, 300)])
def test_units_whose_gates_are_open_are_asked_now_and_then(revisit, low, high):
    net, gates, questions = asking(revisit=revisit)
    gates.theta |= {0: 1.0, 1: 1.0}
    net(X)
    asked = Counter(index for _ in range(300) for index in questions._chosen(1))
    assert low <= asked[0] + asked[1] <= high
    assert sum(asked.values()) == 300


def test_all_open_gates_are_asked_where_none_is_undecided():
    net, gates, questions = asking(revisit=0.0)
    gates.theta = dict.fromkeys(gates.theta, 1.0)
    net(X)
    assert len(questions.ask((X, Y), 1)) == 1


def test_what_questions_cost_is_counted():
    net, gates, questions = asking()
    net(X)
    gains = questions.ask((X, Y), 6)
    expected = sum(forward_macs(gates.chain, gates.off ^ {index}, start=index) for index in gains)
    assert questions.macs == expected > 0


def test_the_same_units_are_asked_again_after_a_state_is_taken_up():
    _net, _gates, questions = asking(seed=3)
    state = questions.state()
    first = [questions._chosen(1) for _ in range(9)]
    questions.restore_(state)
    assert [questions._chosen(1) for _ in range(9)] == first


def test_a_loss_of_the_users_own_is_asked():
    net, gates, questions = asking(loss=lambda outputs, labels: F.cross_entropy(outputs, labels["class"]))
    net(X)
    given = questions.ask((X, {"class": Y}), 6)
    usual = Questions(gates, ConcurrentSettings()).ask((X, Y), 6)
    assert given == pytest.approx(usual, abs=1e-6)


def test_batches_that_say_nothing_are_refused():
    net, _gates, questions = asking()
    with pytest.raises(ConfigError, match="was not called in training mode"):
        questions.ask((X, Y), 1)
    net(X)
    with pytest.raises(DataError, match="nothing to compute a loss from"):
        questions.ask(X, 1)
    net(X * float("nan"))
    with pytest.raises(DataError, match="the loss of the batch is nan. Nothing was removed"):
        questions.ask((X, Y), 1)


def test_a_hook_of_the_users_own_counts_once():
    net, gates, questions = asking()
    gates.close()
    net.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    gates = Gates(net, find_units(net, X[:1]), start=0.999)
    questions = Questions(gates, ConcurrentSettings())
    loss = F.cross_entropy(net(X), Y).item()
    with bypassed(net, gates.chain, [0, *gates.off]), torch.no_grad(), gates.aside():
        without = F.cross_entropy(net(X), Y).item()
    assert questions.ask((X, Y), 6)[0] == pytest.approx(without - loss, abs=1e-6)
