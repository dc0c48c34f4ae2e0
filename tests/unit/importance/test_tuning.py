from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shoal.errors import ConfigError, DataError
from shoal.importance.prefixes import Cut, CutBatches
from shoal.importance.tuning import tune_
from shoal.training import FitSettings

SETTINGS = FitSettings(max_steps=4, optimizer="sgd", lr=0.05, warmup=0.0, clip=None)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()


def batches_for(net, count=3, labels=True, size=6):
    generator = torch.Generator().manual_seed(1)
    data = [
        (torch.randn(size, 3, generator=generator), torch.arange(size) % 2 if labels else None)
        for _ in range(count)
    ]
    return CutBatches(Cut(net), data, net, 0)


def state_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(mine, theirs):
    return all(torch.equal(value, theirs[name]) for name, value in mine.items())


def mean_loss(net, batches):
    with torch.no_grad():
        return sum(F.cross_entropy(net(x), y).item() for x, y in batches) / len(batches)


def test_training_lowers_the_loss_and_leaves_modes_and_random_state_alone():
    net = network()
    batches, random = batches_for(net), torch.get_rng_state()
    before = mean_loss(net, batches)
    tune_(net, batches, replace(SETTINGS, max_steps=30))
    assert mean_loss(net, batches) < before - 0.02
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("steps", [0, None])
def test_no_steps_change_nothing(steps):
    net = network()
    before = state_of(net)
    tune_(net, batches_for(net), replace(SETTINGS, max_steps=steps))
    assert same(before, net.state_dict())


def test_without_weights_that_may_be_trained_nothing_changes():
    net = network().requires_grad_(False)
    before = state_of(net)
    tune_(net, batches_for(net), SETTINGS)
    assert same(before, net.state_dict())


@pytest.mark.parametrize(("count", "steps"), [(1, 3), (3, 1), (3, 3), (2, 5)])
def test_batches_come_in_an_order_that_is_drawn_each_once_before_all_come_again(count, steps):
    seen = []

    def noted(outputs, labels):
        seen.append(int(labels[0]))
        return F.cross_entropy(outputs, labels % 2, reduction="none")

    net = network()
    data = [(torch.randn(4, 3), torch.full((4,), number)) for number in range(count)]
    for _ in range(2):
        tune_(net, CutBatches(Cut(net), data, net, 0), replace(SETTINGS, max_steps=steps), loss=noted)
    assert seen[:steps] == seen[steps:]
    for start in range(0, steps, count):
        part = seen[start : min(start + count, steps)]
        assert len(set(part)) == len(part)


def test_the_same_seed_trains_alike_what_draws_at_random():
    found = []
    for number in range(2):
        net = network()
        net.append(nn.Dropout(0.5))
        torch.manual_seed(number)
        tune_(net, batches_for(net), SETTINGS)
        found.append(state_of(net))
    assert same(*found)


def test_with_the_teacher_alone_labels_do_not_matter():
    found = []
    for turned in (False, True):
        net, teacher = network(), network()
        with torch.no_grad():
            teacher[3].weight.add_(1.0)
        data = [(x, 1 - y if turned else y) for x, y in batches_for(net)]
        batches = CutBatches(Cut(net), data, net, 0)
        before, given = state_of(net), state_of(teacher)
        tune_(net, batches, SETTINGS, teacher=teacher, distil=1.0)
        assert same(given, teacher.state_dict())
        assert not same(before, net.state_dict())
        found.append(state_of(net))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


def test_a_teacher_of_no_weight_is_none():
    found = []
    for teacher in (None, network()):
        net = network()
        tune_(net, batches_for(net), SETTINGS, teacher=teacher, distil=0.0)
        found.append(state_of(net))
    assert same(*found)


def test_a_loss_that_is_no_number_is_refused_and_modes_are_left_alone():
    net = network()
    with pytest.raises(
        DataError, match=r"asked to tune: at step 0 \(from 0\) the loss is nan with .* lower lr"
    ):
        tune_(net, batches_for(net), SETTINGS, loss=lambda outputs, labels: outputs.sum(1) * float("nan"))
    assert not any(module.training for module in net.modules())


def test_outputs_without_a_loss_are_refused():
    net = network()
    with pytest.raises(DataError, match="outputs of type Tensor: there is nothing to compute a loss from"):
        tune_(net, batches_for(net, labels=False), SETTINGS)


def test_weights_in_half_precision_are_refused():
    net = network().half()
    with pytest.raises(ConfigError, match="with weights in float16"):
        tune_(net, batches_for(network()), SETTINGS)
