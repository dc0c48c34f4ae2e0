import pytest


@pytest.fixture
def small(shoal, place):
    shoal("plan net.py:make --data digits --remove 1 -o plan.json")
    assert shoal("apply net.py:make plan.json --data digits -o small").code == 0
    return place / "small"


def test_a_good_folder_passes(shoal, small):
    outcome = shoal("verify small")
    assert outcome.code == 0
    assert "outputs" in outcome.out
    assert shoal("verify small --json").json["passed"] is True


def test_a_truncated_file_fails_the_work(shoal, small):
    weights = small / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    outcome = shoal("verify small --json")
    assert outcome.code == 1
    assert outcome.out == ""
    assert "model.safetensors" in outcome.err


@pytest.mark.parametrize(("typed", "message"), [("verify", "without DIR"), ("verify none", "no such folder")])
def test_a_wrong_request_says_what_is_missing(shoal, typed, message):
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err
