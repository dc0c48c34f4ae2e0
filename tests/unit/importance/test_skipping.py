import math
from itertools import combinations

import pytest
import torch
from torch import nn

from networks import llama
from shoal import Plan, apply, find_units
from shoal.architectures import bypassed
from shoal.errors import DataError
from shoal.importance import SkipLosses
from shoal.journal import Journal
from shoal.measurement import evaluate_quality
from shoal.units import Segment


@pytest.fixture
def batches():
    return [(torch.randn(6, 3, 8, 8), torch.randint(0, 10, (6,))) for _ in range(2)]


@pytest.fixture
def resnet_chain(small_resnet):
    return find_units(small_resnet, torch.zeros(1, 3, 8, 8))


def random_sets(chain, count=12):
    every = [units for size in range(len(chain)) for units in combinations(chain.removable, size)]
    return [every[at] for at in torch.randperm(len(every))[:count].tolist()]


def true_loss(model, batches):
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model(x), y, reduction="none") for x, y in batches]
    return torch.cat(losses).double().mean().item()


def test_it_is_the_loss_of_the_network_from_which_the_units_are_really_removed(
    small_resnet, resnet_chain, batches
):
    sets = [(), resnet_chain.removable, *random_sets(resnet_chain)]
    found = SkipLosses(small_resnet, resnet_chain, batches).of(sets)
    for units, loss in zip(sets, found, strict=True):
        small = apply(small_resnet, Plan.removing(resnet_chain, units))
        assert loss == pytest.approx(true_loss(small, batches), rel=1e-5)


def test_it_is_the_loss_of_the_really_shorter_language_model(small_llama):
    ids = torch.randint(0, 64, (4, 10))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    chain = find_units(small_llama)
    batch = {"input_ids": ids, "attention_mask": mask}
    sets = [(), (0, 1, 2, 3), *random_sets(chain)]
    for units, loss in zip(sets, SkipLosses(small_llama, chain, [batch]).of(sets), strict=True):
        small = apply(small_llama, Plan.removing(chain, units))
        with torch.no_grad():
            logits = small(**batch).logits[:, :-1].transpose(1, 2)
        tokens = nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none")
        counted = (mask[:, 1:] * mask[:, :-1]).float()
        expected = ((tokens * counted).sum() / counted.sum()).item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_batches_count_by_their_samples(small_resnet, resnet_chain, batches):
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    uneven = [(x[:2], y[:2]), (x[2:], y[2:])]
    expected = SkipLosses(small_resnet, resnet_chain, batches)([1])
    assert SkipLosses(small_resnet, resnet_chain, uneven)([1]) == pytest.approx(expected, rel=1e-5)


def test_units_before_the_first_removed_one_are_computed_once_a_batch(small_resnet, resnet_chain, batches):
    calls = dict.fromkeys(range(len(resnet_chain)), 0)

    def count(index):
        return lambda *args: calls.__setitem__(index, calls[index] + 1)

    for unit in resnet_chain:
        small_resnet.get_submodule(f"{unit.name}.conv1").register_forward_hook(count(unit.index))
    SkipLosses(small_resnet, resnet_chain, batches).of([(), (4,), (7, 8), (5, 7)])
    # Twice the whole network, then what follows the first removed unit and is not removed itself.
    after = [0, 0, 0, 0, 0, 1, 2, 1, 2]
    assert list(calls.values()) == [2 + 2 * times for times in after]


def test_every_set_is_measured_once(small_resnet, resnet_chain, batches):
    losses = SkipLosses(small_resnet, resnet_chain, batches)
    first = losses.of([(1, 4), (), (4, 1), [4, 4, 1]])
    assert losses.measured == 2
    assert first[0] == first[2] == first[3] == losses([4, 1])
    assert first[1] == losses()
    assert losses.measured == 2


def test_nothing_asked_is_nothing_measured(small_resnet, resnet_chain, batches):
    losses = SkipLosses(small_resnet, resnet_chain, batches)
    assert losses.of([]) == []
    assert losses.measured == 0


def test_what_the_journal_holds_is_not_measured_again(tmp_path, small_resnet, resnet_chain, batches):
    path, sets = tmp_path / "journal.jsonl", random_sets(resnet_chain, 30)
    first = SkipLosses(small_resnet, resnet_chain, batches, journal=Journal(path), key="a")
    found = first.of(sets[:20])
    assert first.measured == 20
    again = SkipLosses(small_resnet, resnet_chain, batches, journal=Journal(path), key="a")
    assert again.of(sets)[:20] == found
    assert again.measured == 10
    other = SkipLosses(small_resnet, resnet_chain, batches, journal=Journal(path), key="b")
    other.of(sets[:3])
    assert other.measured == 3


def test_a_failure_loses_one_piece_of_the_work_at_most(tmp_path, small_resnet, resnet_chain, batches):
    path, sets = tmp_path / "journal.jsonl", random_sets(resnet_chain, 60)
    calls = []

    def loss(outputs, labels):
        calls.append(1)
        if len(calls) > 2 * 30:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, labels)

    with pytest.raises(KeyboardInterrupt):
        SkipLosses(small_resnet, resnet_chain, batches, loss=loss, journal=Journal(path)).of(sets)
    assert len(Journal(path)) == 24


def test_the_model_is_left_as_it_was_found(small_resnet, resnet_chain, batches):
    small_resnet.train()
    before = {name: value.clone() for name, value in small_resnet.state_dict().items()}
    random = torch.get_rng_state()
    SkipLosses(small_resnet, resnet_chain, batches).of([(), (1,), (4, 5)])
    assert torch.equal(torch.get_rng_state(), random)
    assert small_resnet.training
    assert all(torch.equal(value, before[name]) for name, value in small_resnet.state_dict().items())
    assert not any("forward" in vars(module) or module._forward_hooks for module in small_resnet.modules())


def test_costs_of_units_and_runs_are_what_the_loss_rises(small_resnet, resnet_chain, batches):
    losses = SkipLosses(small_resnet, resnet_chain, batches)
    units, table = losses.units(), losses.runs(2)
    for index in range(len(resnet_chain)):
        if resnet_chain[index].removable:
            assert units[index] == losses([index]) - losses()
            assert table[Segment(index, index + 1)] == units[index]
        else:
            assert units[index] == math.inf
            assert Segment(index, index + 1) not in table
    assert table[Segment(0, 2)] == losses([0, 1]) - losses()
    estimated = table[Segment(0, 2)] + table[Segment(1, 3)] - table[Segment(1, 2)]
    assert table[Segment(0, 3)] == pytest.approx(estimated)
    assert Segment(2, 5) not in table


def test_a_unit_without_which_the_loss_overflows_costs_infinitely_much_and_stays():
    model = nn.Sequential(
        *(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)), nn.Linear(4, 2)
    ).eval()
    chain = find_units(model, torch.zeros(1, 4))
    x = torch.randn(4, 4)
    model[1][0].weight.data.zero_()
    model[2][0].weight.data.fill_(3e38)
    losses = SkipLosses(model, chain, [(x, torch.zeros(4, dtype=torch.long))])
    assert losses.units()[1] == math.inf
    assert math.isfinite(losses.units()[2])
    assert Segment(1, 2) not in losses.runs(1)
    assert Segment(2, 3) in losses.runs(1)


def test_a_network_whose_own_loss_is_not_finite_is_refused(small_resnet, resnet_chain, batches):
    small_resnet.linear.bias.data[0] = float("nan")
    with pytest.raises(DataError, match="beside that of the whole network, which is inf"):
        SkipLosses(small_resnet, resnet_chain, batches).units()


def test_data_without_a_loss_is_refused(small_resnet, resnet_chain, batches):
    with pytest.raises(DataError, match="no labels and the model is no language model"):
        SkipLosses(small_resnet, resnet_chain, [x for x, _ in batches])()


def test_no_batches_are_refused(small_resnet, resnet_chain):
    with pytest.raises(DataError, match="the data is empty"):
        SkipLosses(small_resnet, resnet_chain, [])


def test_text_is_averaged_over_tokens_as_it_is_judged():
    model, _ = llama()
    ids, mask = torch.randint(0, 64, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, 4:] = 0
    batches = [{"input_ids": ids[:2], "attention_mask": mask[:2]}, {"input_ids": ids[2:]}]
    chain = find_units(model, batches[1])
    losses = SkipLosses(model, chain, batches)
    assert losses() == pytest.approx(evaluate_quality(model, batches)["loss"])
    with bypassed(model, chain, [1]):
        assert losses([1]) == pytest.approx(evaluate_quality(model, batches)["loss"])
