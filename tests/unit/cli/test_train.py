import json
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from shoal import load
from shoal.training import Worth, fitting

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


@pytest.mark.parametrize(("steps", "told"), [("--steps 4", True), ("--steps 60 --set probes=4", False)])
def test_choices_close_to_chance_are_called_that(shoal, steps, told):
    outcome = shoal(f"{TRAIN} {steps} --budget units=4")
    assert outcome.code == 0
    assert ("units that left were asked on fewer than 10 batches" in outcome.err) is told


@pytest.mark.parametrize(("gain", "told"), [(0.05, True), (0.15, False)])
def test_units_that_are_not_worth_their_price_at_the_end_are_told_of(shoal, place, monkeypatch, gain, told):
    worth = Worth(gain=gain, error=0.01, price=0.1, batches=8)
    asked = lambda gates, units, batches, **_: dict.fromkeys(units, worth)  # noqa: E731
    monkeypatch.setattr("shoal.training.concurrent.pruner.measured_worth", asked)
    outcome = shoal(f"{TRAIN} --budget units=4")
    predicted = json.loads((place / "small" / "shoal.json").read_text())["plan"]["predicted"]
    assert [Worth(**each) for each in predicted["worth"].values()] == [worth] * 4
    found = "4 of the 4 units that could still leave are surely worth less than their price" in outcome.err
    assert found is told


def test_what_has_to_stay_is_not_asked_at_the_end(shoal):
    predicted = shoal(f"{TRAIN} --price 100 --json").json["plan"]["predicted"]
    assert predicted["units"] == 1
    assert "worth" not in predicted


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
    assert shoal(f"{TRAIN} --budget units=4 -o whole").code == 0
    step, taken = fitting._Run._step, []

    def interrupt(self, batch):
        taken.append(1)
        if len(taken) == 8:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(fitting._Run, "_step", interrupt)
    outcome = shoal(f"{TRAIN} --budget units=4")
    assert outcome.code == 130
    assert outcome.err.endswith(
        "stopped after step 8 of 12; --resume (in Python resume=True) goes on from there.\n"
    )
    assert not (place / "small").exists()
    assert (place / "small.train.safetensors").exists()
    anew = shoal(f"{TRAIN} --budget units=4")
    assert anew.code == 2
    assert "small.train.safetensors is where an interrupted run stands: --resume goes on from it" in anew.err
    other = shoal(f"{TRAIN} --budget units=3 --augment --resume")
    assert other.code == 2
    assert "augment False -> True, budget 'units=4' -> 'units=3'" in other.err
    assert shoal(f"{TRAIN} --budget units=4 --resume").code == 0
    assert len(taken) == 12
    whole, resumed = (load_file(place / name / "model.safetensors") for name in ("whole", "small"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("-o dangling", "'dangling': it is a link to 'nowhere', which is not there"),
        ("--figures net.py/there", "nothing can be written in"),
        ("-o taken", "a checkpoint in 'taken.train.safetensors': it is a folder"),
    ],
)
def test_places_that_cannot_be_written_are_refused_before_training(shoal, place, typed, message, files):
    (place / "dangling").symlink_to("nowhere")
    (place / "taken.train.safetensors").mkdir()
    before = files()
    outcome = shoal(f"{TRAIN} --budget units=4 {typed}")
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == before


def test_resuming_without_a_checkpoint_says_that_it_begins_anew(shoal):
    outcome = shoal(f"{TRAIN} --budget units=4 --resume")
    assert outcome.code == 0
    assert (
        "there is no checkpoint small.train.safetensors to resume from: training begins anew" in outcome.err
    )


EVALUATION = """
import torch


def narrow():
    return [(torch.zeros(4, 1, 7, 7), torch.zeros(4, dtype=torch.long))]


def unlabelled():
    return [torch.zeros(4, 1, 8, 8)]
"""


@pytest.mark.parametrize("goal", ["--budget units=4", "--sweep units=2,4"])
@pytest.mark.parametrize(
    ("made", "message"),
    [("narrow", "the network fails on its first batch"), ("unlabelled", "without labels")],
)
def test_data_that_cannot_judge_is_refused_before_training(
    shoal, place, files, monkeypatch, goal, made, message
):
    (place / "judge.py").write_text(EVALUATION)
    monkeypatch.setattr(fitting._Run, "_step", lambda self, batch: pytest.fail("trained"))
    outcome = shoal(f"{TRAIN} {goal} --eval-data judge.py:{made}")
    assert outcome.code == 2
    assert f"asked to judge net.py:make by --eval-data judge.py:{made}" in outcome.err
    assert message in outcome.err
    assert files() == ["judge.py", "net.py"]


def test_a_language_model_loses_sublayers_in_the_format_that_can_hold_it(shoal, place, small_llama):
    small_llama.save_pretrained(place / "llama")
    np.savez(place / "ids.npz", input_ids=torch.randint(0, 64, (8, 12)).numpy())
    typed = "train llama --data ids.npz --batch-size 2 --epochs 3 --granularity sublayer"
    outcome = shoal(f"{typed} --budget units=9 -o small")
    assert (outcome.code, (place / "small").exists()) == (2, False)
    assert "--format torch" in outcome.err
    assert shoal(f"{typed} --sweep units=9 -o front --format torch").code == 0
    record = json.loads((place / "front" / "units-9" / "shoal.json").read_text())
    assert len(record["plan"]["model"]["units"]) == 10
    assert record["training"]["asked"]["granularity"] == "sublayer"
    assert load(place / "front" / "units-9").config.num_hidden_layers == 5
    assert shoal("verify front/units-9").code == 0


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
    assert "asked for was macs=0.7 of the plain network" in outcome.err
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
        ("", "neither --budget nor --price: one of them works, --budget macs=0.5 or --price 0.1"),
        ("--budget units=4 --price 0.1", "--budget and --price at once: one of them works"),
        ("--budget units=4 --granularity layer", "'block', 'sublayer'"),
        ("--method dense --granularity sublayer", "asked for granularity with the method dense"),
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
