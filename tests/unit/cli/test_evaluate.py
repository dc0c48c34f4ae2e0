import pytest


def test_the_table_names_the_data(shoal):
    outcome = shoal("evaluate net.py:make --data digits:test --num-samples 20")
    assert outcome.code == 0
    assert "net.py:make on digits:test: 20 samples" in outcome.out
    assert "accuracy" in outcome.out


def test_json_holds_the_figures(shoal):
    found = shoal("evaluate net.py:make --data net.py:batches --json").json
    assert found["quality"]["samples"] == 48
    assert 0 <= found["quality"]["accuracy_low"] <= found["quality"]["accuracy"]
    assert found["data"] == "net.py:batches"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("evaluate net.py:make", "without --data"),
        ("evaluate net.py:make --data digits:tset", "the nearest is 'test'"),
        ("evaluate net.py:make --data digits --seq-len 4", "means nothing there"),
    ],
)
def test_a_wrong_request_says_what_would_work(shoal, typed, message):
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err
