import pytest


def test_the_table_lists_every_unit(shoal):
    outcome = shoal("units net.py:make --data digits")
    assert outcome.code == 0
    assert "5 units, 5 removable" in outcome.out
    assert outcome.out.count("Block") == 5


def test_json_is_all_there_is_on_stdout(shoal):
    found = shoal("units net.py:make --data digits --json").json
    assert [unit["name"] for unit in found["units"]] == ["2", "3", "4", "5", "6"]
    assert found["model"] == "Sequential"
    assert all(unit["removable"] and unit["params"] == 16 * 17 for unit in found["units"])


def test_macs_are_those_of_the_call_with_so_many_samples(shoal):
    one = shoal("units net.py:make --data digits --json").json["macs"]
    assert shoal("units net.py:make --data digits --json --example-batch 3").json["macs"] == 3 * one


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("units", "without MODEL"),
        ("units net.py:make", "--data"),
        ("units none.py:make --data digits", "there is no file none.py"),
        ("units net.py:mak --data digits", "there is no function 'mak'"),
        ("units net.py:make --data digitz", "digits"),
        ("units net.py:make --data digits --dtype float3", "float3"),
        ("units net.py:make --data digits --device toaster", "Here work: cpu"),
        ("units net.py:make_unitless --data net.py:batches", "Linear"),
    ],
)
def test_a_wrong_request_says_what_would_work(shoal, typed, message):
    outcome = shoal(typed)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_an_error_in_the_users_own_file_fails_the_work(shoal):
    outcome = shoal("units net.py:broken --data digits")
    assert outcome.code == 1
    assert "KeyError: 'gone'" in outcome.err
    assert "Traceback" in shoal("units net.py:broken --data digits --debug").err
