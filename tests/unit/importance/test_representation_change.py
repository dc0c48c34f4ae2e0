import math
from itertools import combinations

import pytest
import torch
from torch import nn

from by_hand import arriving
from networks import NETWORKS, llama
from shoal import Plan, apply, find_units
from shoal.errors import ConfigError, DataError
from shoal.importance import ChangeSettings, RepresentationChange
from shoal.journal import Journal
from shoal.similarity import linear_cka, unbiased_linear_cka

CKA = {"biased": linear_cka, "unbiased": unbiased_linear_cka}


@pytest.fixture
def batches():
    return [torch.randn(12, 3, 8, 8), torch.randn(7, 3, 8, 8)]


@pytest.fixture
def resnet_chain(small_resnet):
    return find_units(small_resnet, torch.zeros(1, 3, 8, 8))


def random_sets(chain, count=8):
    every = [units for size in range(len(chain)) for units in combinations(chain.removable, size)]
    return [every[at] for at in torch.randperm(len(every))[:count].tolist()]


@pytest.mark.parametrize("estimator", CKA)
def test_every_candidate_is_as_in_a_run_of_the_whole_network_with_all_features_in_memory(
    small_resnet, resnet_chain, batches, estimator
):
    sets = [(), *((index,) for index in resnet_chain.removable), resnet_chain.removable]
    change = RepresentationChange(
        small_resnet, resnet_chain, batches, settings=ChangeSettings(estimator=estimator)
    )
    whole = arriving(small_resnet, resnet_chain, batches, ())
    for units, found in zip(sets, change.of(sets), strict=True):
        features = arriving(small_resnet, resnet_chain, batches, units)
        assert found == pytest.approx(1 - CKA[estimator](whole, features).item(), abs=1e-6)


def test_the_reference_may_be_the_network_without_some_units(small_resnet, resnet_chain, batches):
    gone, sets = (1, 4), [(1, 4), (1, 4, 5), (0, 1, 4), (2,)]
    reference = arriving(small_resnet, resnet_chain, batches, gone)
    change = RepresentationChange(small_resnet, resnet_chain, batches)
    found = change.of(sets, reference=gone)
    expected = [
        1 - unbiased_linear_cka(reference, arriving(small_resnet, resnet_chain, batches, units)).item()
        for units in sets
    ]
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert change.of(sets) != found


def test_it_is_that_of_the_network_from_which_the_units_are_really_removed(
    small_resnet, resnet_chain, batches
):
    whole = arriving(small_resnet, resnet_chain, batches, ())
    sets = random_sets(resnet_chain)
    found = RepresentationChange(small_resnet, resnet_chain, batches).of(sets)
    for units, change in zip(sets, found, strict=True):
        small = apply(small_resnet, Plan.removing(resnet_chain, units))
        features = arriving(small, find_units(small, batches[0][:1]), batches, ())
        assert change == pytest.approx(1 - unbiased_linear_cka(whole, features).item(), abs=1e-5)


def test_it_may_be_compared_with_another_network(small_resnet, resnet_chain, batches):
    small = apply(small_resnet, Plan.removing(resnet_chain, [1]))
    chain = find_units(small, batches[0][:1])
    found = RepresentationChange(small, chain, batches, against=(small_resnet, resnet_chain)).of([(), (3,)])
    expected = RepresentationChange(small_resnet, resnet_chain, batches).of([(1,), (1, 4)])
    assert found == pytest.approx(expected, abs=1e-6)


def test_units_before_a_candidate_are_computed_once_a_batch(small_resnet, resnet_chain, batches):
    calls = dict.fromkeys(range(len(resnet_chain)), 0)

    def count(index):
        return lambda *args: calls.__setitem__(index, calls[index] + 1)

    change = RepresentationChange(small_resnet, resnet_chain, batches[:1])
    change.of([()])
    for unit in resnet_chain:
        small_resnet.get_submodule(f"{unit.name}.conv1").register_forward_hook(count(unit.index))
    change.of([(index,) for index in resnet_chain.removable])
    # The whole network, then of every candidate what follows it.
    after = [sum(other < unit.index for other in resnet_chain.removable) for unit in resnet_chain]
    assert list(calls.values()) == [1 + times for times in after]


def test_values_stay_with_their_sets_in_whatever_order_they_are_asked_for(
    small_resnet, resnet_chain, batches
):
    sets = [(index,) for index in resnet_chain.removable]
    ordered = dict(zip(sets, RepresentationChange(small_resnet, resnet_chain, batches).of(sets), strict=True))
    shuffled = [sets[at] for at in torch.randperm(len(sets)).tolist()]
    again = RepresentationChange(small_resnet, resnet_chain, batches).of(shuffled)
    assert dict(zip(shuffled, again, strict=True)) == ordered
    assert len(set(ordered.values())) == len(sets)


def test_how_samples_lie_in_batches_does_not_matter(small_resnet, resnet_chain, batches):
    whole = torch.cat(batches)
    sets, mixed = random_sets(resnet_chain), whole[torch.randperm(len(whole))]
    expected = RepresentationChange(small_resnet, resnet_chain, batches).of(sets)
    others = [[whole], list(mixed.split(5)), list(whole.split(1))]
    for other in others:
        found = RepresentationChange(small_resnet, resnet_chain, other).of(sets)
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("settings", [ChangeSettings(), ChangeSettings(exact=0, minibatch=6)])
def test_of_text_every_token_drawn_counts_at_one_scale_but_for_padding_and_the_first(settings):
    pytest.importorskip("transformers")
    model, inputs = llama()
    chain = find_units(model, inputs)
    states = {}
    for removed in ((), (0,), (3,), (1, 2)):
        tokens = arriving(model, chain, [inputs], removed, "lm_head")[inputs["attention_mask"].bool()]
        states[removed] = nn.functional.normalize(torch.cat([tokens[1:9], tokens[10:]]))
    found = RepresentationChange(model, chain, [inputs], settings=settings).of(list(states))
    for removed, change in zip(states, found, strict=True):
        expected = 1 - unbiased_linear_cka(states[()], states[removed]).item()
        # Two minibatches of 6 are no more than like the whole.
        assert change == pytest.approx(expected, abs=1e-6 if settings.exact else 0.1)


def test_tokens_are_drawn_by_the_seed_and_are_the_same_in_every_run():
    model, x = NETWORKS["listed"]()
    chain, sets = find_units(model, x), [(0,), (1, 2), (3,)]

    def measured(seed, sets):
        change = RepresentationChange(model, chain, [x, 2 * x], settings=ChangeSettings(tokens=6, seed=seed))
        return change.of(sets)

    first = measured(0, sets)
    assert measured(0, sets[::-1]) == first[::-1]
    assert [measured(0, [units])[0] for units in sets] == first
    assert measured(1, sets) != first


def test_other_tokens_are_drawn_from_every_batch():
    model, x = NETWORKS["listed"]()
    chain, settings = find_units(model, x), ChangeSettings(tokens=6, estimator="biased")
    once, twice = (RepresentationChange(model, chain, [x] * n, settings=settings).of([(1,)]) for n in (1, 2))
    assert twice != pytest.approx(once)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_make_of_network_can_be_compared_with_itself(name):
    model, x = NETWORKS[name]()
    chain = find_units(model, x)
    change = RepresentationChange(model, chain, [x], settings=ChangeSettings(estimator="biased"))
    found = change.of([(), *((index,) for index in chain.removable)])
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert all(0 <= each <= 1 for each in found)


def test_low_precision_is_near_full_precision(small_llama):
    batch = {"input_ids": torch.randint(0, 64, (4, 12))}
    chain = find_units(small_llama)
    sets = [(index,) for index in chain.removable]
    expected = RepresentationChange(small_llama, chain, [batch]).of(sets)
    found = RepresentationChange(small_llama.bfloat16(), chain, [batch]).of(sets)
    assert found == pytest.approx(expected, abs=0.02)


def test_every_set_is_measured_once_and_kept_in_the_journal(tmp_path, small_resnet, resnet_chain, batches):
    path, sets = tmp_path / "journal.jsonl", [(1,), (4,), (1, 4)]
    change = RepresentationChange(small_resnet, resnet_chain, batches, journal=Journal(path), key="a")
    found = change.of([*sets, (4, 1)])
    assert found[2] == found[3]
    assert change.of(sets[:2]) == found[:2]
    assert change.measured == 3
    assert change.of([]) == []
    again = RepresentationChange(small_resnet, resnet_chain, batches, journal=Journal(path), key="a")
    assert again.of(sets) == found[:3]
    assert again.measured == 0


@pytest.mark.parametrize("other", ["key", "settings", "against", "reference"])
def test_nothing_is_taken_from_the_journal_that_was_measured_otherwise(
    small_resnet, resnet_chain, batches, other
):
    journal = Journal()
    fields = {"settings": ChangeSettings(), "against": None, "journal": journal, "key": "a"}
    RepresentationChange(small_resnet, resnet_chain, batches, **fields).of([(1,)])
    changed = {
        "key": "b",
        "settings": ChangeSettings(estimator="biased"),
        "against": (small_resnet, resnet_chain),
    }
    fields |= {name: value for name, value in changed.items() if name == other}
    change = RepresentationChange(small_resnet, resnet_chain, batches, **fields)
    change.of([(1,)], reference=[4] if other == "reference" else [])
    assert change.measured == 1


def test_the_model_is_left_as_it_was_found(small_resnet, resnet_chain, batches):
    small_resnet.train()
    before = {name: value.clone() for name, value in small_resnet.state_dict().items()}
    random = torch.get_rng_state()
    RepresentationChange(small_resnet, resnet_chain, batches).of([(1,), (4, 5)])
    assert torch.equal(torch.get_rng_state(), random)
    assert small_resnet.training
    assert all(torch.equal(value, before[name]) for name, value in small_resnet.state_dict().items())
    hooked = [m for m in small_resnet.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooked
    assert not any("forward" in vars(module) for module in small_resnet.modules())


def test_a_network_that_overflows_without_a_unit_is_changed_infinitely():
    layers = [nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()) for _ in range(3)]
    model = nn.Sequential(*layers, nn.Linear(4, 2)).eval()
    for layer, scale in zip(layers, (1e-30, 1e30, 1e10), strict=True):
        layer[0].weight.data = scale * torch.eye(4)
    chain = find_units(model, torch.zeros(1, 4))
    change = RepresentationChange(model, chain, [torch.randn(8, 4), torch.randn(8, 4)])
    assert change.of([(0,), (1,), (2,)]) == [math.inf, pytest.approx(0), pytest.approx(0)]


def test_a_representation_without_signal_is_refused(small_resnet, resnet_chain):
    with pytest.raises(DataError, match="on 8 samples the reference puts out no more than noise"):
        RepresentationChange(small_resnet, resnet_chain, [torch.zeros(8, 3, 8, 8)]).of([(1,)])


def test_a_representation_that_is_not_finite_is_refused(small_resnet, resnet_chain, batches):
    small_resnet.bn1.bias.data[0] = float("nan")
    with pytest.raises(DataError, match="of which 0 is the reference, are not finite"):
        RepresentationChange(small_resnet, resnet_chain, batches).of([(1,)])


def test_too_few_samples_are_refused(small_resnet, resnet_chain):
    with pytest.raises(DataError, match="4 or more samples, and 3 could be compared"):
        RepresentationChange(small_resnet, resnet_chain, [torch.randn(3, 3, 8, 8)]).of([(1,)])
    with pytest.raises(DataError, match="the data is empty"):
        RepresentationChange(small_resnet, resnet_chain, [])


def test_batches_that_do_not_come_to_the_head_are_refused():
    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.blocks(x) if len(x) == 5 else self.head(self.blocks(x))

    model = Turning()
    chain = find_units(model, torch.zeros(1, 4))
    with pytest.raises(DataError, match="of Turning: nothing arrives at head on batch 1"):
        RepresentationChange(model, chain, [torch.randn(8, 4), torch.randn(5, 4)]).of([(1,)])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"minibatch": 3}, "unbiased CKA with minibatch=3: 4 or more works"),
        ({"tokens": 1, "estimator": "biased"}, "biased CKA with tokens=1: 2 or more works"),
        ({"exact": -1}, "unbiased CKA with exact=-1: 0 or more works"),
    ],
)
def test_settings_that_do_not_work_are_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        ChangeSettings(**fields)
