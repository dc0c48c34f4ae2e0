from copy import deepcopy
from itertools import combinations

import pytest
import torch
from torch import nn

from shoal import find_units
from shoal.errors import DataError
from shoal.importance import GraftSettings, graft_scores
from shoal.importance.graft import GraftHost

SUBSETS = list(combinations(range(4, 12), 4))


@pytest.fixture(autouse=True)
def other_weights(known_state):
    """The host draws its weights from seed 0, as every test does."""
    torch.manual_seed(1)


def images(count, classes=10):
    return torch.randn(count, 3, 8, 8), torch.randint(0, classes, (count,))


def vgg():
    layers = []
    for channels in (3, 8, 8, 8):
        layers += [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))
    for _ in range(3):
        model(torch.randn(16, 3, 8, 8))
    return model.eval()


@pytest.fixture
def resnet_chain(other_weights, small_resnet):
    return find_units(small_resnet, torch.zeros(1, 3, 8, 8))


def test_with_reset_all_candidates_differ_and_with_the_leak_only_five_do(cifar_resnet):
    model = cifar_resnet.CifarResNet((4, 4, 4)).eval()
    chain, batch = find_units(model, torch.zeros(1, 3, 8, 8)), images(64)
    scores = {
        leak: graft_scores(
            model, chain, [batch], SUBSETS, settings=GraftSettings(batches=1, legacy_leak=leak)
        )
        for leak in (False, True)
    }
    assert len(SUBSETS) == 70
    assert len(set(scores[False])) == 70
    assert len(set(scores[True])) == 5
    assert scores[True][0] == scores[False][0]


def test_with_reset_a_score_does_not_depend_on_the_order(small_resnet, resnet_chain):
    subsets = list(combinations(range(4), 2))
    batches = [images(16), images(16)]
    forward = graft_scores(small_resnet, resnet_chain, batches, subsets)
    backward = graft_scores(small_resnet, resnet_chain, batches, subsets[::-1])
    assert forward == backward[::-1]
    assert forward[2] == graft_scores(small_resnet, resnet_chain, batches, [subsets[2]])[0]


def test_the_host_is_bit_identical_after_a_reset(small_resnet, resnet_chain):
    host = GraftHost(small_resnet, resnet_chain, GraftSettings())
    before = deepcopy(host.host.state_dict())
    host.graft_([0, 4])
    host.host(torch.randn(8, 3, 8, 8)).sum().backward()
    assert not torch.equal(host.host.bn1.running_mean, before["bn1.running_mean"])
    host.reset_()
    assert all(torch.equal(value, before[name]) for name, value in host.host.state_dict().items())


def test_grafting_changes_just_the_grafted_units_to_the_trained_weights(small_resnet, resnet_chain):
    host = GraftHost(small_resnet, resnet_chain, GraftSettings())
    host.graft_([0, 4])
    trained, grafted = small_resnet.state_dict(), host.host.state_dict()
    for name, value in grafted.items():
        inside = name.startswith(("layer1.0.", "layer2.1."))
        assert torch.equal(value, trained[name] if inside else host.random[name])
    assert not torch.equal(grafted["layer1.0.conv1.weight"], host.random["layer1.0.conv1.weight"])


def test_grafting_a_plain_stack_changes_its_weights_and_its_score():
    model = vgg()
    chain = find_units(model, torch.zeros(1, 3, 8, 8))
    host = GraftHost(model, chain, GraftSettings())
    host.graft_([1])
    assert torch.equal(host.host[3].weight, model[3].weight)
    assert torch.equal(host.host[4].running_mean, model[4].running_mean)
    assert not torch.equal(host.host[6].weight, model[6].weight)
    batch = images(16)
    assert len(set(graft_scores(model, chain, [batch], [(), (1,), (2,), (1, 2)]))) == 4


def test_a_score_is_the_mean_norm_of_the_host_s_gradient_over_the_batches(small_resnet, resnet_chain):
    batches = [images(8), images(8)]
    host = GraftHost(small_resnet, resnet_chain, GraftSettings())
    host.graft_([1])
    norms = []
    for x, y in batches:
        host.host.zero_grad()
        nn.functional.cross_entropy(host.host(x), y).backward()
        norms.append(torch.cat([p.grad.flatten() for p in host.host.parameters()]).norm().item())
    (score,) = graft_scores(small_resnet, resnet_chain, batches, [[1]])
    assert score == pytest.approx(sum(norms) / 2, rel=1e-4)


@pytest.mark.parametrize("used", [1, 3])
def test_batches_are_taken_in_turn_until_there_are_enough(small_resnet, resnet_chain, used):
    batches = [images(8), images(8)]
    settings = GraftSettings(batches=used)
    found = graft_scores(small_resnet, resnet_chain, batches, [[1]], settings=settings)
    again = graft_scores(small_resnet, resnet_chain, [*batches, *batches][:used], [[1]], settings=settings)
    assert found == pytest.approx(again)


def test_no_subsets_have_no_scores(small_resnet, resnet_chain):
    assert graft_scores(small_resnet, resnet_chain, [images(8)], []) == []


def test_the_seed_decides_the_host(small_resnet, resnet_chain):
    batch = images(8)
    first, same, other = (
        graft_scores(small_resnet, resnet_chain, [batch], [[1]], settings=GraftSettings(seed=seed))
        for seed in (0, 0, 1)
    )
    assert first == same != other


def test_text_is_scored_by_its_next_tokens(small_llama):
    chain = find_units(small_llama)
    batch = {"input_ids": torch.randint(0, 64, (4, 12))}
    scores = graft_scores(small_llama, chain, [batch], [(0,), (1,), (0, 1, 2, 3, 4)])
    assert len(set(scores)) == 3
    assert min(scores) > 0


def test_the_model_and_the_random_state_are_left_as_they_were(small_resnet, resnet_chain):
    before, batch = deepcopy(small_resnet.state_dict()), images(8)
    random = torch.get_rng_state()
    graft_scores(small_resnet, resnet_chain, [batch], [(0,), (1,)])
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in small_resnet.state_dict().items())
    assert all(p.grad is None for p in small_resnet.parameters())
    assert not small_resnet.training


def test_data_without_a_loss_is_refused(small_resnet, resnet_chain):
    with pytest.raises(DataError, match="asked for graft scores: they need labels, text, or loss="):
        graft_scores(small_resnet, resnet_chain, [torch.randn(4, 3, 8, 8)], [[1]])
