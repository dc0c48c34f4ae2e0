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


def test_a_folder_is_verified_from_anywhere(shoal, small, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    refused = shoal("verify", small)
    assert refused.code == 2
    assert "--trust-remote-code" in refused.err
    assert shoal("verify", small, "--trust-remote-code").code == 0


def test_a_folder_whose_file_is_gone_says_what_can_be_typed(shoal, small, place):
    (place / "net.py").rename(place / "moved.py")
    outcome = shoal("verify small")
    assert outcome.code == 2
    assert "--original net.py:make" in outcome.err
    assert shoal("verify small --original moved.py:make").code == 0
    assert shoal("units small --original moved.py:make --data digits").code == 0


def test_an_original_of_a_hugging_face_folder_is_refused(shoal, small):
    (small / "config.json").write_text('{"model_type": "llama"}')
    outcome = shoal("verify small --original net.py:make")
    assert outcome.code == 2
    assert "Leave --original out" in outcome.err
