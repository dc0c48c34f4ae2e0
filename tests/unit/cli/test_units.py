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


LAYERED = """
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mix, self.mlp = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        x = x + self.mix(self.norm(x))
        return x + self.mlp(x)


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Layer(), Layer(), nn.Linear(16, 10))
"""


def test_sublayers_are_listed_where_they_are_asked_for(shoal, place):
    (place / "layered.py").write_text(LAYERED)
    assert "2 units, 2 removable" in shoal("units layered.py:make --data digits").out
    found = shoal("units layered.py:make --data digits --granularity sublayer --json").json["units"]
    assert [unit["name"] for unit in found] == ["2.mix", "2.mlp", "3.mix", "3.mlp"]
    assert found[0]["modules"] == ["2.norm", "2.mix"]
    assert "4 units, 4 removable" in shoal("units layered.py:make --data digits --granularity sublayer").out


def test_another_granularity_is_refused(shoal):
    outcome = shoal("units net.py:make --data digits --granularity head")
    assert outcome.code == 2
    assert "sublayer" in outcome.err


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
