"""What several processes say together is what one says alone, and none waits for one that has failed."""

import os
import warnings
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from in_processes import in_processes
from shoal import MissingExtraError, ShoalWarning, find_units
from shoal.importance import EvidenceSettings, collect_evidence
from shoal.processes import Processes, together
from shoal.progress import reporting
from shoal.similarity import SimilaritySettings


class Block(nn.Module):
    """Has weights that only batches of six samples reach: one process has gradients for them."""

    def __init__(self):
        super().__init__()
        self.usual, self.rare = (nn.Linear(6, 6, dtype=torch.float64) for _ in range(2))

    def forward(self, x):
        return x + torch.tanh((self.rare if len(x) == 6 else self.usual)(x))


class Network(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(32, 6, dtype=torch.float64)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(6, 3, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.data.normal_(std=0.4, generator=generator)

    def forward(self, x):
        x = x if x.is_floating_point() else self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x if x.dim() == 2 else x.mean(dim=1))


def make_batches(count, *, text=False):
    """Batches of other sizes each, the same wherever they are made."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for size in range(6, 6 + count):
        labels = torch.randint(3, (size,), generator=generator)
        if text:
            batches.append((torch.randint(32, (size, 5), generator=generator), labels))
        else:
            batches.append((torch.randn(size, 6, dtype=torch.float64, generator=generator), labels))
    return batches


def score(batches, *, model=None, **similarity):
    model = Network() if model is None else model
    chain = find_units(model, batches[0][0][:1])
    settings = EvidenceSettings(similarity=SimilaritySettings(**similarity))
    return collect_evidence(model, chain, batches, settings=settings)


def same(first, second):
    matrices = ("boundary_similarity", "angular_distance", "block_influence")
    pairs = [(getattr(first, name), getattr(second, name)) for name in matrices]
    pairs += [(first.importance[name], second.importance[name]) for name in first.importance]
    assert first.importance.keys() == second.importance.keys()
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    assert {**first.data, "loss": None} == {**second.data, "loss": None}
    assert first.data["loss"] == pytest.approx(second.data["loss"], rel=1e-12)


def score_images(number, count):
    return score(make_batches(count))


def score_text(number, reduce):
    return score(make_batches(5, text=True), tokens=6, reduce=reduce)


def leave_gradients(number):
    model = Network().to(torch.bfloat16)
    batches = [(x.to(torch.bfloat16), y) for x, y in make_batches(3)]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    evidence = score(batches, model=model)
    kept = all(p.grad is None and p.equal(before[name]) for name, p in model.named_parameters())
    return kept, evidence.importance["taylor"]


def meet_bad_data(number, failing):
    batches = make_batches(6)
    batches[2 + failing][0][0, 0] = torch.nan
    return score(batches)


def fail(number, failing):
    with together():
        if number == failing:
            raise KeyError("gone")
        return score(make_batches(6))


def miss_an_extra(number):
    with together():
        if number == 1:
            raise MissingExtraError("timm", extra="vision", purpose="to load it")
        return score(make_batches(2))


def fail_after_the_work(number):
    with together():
        score(make_batches(2))
        if number == 0:
            raise OSError("disk full")


def have_other_batches(number, what):
    batches = make_batches(4)
    if what == "order":
        return score(batches if number else batches[::-1])
    return score(batches[: 3 + number])


def have_other_weights(number):
    torch.manual_seed(number)
    model = Network()
    nn.init.normal_(model.head.weight)
    return score(make_batches(2), model=model)


def warn(number):
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *where, **more: shown.append(str(message))
        with together():
            warnings.warn("look", ShoalWarning, stacklevel=1)
    return shown


def show(number):
    seen = []

    class Recorder:
        @contextmanager
        def task(self, title, total):
            seen.append(total)
            yield seen.append

    with reporting(Recorder()):
        score(make_batches(5))
    return seen


CASES = {
    **{f"{count} batches": partial(score_images, count=count) for count in (1, 2, 5)},
    "tokens": partial(score_text, reduce="sum_then_ratio"),
    "mean of ratios": partial(score_text, reduce="mean_of_ratios"),
    **{f"bad data in {failing}": partial(meet_bad_data, failing=failing) for failing in (0, 1)},
    **{f"failure in {failing}": partial(fail, failing=failing) for failing in (0, 1)},
    "halves": leave_gradients,
    "missing extra": miss_an_extra,
    "failure at the end": fail_after_the_work,
    "other order": partial(have_other_batches, what="order"),
    "other number": partial(have_other_batches, what="number"),
    "other weights": have_other_weights,
    "warnings": warn,
    "progress": show,
    "after all failures": partial(score_images, count=3),
}


def attempt_all(number, names):
    """What each case returns in this process, or the kind of its error and what it says."""
    found = {}
    for name in names:
        try:
            found[name] = CASES[name](number)
        except Exception as error:  # noqa: BLE001  (whatever it is, the test is told)
            found[name] = type(error).__name__, str(error)
    return found


@pytest.fixture(scope="module")
def found():
    """What each case gives in two processes: name -> [of the main process, of the other]."""
    main, other = in_processes(attempt_all, list(CASES))
    assert list(main) == list(other) == list(CASES)
    return {name: (main[name], other[name]) for name in CASES}


@pytest.mark.parametrize(
    "name", ["1 batches", "2 batches", "5 batches", "tokens", "mean of ratios", "after all failures"]
)
def test_two_processes_score_as_one_does(found, name):
    for evidence in found[name]:
        same(evidence, CASES[name](0))


def test_more_processes_than_batches_score_as_one_does():
    for outcome in in_processes(attempt_all, ["2 batches"], count=3):
        same(outcome["2 batches"], CASES["2 batches"](0))


def test_a_model_in_halves_is_left_as_it_was_found(found):
    for kept, taylor in found["halves"]:
        assert kept
        np.testing.assert_allclose(taylor, leave_gradients(0)[1], rtol=0.02)


@pytest.mark.parametrize("failing", [0, 1])
def test_bad_data_in_one_process_is_an_error_in_both(found, failing):
    main, other = found[f"bad data in {failing}"]
    assert main == other
    assert main[0] == "DataError"
    assert "not finite" in main[1]


@pytest.mark.parametrize("failing", [0, 1])
def test_no_process_waits_for_one_that_has_failed(found, failing):
    both = found[f"failure in {failing}"]
    assert both[failing] == ("KeyError", "'gone'")
    assert both[1 - failing] == ("RuntimeError", f"process {failing} of 2 failed with KeyError: 'gone'")


def test_an_error_of_shoal_s_keeps_its_kind_and_message(found):
    main, other = found["missing extra"]
    assert main == other
    assert main[0] == "MissingExtraError"
    assert main[1].startswith("timm is needed to load it")


def test_none_is_done_before_all_are(found):
    assert found["failure at the end"] == (
        ("OSError", "disk full"),
        ("RuntimeError", "process 0 of 2 failed with OSError: disk full"),
    )


@pytest.mark.parametrize("what", ["order", "number"])
def test_processes_with_other_batches_are_refused(found, what):
    for kind, text in found[f"other {what}"]:
        assert kind == "DataError"
        assert "they do not have the same. Give all processes the same batches" in text


def test_processes_with_other_weights_are_refused(found):
    for kind, text in found["other weights"]:
        assert kind == "ConfigError"
        assert "do not have the same weights or units" in text


def test_only_the_main_process_warns(found):
    assert found["warnings"] == (["look"], [])


def test_only_the_main_process_shows_progress_of_its_share(found):
    assert found["progress"] == ([3, 1, 1, 1], [])


def vanish(number):
    with together():
        if number == 1:
            os._exit(3)
        score(make_batches(2))


def test_a_process_that_is_gone_is_not_waited_for():
    main, other = in_processes(vanish)
    assert isinstance(other, ChildProcessError)
    with pytest.raises(RuntimeError, match="another of the 2 processes has ended or cannot be reached"):
        raise main


def test_one_process_needs_none_of_it():
    with together() as processes, together() as inner:
        assert (processes.number, processes.count, inner.count) == (0, 1, 1)
        assert processes.exchange("x") == ["x"]
        assert list(processes.share("abc")) == [(0, "a"), (1, "b"), (2, "c")]


@pytest.mark.parametrize(("total", "shares"), [(None, [None, None]), (0, [0, 0]), (1, [1, 0]), (5, [3, 2])])
def test_shares_of_batches_are_known_beforehand(total, shares):
    assert [Processes(number, 2).share_of(total) for number in range(2)] == shares
