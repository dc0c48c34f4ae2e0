import pytest
import torch

from shoal import Budget, find_units
from shoal.comparing.sharing import SharingRequest, WatchedJournal
from shoal.importance import EvidenceSettings
from shoal.journal import Journal
from shoal.methods import Request
from shoal.similarity import SimilaritySettings


@pytest.fixture
def ask(network, data):
    base = Request(
        model=network,
        chain=find_units(network, data.batches[0][0]),
        batches=data.batches,
        example=data.batches[0][0][:1],
        budget=Budget.parse("units=4"),
    )
    passes = {}
    return lambda budget="units=4": SharingRequest.of(base, Budget.parse(budget), passes)


@pytest.fixture
def counted(monkeypatch):
    """The settings of every pass that is made."""
    from shoal.importance import collect_evidence

    made = []

    def collect(*args, settings, **fields):
        made.append(settings)
        return collect_evidence(*args, settings=settings, **fields)

    monkeypatch.setattr("shoal.methods.request.collect_evidence", collect)
    return made


def test_a_pass_serves_all_requests_that_ask_for_the_same(ask, counted):
    first, second = ask(), ask("units=3")
    assert first.collect() is second.collect()
    assert second.evidence is first.evidence
    assert counted == [EvidenceSettings()]
    assert first.asked == second.asked == {"pass": 1}


def test_a_pass_with_gradients_serves_who_needs_none_and_not_the_other_way_round(ask, counted):
    bare = EvidenceSettings(gradients=False)
    ask().collect(bare)
    ask().collect()
    ask().collect(bare)
    assert counted == [bare, EvidenceSettings()]
    third = ask()
    assert third.scores("block_influence") == ask().collect().importance["block_influence"].tolist()
    assert third.asked == {"pass": 1}


def test_other_settings_are_another_pass(ask, counted):
    biased = EvidenceSettings(similarity=SimilaritySettings(estimator="biased"))
    request = ask()
    request.collect()
    request.collect(biased)
    assert len(counted) == 2
    assert request.asked == {"pass": 2}
    # What is asked for by name afterwards is of the same pass.
    request.scores("drop_estimate")
    assert len(counted) == 2


def test_losses_are_shared_and_counted_by_whoever_asks(ask):
    first, second = ask(), ask()
    measured = first.losses.of([(), (1,), (2,)])
    assert second.losses.of([(1,), (2,)]) == measured[1:]
    assert second.losses.measured == 0
    assert (first.asked, second.asked) == ({"loss": 3}, {"loss": 2})


def test_the_count_is_that_of_the_losses_themselves(ask):
    from shoal.methods import get

    request = ask()
    method = get("sglp")
    method.choose(request, method.settings())
    assert request.asked["loss"] == len(request.losses.asked)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("/loss/", "loss"),
        ("0f/loss/1,2", "loss"),
        ("0f/without every 4th batch/loss/3", "loss"),
        ("/change/0f1e/1,2/3", "change"),
        ("/graft/01ab", "graft"),
        ("7/8", "number"),
    ],
)
def test_what_was_asked_for_is_told_by_its_kind(ask, key, kind):
    request = ask()
    request.journal[key] = 1.0
    assert request.asked == {kind: 1}


def test_a_watched_journal_is_the_other_one(tmp_path):
    journal = Journal(tmp_path / "journal")
    watched = WatchedJournal(journal)
    assert "a" not in watched
    watched["b"] = 2
    journal["c"] = 3
    assert (watched["b"], watched["c"], len(watched), "c" in watched) == (2, 3, 2, True)
    assert journal["b"] == 2
    assert watched.asked == {"a", "b", "c"}
    assert watched.path == journal.path
    assert Journal(tmp_path / "journal")["b"] == 2


def test_latency_is_measured_once_for_all(ask, monkeypatch):
    calls = []
    monkeypatch.setattr("shoal.methods.request.unit_latency", lambda *args: calls.append(args) or "table")
    assert ask("latency=0.5").latency == ask("latency=0.7").latency == "table"
    assert len(calls) == 1
    assert torch.is_tensor(calls[0][2])
