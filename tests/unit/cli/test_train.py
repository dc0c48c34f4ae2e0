import json

import pytest
from torch import nn

from shoal import load
from shoal.training import fitting

TRAIN = "train net.py:make --data digits:train --num-samples 96 --batch-size 32 --epochs 4 -o small"


def test_training_ends_with_a_verified_folder_of_the_size_asked_for(shoal, place, files):
    outcome = shoal(f"{TRAIN} --budget units=4 --eval-data digits:test")
    assert outcome.code == 0
    assert "written to small" in outcome.err
    assert "training compute" in outcome.err
    record = json.loads((place / "small" / "shoal.json").read_text())
    assert record["plan"]["method"] == "concurrent"
    assert record["training"]["pruning"]["units"] == 4
    assert record["training"]["steps"] == 12
    assert "accuracy" in record["after"]["quality"]
    assert files() == ["net.py", "small"]
    assert load("small") is not None


def test_json_is_one_document(shoal):
    found = shoal(f"{TRAIN} --price 0.1 --json").json
    assert found["plan"]["budget"] is None
    assert found["training"]["pruning"]["price"] == 0.1
    assert found["verification"]["passed"]


def test_the_whole_network_is_trained_as_a_control(shoal):
    found = shoal(f"{TRAIN} --method dense --fresh --optimizer adamw --lr 0.001 --augment --json").json
    assert found["plan"]["method"] == "dense"
    assert found["training"]["pruning"] is None
    assert found["training"]["fresh_weights"] is True


def test_an_interrupted_run_goes_on_where_it_stopped(shoal, place, monkeypatch):
    step, taken = fitting._Run._step, []

    def interrupt(self, batch):
        taken.append(1)
        if len(taken) == 8:
            raise KeyboardInterrupt
        self.settings.__dict__["checkpoint_every"] = 1
        return step(self, batch)

    monkeypatch.setattr(fitting._Run, "_step", interrupt)
    assert shoal(f"{TRAIN} --budget units=4").code == 130
    assert not (place / "small").exists()
    assert (place / "small.train.safetensors").exists()


PLAIN = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    rows = [part for _ in range(4) for part in (nn.Linear(16, 16), nn.ReLU())]
    ends = (nn.Linear(16, 12), nn.Linear(12, 10))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), *rows, *ends)
"""


def test_plain_networks_are_trained_with_paths_that_are_folded(shoal, place):
    (place / "plain.py").write_text(PLAIN)
    typed = TRAIN.replace("net.py", "plain.py")
    outcome = shoal(f"{typed} --shortcuts --budget macs=0.7")
    assert outcome.code == 0
    assert "once they are folded" in outcome.err
    assert shoal("verify small").code == 0
    assert {type(module) for module in load("small")} == {nn.Flatten, nn.Linear, nn.ReLU}
    record = json.loads((place / "small" / "shoal.json").read_text())
    assert record["before"]["macs"] == 64 * 16 + 4 * 16 * 16 + 16 * 12 + 12 * 10
    assert record["after"]["macs"] <= 0.7 * record["before"]["macs"]
    assert record["training"]["asked"]["shortcuts"]
    assert shoal("heal small --data digits:train --num-samples 64 --epochs 1 -o healed").code == 0
    assert shoal("verify healed").code == 0
    whole = shoal(f"{typed} --shortcuts --method dense --json --overwrite").json
    assert whole["after"]["macs"] == whole["before"]["macs"]
    assert shoal("verify small").code == 0


def test_prices_of_other_quantities_are_taken(shoal):
    found = shoal(f"{TRAIN} --price params=0.1,macs=0.05 --json").json
    assert found["training"]["asked"]["price"] == "params=0.1,macs=0.05"
    assert found["verification"]["passed"]


def test_what_gates_did_is_kept_and_drawn(shoal, files):
    found = shoal(f"{TRAIN} --budget units=4 --json --figures pictures").json
    gates = found["training"]["gates"]
    assert gates["steps"][0] == 1
    assert gates["theta"][0][1] == 0.97
    assert sum(theta == 0 for theta in gates["theta"][-1]) == len(found["plan"]["steps"])
    assert "pictures" in files()
    again = shoal(f"{TRAIN} --budget units=4 --figures pictures -o other")
    assert again.code == 2
    assert "gates.png': it exists" in again.err


def test_the_settings_are_listed(shoal):
    outcome = shoal("train --list-settings")
    assert outcome.code == 0
    assert "confidence" in outcome.out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "one of them works"),
        ("--budget units=4 --price 0.1", "one of them works"),
        ("--budget units=4 --method dens", "the nearest is 'dense'"),
        ("--budget units=4 --preset papr", "the preset 'papr'"),
        ("--budget units=4 --set prob=3", "the nearest is 'probes'"),
        ("--price much", "asked for a price of 'much'"),
        ("--budget units=4 --shortcuts", "none of the 5 layers between the first and the last can have one"),
        ("--method dense --set probes=3", "it has no gates"),
        ("--method dense --figures pictures", "it has no gates to draw"),
        ("--budget units=4 --figures net.py", "it is a file. Name a folder"),
        ("--method dense --budget units=4", "asked for budget with the method dense"),
        ("--budget macs=0.001", "the least that can be asked for"),
        ("--budget units=4 --lr 0", "lr=0.0"),
        ("--budget units=4 --optimizer adam", "adamw and sgd work"),
    ],
)
def test_wrong_requests_say_what_would_work(shoal, files, typed, message):
    outcome = shoal(f"{TRAIN} {typed}")
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == ["net.py"]
