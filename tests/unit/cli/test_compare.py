import json

import pytest

from shoal import Comparison
from shoal.cli.compare import by_label
from shoal.comparing import bench
from shoal.errors import ConfigError, MissingExtraError
from shoal.measurement import LatencySettings

NEEDED = "compare net.py:make --data net.py:batches --eval-data digits:test --eval-samples 20 -o out"
TYPED = f"{NEEDED} --budget units=3 --methods sleb,last,random --seeds 2 --no-latency"
FIGURES = ["pareto-accuracy.png", "pareto-accuracy.svg", "pareto.png", "pareto.svg"]


@pytest.fixture
def quick(monkeypatch):
    """Latency that is measured with one call."""
    brief = LatencySettings(warmup=0, min_repetitions=1, max_repetitions=1)
    monkeypatch.setattr("shoal.comparing.running.LatencySettings", lambda: brief)


@pytest.fixture
def written(place):
    return lambda: sorted(path.name for path in (place / "out").iterdir())


def test_it_prints_a_table_for_every_budget_and_writes_all_of_it(shoal, files, place, written, quick):
    outcome = shoal(f"{NEEDED} --budget units=3 --budget macs=0.95 --methods sleb,last,random --seeds 2")
    assert outcome.code == 0
    for text in ("Sequential at units=3: 3 compared", "Sequential at macs=0.95", "(random)", "whole network"):
        assert text in outcome.out
    assert "chosen on net.py:batches" in outcome.out
    assert "judged on digits:test: 20 samples" in outcome.out
    assert files() == ["net.py", "out"]
    assert written() == ["comparison.json", "comparison.md", *FIGURES]
    page = (place / "out" / "comparison.md").read_text()
    assert "![pareto](pareto.svg)\n\n![pareto-accuracy](pareto-accuracy.svg)" in page
    comparison = Comparison.from_json(json.loads((place / "out" / "comparison.json").read_text()))
    assert [row.method for row in comparison.rows if row.budget == "units=3"] == [
        "sleb",
        "last",
        "random",
        "random",
    ]


def test_json_is_all_there_is_on_stdout(shoal):
    found = shoal(f"{TYPED} --json").json
    assert [each["method"] for each in found["standings"]["units=3"]].count("random") == 1
    assert found["files"] == ["out/comparison.json", "out/comparison.md"]
    assert found["settings"]["heal"] is None


def test_settings_seeds_and_healing_reach_the_comparison(shoal):
    found = shoal(
        f"{NEEDED} --no-latency --json --budget units=4 --methods sglp,sglp:paper,last "
        "--set sglp.exchanges=0 --set sglp:paper.graft.batches=1 "
        "--seeds 2 --heal-seeds 2 --seed 5 --heal-epochs 1 --heal-lr 0.01"
    ).json
    rows = {(row["method"], row["seed"]): row for row in found["rows"]}
    assert rows.keys() == {(name, seed) for name in ("sglp", "sglp:paper", "last") for seed in (5, 6)}
    assert rows["sglp", 5]["plan"]["settings"]["exchanges"] == 0
    assert rows["sglp:paper", 6]["plan"]["settings"]["graft"]["batches"] == 1
    assert rows["sglp:paper", 6]["plan"]["settings"]["seed"] == 6
    assert found["settings"]["heal"]["lr"] == 0.01
    assert all(row["healed"]["loss"] > 0 for row in found["rows"])


def test_an_interrupted_comparison_goes_on_where_it_stopped(shoal, files, monkeypatch):
    expected = shoal(f"{TYPED} --json").json
    measure, calls = bench.measure_pair, []

    def interrupt(*args, **fields):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(args)
        return measure(*args, **fields)

    monkeypatch.setattr(bench, "measure_pair", interrupt)
    outcome = shoal(f"{TYPED} --overwrite")
    assert outcome.code == 130
    assert "--resume goes on with it" in outcome.err
    assert files() == ["net.py", "out", "out.journal.jsonl"]
    monkeypatch.setattr(bench, "measure_pair", lambda *a, **f: calls.append(a) or measure(*a, **f))
    found = shoal(f"{TYPED} --overwrite --resume --json").json
    assert files() == ["net.py", "out"]
    networks = {tuple(step["index"] for step in row["plan"]["steps"]) for row in found["rows"]}
    assert len(calls) == 1 + len(networks)
    for one, other in zip(found["rows"], expected["rows"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_what_an_older_comparison_left_goes(shoal, written, place, quick):
    assert shoal(f"{TYPED} --methods last".replace("--no-latency", "")).code == 0
    assert set(FIGURES) <= set(written())
    (place / "out" / "notes.txt").write_text("mine")
    outcome = shoal(f"{TYPED} --methods last --overwrite")
    assert outcome.code == 0
    assert "no figures: latency was not measured" in outcome.err
    assert written() == ["comparison.json", "comparison.md", "notes.txt"]


def test_without_what_draws_there_are_no_figures_and_a_note(shoal, written, monkeypatch, quick):
    def missing():
        raise MissingExtraError("matplotlib", extra="report", purpose="to draw figures")

    monkeypatch.setattr("shoal.reports.figures.check_available", missing)
    outcome = shoal(f"{NEEDED} --budget units=3 --methods last")
    assert outcome.code == 0
    assert "no figures:" in outcome.err
    assert "shoal[report]" in outcome.err
    assert written() == ["comparison.json", "comparison.md"]


def test_a_recipe_gives_settings_by_method(shoal, place):
    settings = "{exchanges: 0, segments: 2}"
    recipe = f"budget: [units=3, units=4]\nmethods: sglp\nlatency: false\nset: {{sglp: {settings}}}\n"
    (place / "recipe.yaml").write_text(recipe)
    found = shoal(f"{NEEDED} --json --config recipe.yaml").json
    assert [row["budget"] for row in found["rows"]] == ["units=3", "units=4"]
    assert found["rows"][0]["plan"]["settings"]["segments"] == 2


def test_methods_that_cannot_run_are_named_with_the_reason(shoal):
    outcome = shoal(f"{TYPED} --set random.protect_first=4")
    assert outcome.code == 0
    assert "not compared: random: asked for units=3" in outcome.out


def test_a_budget_that_no_method_meets_is_an_error(shoal, place):
    outcome = shoal(TYPED.replace("units=3", "params=0.01"))
    assert outcome.code == 2
    assert "params=0.01" in outcome.err
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (f"{NEEDED}", "without --budget"),
        (f"{TYPED} --budget layers=3", "asked for a budget of 'layers'"),
        (TYPED.replace("--eval-data digits:test --eval-samples 20", ""), "compare without --eval-data"),
        (TYPED.replace("--eval-data digits:test", ""), "--eval-samples without --eval-data"),
        (f"{TYPED} --methods sgpl", "The nearest is 'sglp'"),
        (f"{TYPED} --methods ,", "asked to compare no methods"),
        (f"{TYPED} --set sglp.exchanges=0", "settings of 'sglp', which is not compared"),
        (f"{TYPED} --set exchanges=0", "write METHOD.KEY=VALUE"),
        (f"{TYPED} --set random.seed=0", "seed=0 of random, which is run once for each seed"),
        (f"{TYPED} --seeds 0", "asked for the seeds"),
        (
            TYPED.replace("digits:test --eval-samples 20", "net.py:batches"),
            "asked to judge by --eval-data net.py:batches: these are the samples of --data, too",
        ),
        (
            f"{TYPED} --heal-epochs 1 --heal-data digits:test".replace("--eval-samples 20", ""),
            "the samples of --heal-data, too",
        ),
        (f"{TYPED} --heal-seeds 2", "asked to heal with 2 seeds, and not to heal"),
        (f"{TYPED} --heal-lr 0.1", "without --heal-epochs"),
        (f"{TYPED} --heal-epochs -1", "epochs"),
        (TYPED.replace("-o out", "-o net.py"), "it is a file"),
        (TYPED.replace("net.py:batches", "net.py:empty"), "empty"),
    ],
)  # fmt: skip
def test_a_wrong_request_leaves_nothing(shoal, files, typed, message):
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == ["net.py"]


def test_files_are_not_replaced_without_being_asked(shoal, place):
    (place / "out").mkdir()
    (place / "out" / "pareto.svg").write_text("mine")
    outcome = shoal(TYPED)
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert (place / "out" / "pareto.svg").read_text() == "mine"


@pytest.mark.parametrize("text", ["floor=0", "floor=0.5", "cka.floor", "cka.=1", "=1", ".floor=1"])
def test_settings_of_another_form_are_refused(text):
    with pytest.raises(ConfigError, match=r"write METHOD\.KEY=VALUE"):
        by_label([text])


@pytest.mark.parametrize(
    "text", ["floor=many", "flor=1", "floor=-1", "floor=[", "heal=3", "heal.epoch=1", "similarity=4"]
)
def test_a_setting_is_refused_in_the_words_of_the_other_verbs(shoal, text):
    plan = shoal(f"plan net.py:make --data net.py:batches --budget units=3 --method cka --set {text}")
    compared = shoal(f"{NEEDED} --budget units=3 --no-latency --methods cka --set cka.{text}")
    assert plan.code == compared.code == 2
    assert compared.err == plan.err.replace("shoal plan", "shoal compare")


def test_parts_of_settings_and_dashes_work_as_with_the_other_verbs(shoal):
    typed = ["cka:paper.heal=null", "cka:paper.similarity.estimator=unbiased", "cka:paper.protect-first=0"]
    found = shoal(
        f"{NEEDED} --budget units=3 --no-latency --json --methods cka:paper,last --set last.keep_final=false "
        + " ".join(f"--set {text}" for text in typed)
    ).json
    told = {row["method"]: row["plan"]["settings"] for row in found["rows"]}
    assert told["cka:paper"]["heal"] is None
    assert told["cka:paper"]["similarity"]["estimator"] == "unbiased"
    assert (told["cka:paper"]["protect_first"], told["cka:paper"]["floor"]) == (0, 2)
    assert told["last"]["keep_final"] is False


def test_the_list_of_methods_tells_how_settings_are_written_here(shoal):
    outcome = shoal("compare --list-methods")
    assert outcome.code == 0
    assert "--set METHOD.KEY=VALUE" in outcome.out
    assert "--set KEY=VALUE" not in outcome.out


def test_data_to_train_on_is_for_methods_that_train_too(shoal):
    typed = f"{NEEDED} --budget units=4 --no-latency --json --heal-data digits:train --methods"
    assert shoal(f"{typed} cka").code == 2
    found = shoal(f"{typed} cka --set cka.heal.epochs=1").json
    assert found["rows"][0]["own_weights"]
    assert found["standings"]["units=4"][0]["own_training"]
