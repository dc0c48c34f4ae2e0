import math

import pytest
import torch
from torch import nn

from shoal.errors import DataError
from shoal.training.batchnorm import recalibrate_, untouched_statistics


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1))


def batch(samples: int, seed: int = 0) -> torch.Tensor:
    return 5 + 2 * torch.randn(samples, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [1, 16])
def test_one_batch_gives_its_exact_statistics(net, samples):
    x = batch(samples)
    assert recalibrate_(net, [x]) == 1
    values = net[0](x).detach().movedim(1, 0).flatten(1)
    torch.testing.assert_close(net[1].running_mean, values.mean(dim=1))
    torch.testing.assert_close(net[1].running_var, values.var(dim=1))


def test_many_batches_give_the_average_of_theirs(net):
    batches = [(batch(8, seed), torch.zeros(8)) for seed in range(5)]
    assert recalibrate_(net, batches) == 5
    values = [net[0](x).detach().movedim(1, 0).flatten(1) for x, _ in batches]
    torch.testing.assert_close(net[1].running_mean, torch.stack([v.mean(dim=1) for v in values]).mean(dim=0))
    torch.testing.assert_close(net[1].running_var, torch.stack([v.var(dim=1) for v in values]).mean(dim=0))
    assert net[1].num_batches_tracked == 5


@pytest.mark.parametrize(("most", "used"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_it_stops_after_the_most_batches(net, most, used):
    assert recalibrate_(net, [batch(4, seed) for seed in range(3)], most_batches=most) == used


def test_a_network_without_batch_norms_is_left_alone():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert recalibrate_(net, []) == 0


@pytest.mark.parametrize("training", [True, False])
def test_only_the_statistics_change(net, training):
    net.train(training)
    net[2].train(not training)
    weights = [parameter.clone() for parameter in net.parameters()]
    state = torch.get_rng_state()
    recalibrate_(net, [batch(4)])
    assert [module.training for module in net] == [training, training, not training, training]
    assert net[1].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_norm_that_nothing_reaches_keeps_its_statistics():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    net[1].aside = nn.BatchNorm1d(2)
    net[1].aside.running_mean.fill_(3.0)
    recalibrate_(net, [torch.randn(4, 2)])
    assert net[1].aside.running_mean.tolist() == [3.0, 3.0]
    assert not torch.equal(net[0].running_mean, torch.zeros(2))


def test_a_batch_with_one_value_a_channel_is_refused_and_changes_nothing():
    net = nn.Sequential(nn.BatchNorm1d(2))
    with pytest.raises(
        DataError, match=r"batch 1 \(from 0\): it has one value per channel.* another batch size"
    ):
        recalibrate_(net, [torch.randn(4, 2), torch.randn(1, 2)])
    assert torch.equal(net[0].running_mean, torch.zeros(2))
    assert (net[0].momentum, int(net[0].num_batches_tracked)) == (0.1, 0)


def test_statistics_that_are_not_finite_are_refused_and_change_nothing(net):
    x = batch(4)
    x[0, 0, 0, 0] = math.inf
    with pytest.raises(DataError, match="3 channels: its statistics are not finite"):
        recalibrate_(net, [x])
    assert torch.equal(net[1].running_var, torch.ones(3))


def test_no_batches_are_refused(net):
    with pytest.raises(DataError, match="the data is empty"):
        recalibrate_(net, [])


def test_another_error_of_the_network_is_its_own(net):
    with pytest.raises(RuntimeError, match="expected input"):
        recalibrate_(net, [torch.randn(4, 7, 4, 4)])


@pytest.mark.parametrize("training", [True, False])
def test_untouched_statistics_stay_while_batches_are_normed_as_before(net, training):
    net.train(training)
    net[2].eval()
    x = batch(4)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with untouched_statistics(net):
        found = net(x)
    assert all(torch.equal(before[name], buffer) for name, buffer in net.named_buffers())
    assert torch.equal(net(x), found)
    # From here on they follow again.
    assert (int(net[1].num_batches_tracked) == 1) == training


def test_untouched_statistics_leave_frozen_norms_and_those_without_any_as_they_are():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    net[0].running_mean.fill_(3.0)
    net[0].eval()
    x = torch.randn(4, 2)
    with untouched_statistics(net):
        found = net(x)
        assert [norm.track_running_stats for norm in net] == [True, False, False]
    assert [norm.track_running_stats for norm in net] == [True, False, True]
    assert [norm.training for norm in net] == [False, True, True]
    assert torch.equal(net(x), found)


def test_statistics_are_followed_again_after_an_error(net):
    with pytest.raises(ZeroDivisionError), untouched_statistics(net):
        1 / 0  # noqa: B018
    assert net[1].track_running_stats
