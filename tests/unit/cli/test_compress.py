import json

import numpy as np
import pytest
import torch

from shoal import load
from shoal.errors import VerificationError
from shoal.importance import SkipLosses, skipping

TYPED = "compress net.py:make --data net.py:batches --budget units=3 --set exchanges=4"


def test_it_prints_what_was_removed_why_and_the_measured_before_and_after(shoal, files):
    outcome = shoal(f"{TYPED} --output small --eval-data digits:test --eval-samples 20")
    assert outcome.code == 0
    assert "sglp: remove 2 of 5 units" in outcome.out
    assert "drop_estimate" in outcome.out
    assert "scored on net.py:batches" in outcome.out
    assert all(name in outcome.out for name in ("latency", "accuracy"))
    assert "Verified: small" in outcome.out
    assert files() == ["net.py", "small"]
    assert len(load("small")) == 6


def test_json_is_all_there_is_on_stdout(shoal):
    found = shoal(f"{TYPED} -o small --json").json
    assert len(found["plan"]["steps"]) == 2
    assert found["verification"]["passed"]
    assert found["data"]["source"] == "net.py:batches"
    assert found["after"]["params"] < found["before"]["params"]


def test_the_record_says_which_data_and_seed(shoal, place):
    assert shoal(f"{TYPED} -o small --seed 3 --eval-data digits:test --eval-samples 20").code == 0
    record = json.loads((place / "small" / "shoal.json").read_text())
    assert record["seeds"] == {"seed": 3}
    assert record["data"]["calibration"].startswith("net.py:batches")
    assert record["data"]["evaluation"].startswith("digits:test: 20 samples")
    assert record["verification"]["passed"] is True


def test_it_heals_when_asked(shoal, place):
    outcome = shoal(
        f"{TYPED} -o small --heal-epochs 1 --heal-lr 0.01 --heal-distil 1 --heal-data net.py:batches"
    )
    assert outcome.code == 0
    record = json.loads((place / "small" / "shoal.json").read_text())
    assert record["data"]["healing"].startswith("net.py:batches")


def test_a_language_model_without_sublayers_is_written_in_the_format_that_can_hold_it(
    shoal, place, small_llama
):
    small_llama.save_pretrained(place / "llama")
    np.savez(place / "ids.npz", input_ids=torch.randint(0, 64, (8, 12)).numpy())
    typed = "compress llama --data ids.npz --budget units=9 --granularity sublayer --method last"
    assert "remaining: 9 of 10 units" in shoal(f"{typed} --dry-run").out
    outcome = shoal(f"{typed} -o small")
    assert (outcome.code, (place / "small").exists()) == (2, False)
    assert "--format torch" in outcome.err
    assert shoal(f"{typed} -o small --format torch").code == 0
    assert load(place / "small").config.num_hidden_layers == 5


def test_a_dry_run_chooses_and_writes_nothing(shoal, files):
    outcome = shoal(f"{TYPED} --dry-run")
    assert outcome.code == 0
    assert "remaining: 3 of 5 units" in outcome.out
    assert shoal(f"{TYPED} --dry-run --json").json["output"] is None
    assert files() == ["net.py"]


def test_an_interrupted_run_goes_on_where_it_stopped(shoal, place, files, monkeypatch):
    measure, measured = SkipLosses._measure, []

    def interrupt(self, sets, title):
        if len(measured) > 4:
            raise KeyboardInterrupt
        measured.extend(sets)
        measure(self, sets, title)

    monkeypatch.setattr(skipping, "_PIECE", 2)
    monkeypatch.setattr(SkipLosses, "_measure", interrupt)
    assert shoal(f"{TYPED} -o small").code == 130
    assert files() == ["net.py", "small.journal.jsonl"]
    before = list(measured)
    assert len((place / "small.journal.jsonl").read_text().splitlines()) == len(before)
    measured.clear()
    monkeypatch.setattr(
        SkipLosses, "_measure", lambda self, sets, title: (measured.extend(sets), measure(self, sets, title))
    )
    assert shoal(f"{TYPED} -o small --resume").code == 0
    assert measured
    assert not set(measured) & set(before)
    assert files() == ["net.py", "small"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("compress net.py:make --data digits --output small", "without --budget"),
        (TYPED, "--output"),
        (f"{TYPED} -o small --heal-lr 0.1", "without --heal-epochs"),
        (f"{TYPED} -o small --eval-samples 3", "without --eval-data"),
        (f"{TYPED} -o small --heal-epochs -1", "epochs"),
        (f"{TYPED} -o net.py", "it exists"),
        (f"{TYPED} -o small --method random-ish", "The nearest is"),
        (
            "compress net.py:make --data net.py:batches --budget params=3 -o small",
            "the least that can be asked for",
        ),
        ("compress net.py:make --data net.py:empty --budget units=3 -o small", "empty"),
        ("compress net.py:make_unitless --data net.py:batches --budget units=3 -o small", "Linear"),
    ],
)
def test_a_wrong_request_leaves_nothing(shoal, files, typed, message):
    before = files()
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == before


def test_a_folder_that_fails_verification_exits_with_1_and_leaves_no_folder(shoal, place, monkeypatch):
    def fail(*args, **more):
        raise VerificationError("the outputs differ")

    monkeypatch.setattr("shoal.surgery.publishing.verify", fail)
    outcome = shoal(f"{TYPED} -o small --json")
    assert (outcome.code, outcome.out) == (1, "")
    assert "the outputs differ" in outcome.err
    assert not (place / "small").exists()


@pytest.mark.parametrize(
    "flag", ["--resume", "--heal-epochs 1", "--heal-data digits", "--eval-data net.py:data"]
)
def test_a_dry_run_refuses_what_it_would_ignore(shoal, files, flag):
    outcome = shoal(f"{TYPED} --dry-run {flag}")
    assert outcome.code == 2
    assert f"asked for {flag.split()[0]} with --dry-run" in outcome.err


def test_a_dry_run_refuses_a_method_that_trains_while_it_chooses(shoal, files):
    typed = "compress net.py:make --data net.py:batches --budget units=3 --method cka --set heal.epochs=1"
    outcome = shoal(f"{typed} --dry-run")
    assert outcome.code == 2
    assert "asked for --dry-run with cka and healing after its rounds" in outcome.err
    assert shoal(f"{typed} --dry-run --heal-data digits:train").code == 2
    assert files() == ["net.py"]
