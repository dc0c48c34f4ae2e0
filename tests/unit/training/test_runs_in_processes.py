import pytest
import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from in_processes import in_processes
from shoal.errors import DataError
from shoal.training import ConcurrentPruner, FitSettings, train

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)).double()
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
STEPS = 24


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.relu(self.inner(x))


def network():
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(5)), nn.Linear(6, 3)).double()


def batches(size):
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, 64, size)]


def listed(net):
    return [value.tolist() for value in net.state_dict().values()]


def trained(size, epochs=6):
    """Plan and weights of a network trained on batches of so many samples."""
    settings = FitSettings(epochs=epochs, lr=0.05, optimizer="sgd", warmup=0.0)
    found = train(network(), batches(size), example=X[:1], budget="units=3", fit_settings=settings)
    return list(found.plan.removed), listed(found.model)


def share(number, size):
    return trained(size)


def too_few(number):
    return trained(64)


def own_loop(wrapped, net, number=0, count=1, spoilt=None):
    """When units left, and weights, after a loop in which each process has its part of each batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    pruner = ConcurrentPruner(net, X[:1], steps=STEPS, budget="units=3", optimizer=optimizer)
    for step in range(STEPS):
        x, y = (values[number::count] for values in batches(16)[step % 4])
        x = x * float("nan") if step == spoilt else x
        loss = cross_entropy(wrapped(x), y)
        loss.backward()
        pruner.step((x, y))
        optimizer.step()
        optimizer.zero_grad()
    return pruner.removed_at, listed(pruner.finish())


def own_loop_in_parallel(number, spoilt=None):
    distributed.init_process_group("gloo")
    net = network()
    wrapped = DistributedDataParallel(net, find_unused_parameters=True)
    return own_loop(wrapped, net, number, count=2, spoilt=2 if number == spoilt else None)


def assert_close(mine, whole):
    for one, other in zip(mine, whole, strict=True):
        assert torch.allclose(torch.tensor(one), torch.tensor(other), rtol=0, atol=1e-10)


def test_processes_train_what_one_trains_on_batches_as_large_as_theirs_together():
    main, other = in_processes(share, 8)
    alone = trained(16)
    assert main == other
    assert main[0] == alone[0]
    assert_close(main[1], alone[1])


def test_a_loop_of_ones_own_in_several_processes_is_that_of_one_on_their_batches_together():
    main, other = in_processes(own_loop_in_parallel)
    net = network()
    alone = own_loop(net, net)
    assert main == other
    assert main[0] == alone[0]
    assert len(main[0]) == 2
    assert max(main[0].values()) < STEPS
    assert_close(main[1], alone[1])


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_loss_that_is_not_finite_in_one_process_is_told_in_all(monkeypatch, spoilt):
    monkeypatch.setattr("in_processes.SECONDS", 20)
    for outcome in in_processes(own_loop_in_parallel, spoilt):
        assert isinstance(outcome, DataError), outcome
        assert "the loss of the batch is nan" in str(outcome)


def test_fewer_batches_than_processes_are_refused_in_all():
    for outcome in in_processes(too_few):
        assert "2 processes on 1 batches" in str(outcome)
