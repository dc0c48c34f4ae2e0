import pytest

from shoal.measurement import LatencySettings, latency


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    settings = LatencySettings(warmup=1, min_repetitions=2, max_repetitions=3)
    monkeypatch.setattr(latency, "LatencySettings", lambda: settings)


def test_several_models_are_measured_side_by_side(shoal):
    outcome = shoal("bench net.py:make net.py:make_other --data digits")
    assert outcome.code == 0
    assert "net.py:make_other" in outcome.out
    assert "of one call with 1 sample on cpu" in outcome.out


def test_json_holds_every_measurement(shoal):
    found = shoal("bench net.py:make --data digits --example-batch 4 --json").json
    cost = found["models"]["net.py:make"]
    assert found["samples"] == 4
    assert cost["latency"] > 0
    assert cost["macs"] == 4 * (64 * 16 + 5 * 16 * 16 + 16 * 10)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("bench", "without MODEL"),
        ("bench net.py:make net.py:make --data digits", "each model once"),
        ("bench net.py:make", "--data"),
        ("bench net.py:make --data digits --example-batch 0", "at least one"),
    ],
)
def test_a_wrong_request_says_what_would_work(shoal, typed, message):
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err
