"""CKA layer pruning with healing between the rounds."""

import math
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from by_hand import arriving, next_unit, request_for
from networks import NETWORKS
from shoal import Plan, apply, compress, find_units
from shoal.errors import DataError
from shoal.importance import ChangeSettings
from shoal.journal import Journal
from shoal.methods.cka import CKASettings, choose
from shoal.similarity import linear_cka
from shoal.tables import LatencyTable
from shoal.training import HealSettings, heal

EXAMPLE = torch.zeros(1, 3, 8, 8)
BIASED = ChangeSettings(estimator="biased")
SHORT = HealSettings(max_steps=3, optimizer="sgd", lr=0.05, recalibrate_batches=2, checkpoint_every=1)


def test_each_round_compares_with_the_network_that_healing_has_left(ask_images):
    request = ask_images("units=7")
    model, chain, batches = request.model, request.chain, request.batches
    settings = CKASettings(similarity=BIASED, reference="current", heal=replace(SHORT, distil=0.0))
    plan = choose(request, settings)
    kept = arriving(model, chain, batches)
    first, _ = next_unit(model, chain, batches, [], kept, linear_cka)
    step = Plan.removing(chain, [first])
    healed = heal(apply(model, step), batches, settings=settings.heal)
    shorter = find_units(healed, EXAMPLE)
    place = {new: old for old, new in step.index_map.items()}
    kept = arriving(healed, shorter, batches)
    second, change = next_unit(healed, shorter, batches, [], kept, linear_cka)
    last = heal(apply(healed, Plan.removing(shorter, [second])), batches, settings=settings.heal)
    assert plan.predicted["order"] == [first, place[second]]
    assert plan.predicted["changes"][1] == pytest.approx(change, abs=1e-6)
    for name, value in request.shallower.state_dict().items():
        assert torch.equal(value, last.state_dict()[name]), name


@pytest.mark.parametrize(
    ("name", "reference"),
    [("residual", "current"), ("vgg", "original"), ("attributes", "original"), ("mlp", "current")],
)
def test_what_healing_leaves_is_the_network_of_the_plan(name, reference):
    model, x = NETWORKS[name]()
    x = torch.randn(8, *x.shape[1:])
    count = len(find_units(model, x).removable) - 1
    request = request_for(model, [(x, torch.randint(0, 4, (8,)))], removing=count, example=x)
    plan = choose(request, CKASettings(reference=reference, heal=SHORT))
    found, expected = request.shallower.state_dict(), apply(model, plan).state_dict()
    assert len(plan.removed) == count
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    assert not all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_language_model_is_healed_on_the_way_and_handed_back(small_llama):
    batches = [{"input_ids": torch.randint(0, 64, (4, 12))} for _ in range(2)]
    settings = {"heal": {"max_steps": 2, "features": 0.1}, "per_round": 2}
    result = compress(small_llama, batches, method="cka", budget="units=2", settings=settings)
    assert result.model.config.num_hidden_layers == len(result.model.model.layers) == 2
    assert len(result.plan.predicted["order"]) == 3
    planned = apply(small_llama, result.plan)
    assert not torch.equal(result.model.lm_head.weight, planned.lm_head.weight)


def test_with_the_original_as_reference_the_healed_network_is_compared_with_it(ask_images):
    request = ask_images("units=7")
    settings = CKASettings(similarity=BIASED, heal=replace(SHORT, distil=0.0))
    plan = choose(request, settings)
    first, second = plan.predicted["order"]
    step = Plan.removing(request.chain, [first])
    healed = heal(apply(request.model, step), request.batches, settings=settings.heal)
    chain, kept = find_units(healed, EXAMPLE), arriving(request.model, request.chain, request.batches)
    unit, change = next_unit(healed, chain, request.batches, [], kept, linear_cka)
    assert step.index_map[second] == unit
    assert plan.predicted["changes"][1] == pytest.approx(change, abs=1e-6)


def test_healing_has_data_of_its_own(ask_images):
    seen = []

    def loss(outputs, labels):
        seen.append(len(labels))
        return nn.functional.cross_entropy(outputs, labels)

    train = [(torch.randn(5, 3, 8, 8), torch.randint(0, 10, (5,)))]
    request = ask_images("units=8", heal_batches=train, loss=loss)
    choose(request, CKASettings(heal=replace(SHORT, distil=0.0)))
    assert set(seen) == {5}


def test_units_that_the_network_was_healed_without_do_not_come_back(ask_images):
    request = ask_images("latency=0.5")
    # The unit that goes last alone saves enough.
    order = choose(ask_images("units=5"), CKASettings(heal=SHORT, per_saving=False)).predicted["order"]
    times = [1.0 if index in order[:-1] else 100.0 for index in range(9)]
    request.latency = LatencyTable(units=tuple(times), whole=200.0)
    plan = choose(request, CKASettings(heal=SHORT, per_saving=False))
    assert plan.predicted["order"] == order
    assert len(find_units(request.shallower, EXAMPLE)) == 5
    unhealed = choose(request, CKASettings(per_saving=False))
    assert len(unhealed.removed) == 1
    assert request.shallower is None


def test_healing_without_labels_is_refused(ask_images):
    request = ask_images("units=8", batches=[torch.randn(8, 3, 8, 8)])
    with pytest.raises(DataError, match="without labels: there is nothing to compute a loss from"):
        choose(request, CKASettings(heal=replace(SHORT, distil=0.0)))


class Stopped(Exception):
    pass


CALLS = {"done": 0, "most": math.inf}


def counted_loss(outputs, labels):
    if CALLS["done"] == CALLS["most"]:
        raise Stopped
    CALLS["done"] += 1
    return nn.functional.cross_entropy(outputs, labels)


def doubled_loss(outputs, labels):
    return 2 * counted_loss(outputs, labels)


@pytest.fixture
def calls(monkeypatch):
    """How often a loss was computed, and after how often it stops the run."""
    monkeypatch.setitem(CALLS, "done", 0)
    monkeypatch.setitem(CALLS, "most", math.inf)
    return CALLS


@pytest.mark.parametrize("stops", [0, 2, 4, 5])
def test_an_interrupted_healing_goes_on_where_it_was(tmp_path, ask_images, calls, stops):
    settings = CKASettings(heal=replace(SHORT, distil=0.0))
    whole = ask_images("units=7", loss=counted_loss)
    plan = choose(whole, settings)
    assert calls["done"] == 6
    path = tmp_path / "journal.jsonl"
    calls |= {"done": 0, "most": stops}
    with pytest.raises(Stopped):
        choose(ask_images("units=7", loss=counted_loss, journal=Journal(path)), settings)
    calls["most"] = math.inf
    again = ask_images("units=7", loss=counted_loss, journal=Journal(path))
    assert choose(again, settings) == plan
    assert calls["done"] == 6
    state = again.shallower.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.shallower.state_dict().items())
    # A journal that is begun anew begins healing anew, too.
    choose(ask_images("units=7", loss=counted_loss, journal=Journal(path, resume=False)), settings)
    assert calls["done"] == 12


def gaussian_batches(seed, count=3):
    draw = torch.Generator().manual_seed(seed)
    images = [torch.randn(5, 3, 8, 8, generator=draw) for _ in range(count)]
    return [(batch, torch.randint(0, 10, (5,), generator=draw)) for batch in images]


def healed(request, settings):
    """Return the healed network's weights, and how many steps it took to get there."""
    before = CALLS["done"]
    choose(request, settings)
    return request.shallower.state_dict(), CALLS["done"] - before


@pytest.mark.parametrize("change", ["data", "order", "loss", "teacher"])
def test_a_journal_does_not_hand_back_what_was_healed_otherwise(tmp_path, ask_images, calls, change):
    data = gaussian_batches(0)
    settings = CKASettings(heal=replace(SHORT, distil=0.0))
    path = tmp_path / "journal.jsonl"

    def asked(**fields):
        return ask_images("units=8", **({"loss": counted_loss, "heal_batches": data} | fields))

    first, steps = healed(asked(journal=Journal(path)), settings)
    assert steps == 3
    again, steps = healed(asked(journal=Journal(path)), settings)
    assert steps == 0
    assert all(torch.equal(value, first[name]) for name, value in again.items())
    changed = {
        "data": {"heal_batches": gaussian_batches(1)},
        "order": {"heal_batches": data[::-1]},
        "loss": {"loss": doubled_loss},
        "teacher": {},
    }[change]
    if change == "teacher":
        settings = CKASettings(heal=replace(SHORT, distil=0.5))
    alone, _ = healed(asked(**changed), settings)
    found, steps = healed(asked(**changed, journal=Journal(path)), settings)
    assert steps == 3
    assert all(torch.equal(value, alone[name]) for name, value in found.items())
    assert not all(torch.equal(value, first[name]) for name, value in found.items())


def test_a_loader_that_shuffles_is_known_again_by_the_seed_of_healing(tmp_path, ask_images, calls):
    images, labels = (torch.cat(parts) for parts in zip(*gaussian_batches(0), strict=True))
    loader = DataLoader(TensorDataset(images, labels), batch_size=5, shuffle=True)
    path = tmp_path / "journal.jsonl"
    settings, steps = CKASettings(heal=replace(SHORT, distil=0.0)), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        request = ask_images("units=8", loss=counted_loss, heal_batches=loader, journal=Journal(path))
        steps.append(healed(request, settings)[1])
    assert steps == [3, 0]


def test_of_batches_without_end_only_those_that_healing_sees_are_looked_at(ask_images):
    class Endless:
        def __iter__(self):
            yield from cycle(gaussian_batches(0))

    request = ask_images("units=8", heal_batches=Endless())
    choose(request, CKASettings(heal=replace(SHORT, distil=0.0)))
    assert len(find_units(request.shallower, EXAMPLE)) == 8
