import json
import shutil
import sys

import pytest
from safetensors.torch import load_file

from shoal.cli.sweeping import Sweep, _drawn
from shoal.cli.training import Training
from shoal.errors import BudgetError, ConfigError, DataError
from shoal.reports.front import FrontRun
from shoal.result import Measurement

TRAIN = "train net.py:make --data digits:train --num-samples 64 --batch-size 32 --epochs 4"
SWEEP = f"{TRAIN} -o front --eval-data digits:test --sweep units=2,4"


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_every_value_becomes_a_folder_as_training_alone_makes_it(shoal, place, files):
    outcome = shoal(SWEEP)
    assert outcome.code == 0
    assert "training 2 of 2" in outcome.err
    assert "2 of 5" in outcome.out
    assert "4 of 5" in outcome.out
    written = sorted(path.name for path in (place / "front").iterdir())
    assert written == ["front.json", "front.png", "front.svg", "units-2", "units-4"]
    assert shoal("verify front/units-2").code == 0
    assert shoal(f"{TRAIN} --budget units=4 -o alone").code == 0
    alone, swept = weights(place / "alone"), weights(place / "front" / "units-4")
    assert alone.keys() == swept.keys()
    assert all(value.equal(swept[name]) for name, value in alone.items()), "one seed for all"


def test_json_is_one_document_and_what_the_file_says(shoal, place):
    found = shoal(f"{SWEEP.replace('units=2,4', 'price=0.1')} --json").json
    files = found.pop("files")
    assert found == json.loads((place / "front" / "front.json").read_text())
    assert files == ["front/front.json", "front/front.png", "front/front.svg"]
    assert found["quantity"] == "price"
    assert [run["asked"] for run in found["runs"]] == ["price=0.1"]
    assert found["runs"][0]["output"] == "front/price-0.1"
    assert "accuracy" in found["runs"][0]["after"]["quality"]
    assert found["failures"] == {}


@pytest.fixture
def stops(monkeypatch):
    """Let the n-th training end with an error."""

    def at(count, error):
        once, begun = Training.once, []

        def failing(self, options):
            begun.append(options.output.name)
            if len(begun) == count:
                raise error
            return once(self, options)

        monkeypatch.setattr(Training, "once", failing)
        return begun

    return at


def test_an_interrupted_sweep_goes_on_with_what_is_not_complete(shoal, place, stops):
    begun = stops(2, KeyboardInterrupt())
    assert shoal(SWEEP).code == 130
    assert not (place / "front" / "front.json").exists()
    assert "it exists" in shoal(SWEEP).err
    assert shoal(f"{SWEEP} --resume").code == 0
    assert begun == ["units-2", "units-4", "units-4"]
    assert shoal(f"{SWEEP} --resume").code == 0, "complete ones are left as they are"
    assert len(begun) == 3
    other = shoal(f"{SWEEP} --resume --seed 1")
    assert other.code == 2
    assert "units-2 in it was trained otherwise: seed 0 -> 1. Ask" in other.err
    other = shoal(f"{SWEEP} --resume --eval-data net.py:batches")
    assert other.code == 2
    assert (
        "units-2 in it was trained otherwise: eval_data 'digits:test' -> 'net.py:batches'. Ask" in other.err
    )
    assert shoal(f"{SWEEP} --resume --seed 1 --overwrite").code == 0
    assert len(begun) == 5


def test_a_training_that_fails_is_told_and_the_others_are_kept(shoal, place, stops):
    stops(1, DataError("asked to train: the loss is nan."))
    outcome = shoal(f"{SWEEP} --json")
    assert outcome.code == 1
    assert [run["asked"] for run in outcome.json["runs"]] == ["units=4"]
    assert outcome.json["failures"] == {"units=2": "asked to train: the loss is nan."}
    assert "units=2: asked to train: the loss is nan." in outcome.err
    stops(1, DataError("again"))
    outcome = shoal(f"{SWEEP.replace('units=2,4', 'units=2')} --overwrite")
    assert outcome.code == 1
    assert "failed: units=2: again" in outcome.out
    assert sorted(path.name for path in (place / "front").iterdir()) == ["front.json", "units-4"]


def test_there_is_no_picture_where_one_was_not_judged(tmp_path, capsys):
    known = Measurement(params=2, macs=2, quality={"loss": 1.0})
    points = [
        FrontRun(asked="a", model="net", units=1, whole=2, before=known, after=after)
        for after in (known, Measurement(params=1, macs=1))
    ]
    assert _drawn(tmp_path / "front", points, "macs") == ()
    assert "no quality was measured of all" in capsys.readouterr().err


def test_without_quality_or_matplotlib_there_is_no_picture(shoal, place, monkeypatch):
    outcome = shoal(f"{TRAIN} -o front --sweep units=4")
    assert outcome.code == 0
    assert "no picture of the front: no quality was measured" in outcome.err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "matplotlib is needed" in shoal(f"{SWEEP.replace('2,4', '4')} --overwrite").err
    assert sorted(path.name for path in (place / "front").iterdir()) == ["front.json", "units-4"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--budget macs=0.5", "asked for --sweep with --budget: a sweep says itself"),
        ("--price 0.1", "asked for --sweep with --price"),
        ("--price 0.1 --budget macs=0.5", "with --budget and --price"),
        ("--method dense", "asked for budget with the method dense"),
        ("--sweep units=0.001,4", "asked for units=0.001: with one unit of every stage left"),
        ("--sweep unit=2", "the nearest is 'units'"),
        ("--sweep price=0.1,high", "asked for a price of 'high'"),
        ("--shortcuts", "can have one"),
        ("-o net.py", "it is a file"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(shoal, files, typed, message):
    outcome = shoal(f"{SWEEP} {typed}")
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == ["net.py"]


def test_the_folder_of_a_network_holds_no_others(shoal, place):
    shutil.copytree(place, place / "small")
    (place / "small" / "shoal.json").write_text("{}")
    assert "it is the folder of a network" in shoal(f"{SWEEP} -o small").err


@pytest.mark.parametrize("text", ["macs", "macs=", "macs=0.5,", "=0.5", "macs=0.5=0.6"])
def test_other_forms_are_refused(text):
    with pytest.raises(ConfigError, match=r"asked for --sweep .*: macs=0.3,0.5,0.7, .* work"):
        Sweep.parse(text)


def test_a_value_is_asked_for_once():
    with pytest.raises(ConfigError, match="which names a value twice"):
        Sweep.parse("macs=0.5,0.5")


def test_a_budget_that_is_none_is_refused():
    with pytest.raises(BudgetError, match="at most 1"):
        Sweep.parse("macs=0.5,1.5")
