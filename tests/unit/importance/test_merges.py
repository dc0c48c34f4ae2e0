import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnets import DiffusionUNet, resnet, vgg
from in_processes import in_processes
from shoal.architectures.convolutions import find_convolutions
from shoal.errors import ConfigError, DataError
from shoal.importance.merge_settings import MergeLoss, MergeLossSettings
from shoal.importance.merges import MergeLosses, dealt
from shoal.importance.prefixes import cut_of
from shoal.importance.reconstruction import expanded
from shoal.journal import Journal
from shoal.layers import MergeEntry
from shoal.measurement import evaluate_quality
from shoal.surgery.entries import find_entries
from shoal.training.optimisation import learning_rate
from shoal.units import Segment

TUNED = MergeLossSettings(form="tuned", steps=3, lr=0.01, samples=24)
FORMS = [
    MergeLossSettings(form="reconstruction", samples=24),
    TUNED,
    replace(TUNED, distil=0.5),
    replace(TUNED, from_start=True),
]


def small_vgg():
    torch.manual_seed(0)
    model = vgg(((4, 4, 4), (6, 6)), classes=3)
    for _ in range(5):
        model(torch.randn(16, 3, 8, 8))
    return model.eval()


def labelled(count=2, size=8, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator),
            torch.randint(0, classes, (size,), generator=generator),
        )
        for _ in range(count)
    ]


@pytest.fixture
def found():
    return find_convolutions(small_vgg(), torch.zeros(1, 3, 8, 8))


@pytest.fixture
def entries(found):
    return find_entries(found)


@pytest.fixture
def changed(entries):
    return [entry for entry in entries if not entry.unchanged]


def losses_of(found, settings=TUNED, **more):
    return MergeLosses(found, labelled(), tuning=labelled(3, seed=1), settings=settings, **more)


@pytest.mark.parametrize("settings", FORMS)
def test_what_stays_as_it_is_costs_nothing_and_is_not_measured(found, entries, settings):
    losses = losses_of(found, settings)
    unchanged = [entry for entry in entries if entry.unchanged]
    assert losses.of(unchanged) == [0.0] * len(unchanged)
    assert losses.measured(unchanged[0]) == MergeLoss(loss=0.0, accuracy_change=0.0)
    assert len(losses.journal) == 0


def test_nothing_asked_is_nothing_measured(found):
    losses = losses_of(found)
    assert losses.of([]) == []
    assert len(losses.journal) == 0


def test_tuning_behind_a_cut_is_tuning_with_everything_before_frozen(found, changed):
    settings = replace(TUNED, weight_decay=0.1, recalibrate=False)
    entry = next(entry for entry in changed if entry.segment.start == 2)
    tuning, judged = labelled(3, seed=1), labelled()

    def by_hand(network):
        before = [network.get_submodule(str(each)) for each in range(6)]
        for module in before:
            module.requires_grad_(False)
        order = torch.randperm(3, generator=torch.Generator().manual_seed(0))
        weights = [p for p in network.parameters() if p.requires_grad]
        decayed = [{"params": [p for p in weights if p.dim() > 1], "weight_decay": 0.1}]
        others = [{"params": [p for p in weights if p.dim() == 1], "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(decayed + others, lr=0.01, momentum=0.9, nesterov=True)
        network.train()
        nn.ModuleList(before).eval()
        for step, number in enumerate(order):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, 3, settings.fit_settings())
            optimizer.zero_grad()
            images, classes = tuning[number]
            F.cross_entropy(network(images), classes).backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        return evaluate_quality(network.eval(), judged)["loss"]

    expected = by_hand(expanded(found, entry)) - by_hand(found.copy().pieces.assemble())
    assert abs(expected) > 1e-4
    assert losses_of(found, settings).of([entry]) == [pytest.approx(expected, abs=1e-5)]


@pytest.mark.parametrize("settings", FORMS)
def test_numbers_depend_neither_on_order_nor_on_what_else_is_measured(found, changed, settings):
    whole = losses_of(found, settings).of(changed)
    assert losses_of(found, settings).of(changed[::-1]) == whole[::-1]
    assert losses_of(found, settings).of(changed[2:3]) == whole[2:3]
    assert len(set(whole)) > len(whole) / 2


@pytest.mark.parametrize("settings", FORMS[:2])
def test_without_memory_the_numbers_are_the_same(found, changed, settings):
    few = changed[:4]
    assert losses_of(found, replace(settings, cache_gib=0.0)).of(few) == losses_of(found, settings).of(few)


@pytest.mark.parametrize("settings", FORMS)
def test_network_and_random_state_are_left_as_they_were(found, changed, settings):
    before = {name: value.clone() for name, value in found.pieces.model.state_dict().items()}
    code, state = found.pieces.pieces[0].traced.code, torch.get_rng_state()
    losses_of(found, settings).of(changed[:3])
    after = found.pieces.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(not module.training for module in found.pieces.model.modules())
    assert all(parameter.grad is None for parameter in found.pieces.model.parameters())
    assert found.pieces.pieces[0].traced.code == code
    assert torch.equal(torch.get_rng_state(), state)


def test_what_was_measured_is_read_from_the_journal(found, changed, tmp_path, monkeypatch):
    path = tmp_path / "journal"
    first = losses_of(found, journal=Journal(path), key="k").measure(changed[:3])
    again = losses_of(found, journal=Journal(path), key="k")
    monkeypatch.setattr("shoal.importance.merges.Cut", None)
    assert [again.measured(entry) for entry in changed[:3]] == first
    assert again.measure(changed[:3]) == first
    assert again.measured(changed[3]) is None
    others = losses_of(found, replace(TUNED, steps=4), journal=Journal(path), key="k")
    assert others.measured(changed[0]) is None


def test_a_killed_run_goes_on_where_it_was(found, changed, tmp_path, monkeypatch):
    path, judge, calls = tmp_path / "journal", MergeLosses._judge, []

    def judged(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return judge(self, *args)

    expected = losses_of(found).of(changed)
    monkeypatch.setattr(MergeLosses, "_judge", judged)
    with pytest.raises(KeyboardInterrupt):
        losses_of(found, journal=Journal(path)).of(changed)
    calls[:] = [0] * 10
    assert losses_of(found, journal=Journal(path)).of(changed) == expected
    points = {cut_of(found, entry.segment.start) for entry in changed}
    assert len(calls) - 10 == len(changed) + len(points) - 3


@pytest.mark.parametrize("settings", FORMS[:2])
def test_a_layer_that_hands_on_what_it_is_given_costs_almost_nothing(settings):
    torch.manual_seed(0)
    middle = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), middle, nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)
    )
    with torch.no_grad():
        middle.weight.zero_()
        middle.bias.zero_()
        middle.weight[range(4), range(4), 1, 1] = 1
    found = find_convolutions(model, torch.zeros(1, 3, 8, 8))
    (gone,) = [e for e in find_entries(found) if e.segment == Segment(1, 2) and e.empty]
    (lost,) = losses_of(found, settings).of([gone])
    assert lost == pytest.approx(0, abs=2e-3)


def test_single_layers_may_be_measured_as_ones_to_be_learnt_anew(found, entries):
    alone = [entry for entry in entries if entry.unchanged]
    losses = losses_of(found, replace(TUNED, fresh_single=True, seed=5))
    assert losses.measured(alone[1]) is None
    once, again = (
        losses.of(alone),
        losses_of(found, replace(TUNED, fresh_single=True, seed=5)).of(alone[::-1]),
    )
    assert once == again[::-1]
    assert 0 not in once


def test_loss_and_accuracy_before_are_those_of_the_network(found, changed):
    losses = losses_of(found, FORMS[0])
    whole = evaluate_quality(small_vgg(), labelled())
    assert losses.loss_before == pytest.approx(whole["loss"], rel=1e-6)
    (measured,) = losses.measure(changed[:1])
    assert -whole["accuracy"] <= measured.accuracy_change <= 1 - whole["accuracy"]
    assert losses.source == "loss, reconstruction"


@pytest.mark.parametrize("settings", FORMS[:3])
def test_without_labels_the_gap_to_the_original_counts(found, changed, settings):
    images = [inputs for inputs, _ in labelled(4)]
    losses = MergeLosses(found, images, settings=settings)
    assert losses.loss_before == pytest.approx(0, abs=1e-7)
    assert losses.source.startswith("gap to the outputs of the original")
    measured = losses.measure(changed[:3])
    assert all(each.accuracy_change is None for each in measured)
    assert all(math.isfinite(each.loss) for each in measured)


@pytest.mark.parametrize("settings", FORMS[:2])
def test_diffusion_networks_work_with_inputs_of_two_tensors_and_a_loss_of_the_users(settings):
    torch.manual_seed(0)
    model = DiffusionUNet(8, (1, 2), 1, attention=4, size=8).eval()
    batches = [((torch.randn(4, 3, 8, 8), torch.arange(4)), torch.randn(4, 3, 8, 8)) for _ in range(2)]
    found = find_convolutions(model, batches[0][0])
    entries = [entry for entry in find_entries(found) if not entry.unchanged]
    losses = MergeLosses(
        found, batches, loss=lambda out, noise: (out - noise).square().mean(), settings=settings
    )
    measured = losses.of([entries[0], entries[-1]])
    assert all(math.isfinite(loss) and loss != 0 for loss in measured)


class Wrapped(nn.Module):
    """Not one graph: it decides by the numbers in its input; takes and returns dicts."""

    def __init__(self):
        super().__init__()
        self.inner = small_vgg()

    def forward(self, images):
        if images.sum() > 1e9:
            images = -images
        return {"logits": self.inner(images), "rest": None}


@pytest.mark.parametrize("settings", FORMS)
def test_networks_that_are_no_single_graph_are_run_as_a_whole(found, changed, settings):
    wrapped = find_convolutions(Wrapped(), {"images": torch.zeros(1, 3, 8, 8)})
    assert {piece.path for piece in wrapped.pieces.pieces} == {"inner"}
    judged, tuned = (
        [{"images": images, "labels": classes} for images, classes in batches]
        for batches in (labelled(), labelled(3, seed=1))
    )
    # Tuned from its start, the plain network goes the same way.
    if settings.form == "tuned":
        settings = replace(settings, from_start=True)
    theirs = MergeLosses(wrapped, judged, tuning=tuned, settings=replace(settings, from_start=False))
    expected = losses_of(found, settings).of(changed[:3])
    if settings.recalibrate and settings.form == "reconstruction":
        assert all(math.isfinite(loss) for loss in theirs.of(changed[:3]))
    else:
        assert theirs.of(changed[:3]) == pytest.approx(expected, abs=1e-5)


def test_a_loss_that_overflows_is_infinite(found, changed):
    model = small_vgg()
    wild = find_convolutions(model, torch.zeros(1, 3, 8, 8))
    losses = losses_of(wild, replace(TUNED, lr=1e30, warmup=0.0, clip=None, recalibrate=False))
    with pytest.raises(DataError, match=r"at step 1 \(from 0\) the loss is .* A lower lr may work"):
        losses.of(changed[:1])
    losses = losses_of(wild)
    losses._tune_ = lambda network, *rest: network.load_state_dict(
        {
            name: value * (math.nan if len(network.state_dict()) < len(model.state_dict()) else 1)
            for name, value in network.state_dict().items()
        }
    )
    assert losses.of(changed[:1]) == [math.inf]


def test_residual_networks_with_projections_are_measured():
    torch.manual_seed(0)
    model = resnet((1, 1), 4, classes=3).eval()
    found = find_convolutions(model, torch.zeros(1, 3, 16, 16))
    entries = [entry for entry in find_entries(found) if not entry.unchanged]
    batches = [(torch.randn(6, 3, 16, 16), torch.randint(0, 3, (6,))) for _ in range(2)]
    for settings in FORMS[:2]:
        measured = MergeLosses(found, batches, settings=settings).of(entries)
        assert all(math.isfinite(loss) for loss in measured)


def test_a_batch_is_parted_where_it_is_the_only_one(found, changed):
    (whole,) = labelled(1, size=16)
    halves = [(whole[0][:8], whole[1][:8])], [(whole[0][8:], whole[1][8:])]
    once = MergeLosses(found, [whole], settings=TUNED).of(changed[:2])
    assert once == MergeLosses(found, halves[0], tuning=halves[1], settings=TUNED).of(changed[:2])


def test_one_sample_cannot_be_judged_and_tuned_on(found):
    with pytest.raises(DataError, match=r"there is a single one. Two or more work, or pass `tuning`"):
        MergeLosses(found, labelled(1, size=1))


def test_frozen_networks_cannot_be_tuned(found):
    found.pieces.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="none of its parameters requires gradients"):
        MergeLosses(found, labelled(), settings=TUNED)


def groups_of(*sizes):
    return [(f"node{number}", [None] * size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(), (1,), (2, 5, 3, 1, 4)])
def test_every_group_is_dealt_once(sizes, count):
    rounds = dealt(groups_of(*sizes), count)
    assert sorted(hand for each in rounds for hand in each) == sorted(groups_of(*sizes))
    assert all(len(each) <= count for each in rounds)
    assert len(rounds) == -(-len(sizes) // count)


def test_what_shares_nothing_is_dealt_one_by_one():
    entry = MergeEntry(segment=Segment(0, 1), kept=(), merged=None, separate=())
    assert dealt([("", [None, entry, entry])], 2) == [[("", [None]), ("", [entry])], [("", [entry])]]


def measured_in(number, form):
    torch.manual_seed(0)
    found = find_convolutions(small_vgg(), torch.zeros(1, 3, 8, 8))
    entries = [entry for entry in find_entries(found) if not entry.unchanged][::4]
    settings = MergeLossSettings(form=form, samples=24, **({"steps": 2} if form == "tuned" else {}))
    losses = MergeLosses(found, labelled(), tuning=labelled(3, seed=1), settings=settings)
    own, judge = [], losses._judge
    losses._judge = lambda *args: own.append(1) or judge(*args)
    return losses.of(entries), len(own)


@pytest.mark.parametrize("form", ["reconstruction", "tuned"])
def test_processes_share_the_entries_and_return_the_same(form):
    alone, all_of_them = measured_in(0, form)
    first, second = in_processes(measured_in, form)
    assert first[0] == second[0] == pytest.approx(alone, rel=1e-5)
    assert first[1] + second[1] == all_of_them
    assert min(first[1], second[1]) > 0
