import json

import pytest

import networks
from shoal import Plan, analyze
from shoal.cli.plan import parse_units
from shoal.errors import ConfigError

METHOD = "plan net.py:make --data net.py:batches --set exchanges=0"


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("3", [3]),
        ("0:2,4", [0, 1, 4]),
        (" 1 , stage1.0 ", [1, "stage1.0"]),
        ("features.3:6", ["features.3:6"]),
    ],
)
def test_units_are_indices_ranges_and_names(text, units):
    assert parse_units(text) == units


@pytest.mark.parametrize(
    ("text", "message"), [("5:3", "3:6 holds both ends"), ("2:2", "2:3"), (" , ", "name units")]
)
def test_units_that_are_none_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_units(text)


def test_a_plan_by_hand_is_written(shoal, place):
    outcome = shoal("plan net.py:make --data digits --remove 0,2:4 -o plan.json")
    assert outcome.code == 0
    assert "by hand: remove 3 of 5 units: [0, 1), [2, 4)" in outcome.out
    plan = Plan.from_json((place / "plan.json").read_text())
    assert plan.removed == (0, 2, 3)


def test_json_is_the_plan(shoal):
    outcome = shoal("plan net.py:make --data digits --remove 3 --json")
    assert Plan.from_json(outcome.out).removed == (1,) or Plan.from_json(outcome.out).removed == (3,)


def test_units_may_be_named(shoal):
    assert Plan.from_json(shoal("plan net.py:make --data digits --json --remove 2:3,1").out).removed == (1, 2)


def test_a_method_plans_under_a_budget(shoal, place):
    outcome = shoal(f"{METHOD} --budget units=3 -o plan.json")
    assert outcome.code == 0
    assert "remaining: 3 of 5 units" in outcome.out
    plan = json.loads((place / "plan.json").read_text())
    assert len(plan["steps"]) == 2
    assert plan["settings"]["exchanges"] == 0


def test_the_seed_goes_to_the_method(shoal):
    assert shoal(f"{METHOD} --budget units=3 --seed 7 --json").json["settings"]["seed"] == 7


def test_evidence_is_used_again(shoal):
    assert shoal("analyze net.py:make --data net.py:batches -o evidence.json").code == 0
    outcome = shoal(f"{METHOD} --budget units=3 --evidence evidence.json")
    assert outcome.code == 0
    assert "drop_estimate" in outcome.out


@pytest.fixture
def llama(place, monkeypatch):
    """A folder of a tiny Llama that cannot be loaded."""
    pytest.importorskip("transformers")
    from shoal import save

    save(networks.llama()[0], place / "llama")
    monkeypatch.setattr("shoal.architectures.pretrained.read_pretrained", None)


def test_a_plan_by_hand_of_a_folder_reads_its_config_alone(shoal, llama):
    outcome = shoal("plan llama --remove 1:3 --json")
    assert outcome.code == 0
    assert outcome.json["predicted"]["units"] == 2
    assert [unit["removable"] for unit in shoal("units llama --json").json["units"]] == [True] * 4


def test_a_cut_that_no_config_can_say_is_refused_when_it_is_planned(shoal, llama):
    outcome = shoal("plan llama --remove 0:4 -o plan.json")
    assert outcome.code == 2
    assert "at least one of its 4 layers has to stay" in outcome.err
    assert "The nearest cut that works removes [0, 1, 2] of model.layers" in outcome.err


METHODS = [
    "angular",
    "block_influence",
    "last",
    "magnitude --set protect_first=0",
    "random",
    "sglp --set importance=drop_estimate",
    "sglp --set importance=mean_abs_saving --set selection=per_segment",
    "taylor --set protect_first=0",
    "uniform",
]


@pytest.fixture
def evidence(place):
    """What a pass over the tiny Llama's data says."""
    model, example = networks.llama()
    found = analyze(model, [example], example=example)
    (place / "evidence.json").write_text(json.dumps(found.as_json()))


@pytest.mark.parametrize("method", METHODS)
def test_evidence_is_all_that_some_methods_need(shoal, llama, evidence, method):
    outcome = shoal(f"plan llama --evidence evidence.json --method {method} --budget units=3 --json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["steps"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--method best --budget units=3", "runs the"),
        ("--budget units=3", "or sglp --set importance=drop_estimate"),
        ("--method angular --budget latency=0.5", "latency is measured"),
    ],
)
def test_what_evidence_does_not_say_is_refused(shoal, llama, evidence, typed, message):
    outcome = shoal(f"plan llama --evidence evidence.json {typed}")
    assert outcome.code == 2
    assert message in outcome.err


def test_evidence_of_another_model_is_refused(shoal):
    shoal("analyze net.py:make_other --data net.py:batches -o evidence.json")
    outcome = shoal(f"{METHOD} --budget units=3 --evidence evidence.json")
    assert outcome.code == 2
    assert "another model" in outcome.err


def test_a_recipe_gives_the_options(shoal, place):
    (place / "recipe.yaml").write_text(
        "model: net.py:make\ndata: net.py:batches\nbudget: units=2\nset: {exchanges: 0}\n"
    )
    assert len(shoal("plan --config recipe.yaml --json").json["steps"]) == 3
    assert len(shoal("plan --config recipe.yaml --budget units=4 --json").json["steps"]) == 1


def test_the_methods_are_listed_without_a_model(shoal):
    outcome = shoal("plan --list-methods")
    assert outcome.code == 0
    assert "sglp" in outcome.out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("plan net.py:make", "without --data and --budget"),
        ("plan net.py:make --data digits", "without --budget"),
        ("plan net.py:make --data digits --remove 9", "numbered 0 to 4"),
        ("plan net.py:make --data digits --remove blok", "The nearest is"),
        ("plan net.py:make --data digits --remove 1 --budget units=3 --set a=1", "--budget, --set"),
        (f"{METHOD} --budget units=3 --method sglpp", "The nearest is 'sglp'"),
        (f"{METHOD} --budget units=3 --preset papper", "paper"),
        (
            "plan net.py:make --data net.py:batches --budget units=3 --method cka --preset paper",
            "a plan holds no weights. `shoal compress` hands back the network",
        ),
        (f"{METHOD} --budget units=3 --set exchnges=1", "the nearest is 'exchanges'"),
        (f"{METHOD} --budget macz=0.6", "the nearest is 'macs'"),
        (f"{METHOD} --budget macs=1.6", "at most 1"),
        (f"{METHOD} --budget params=1", "the least that can be asked for"),
        (f"{METHOD} --budget units=3 --evidence none.json", "no such file"),
        ("plan --config none.yaml", "cannot be read"),
    ],
)
def test_a_wrong_request_says_what_would_work(shoal, files, typed, message):
    before = files()
    outcome = shoal(typed + " --output plan.json")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.out == ""
    assert files() == before
