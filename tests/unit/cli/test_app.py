import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from shoal import __version__
from shoal.cli import app

VERBS = (
    "compare",
    "export",
    "units",
    "analyze",
    "plan",
    "apply",
    "verify",
    "heal",
    "evaluate",
    "bench",
    "compress",
    "doctor",
    "demo",
)


def test_the_version_is_said(shoal):
    outcome = shoal("--version")
    assert (outcome.code, outcome.out) == (0, f"shoal {__version__}\n")


def test_without_a_verb_the_help_lists_all_verbs(shoal):
    outcome = shoal("")
    assert outcome.code == 0
    assert all(verb in outcome.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_every_flag(shoal, verb):
    outcome = shoal(f"{verb} --help")
    assert outcome.code == 0
    assert "--json" in outcome.out
    assert "--config" in outcome.out


def test_help_does_not_import_torch_and_is_quick():
    code = (
        "import sys\nfrom shoal.cli import run\n"
        "run(['--help']), run(['compress', '--help']), run(['no-such-verb'])\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    begun = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    # A bound with room: it takes about 0.4 seconds on a machine that does nothing else.
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("unit net.py:make", "units"), ("units --dta x", "--data"), ("compres m", "compress")],
)
def test_an_unknown_verb_or_flag_names_the_nearest(shoal, typed, nearest):
    outcome = shoal(typed)
    assert outcome.code == 2
    assert outcome.out == ""
    assert nearest in outcome.err
    assert outcome.err.startswith("error: ")


def test_a_flag_that_a_verb_does_not_use_is_refused(shoal):
    outcome = shoal("verify small --budget macs=0.5")
    assert outcome.code == 2
    assert "--budget" in outcome.err


def test_a_value_of_the_wrong_kind_is_refused(shoal):
    outcome = shoal("evaluate net.py:make --data digits --batch-size many")
    assert outcome.code == 2
    assert "--batch-size" in outcome.err


@pytest.mark.parametrize("module", ["shoal.__main__", "shoal.cli"])
def test_the_module_leaves_with_the_exit_code(module):
    code = f"import sys; sys.argv = ['shoal', 'nothing']; from {module} import main; main()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 2


@pytest.fixture
def launch(monkeypatch):
    """`launch(number)` makes this process one of two, as a launcher does."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    return lambda number: monkeypatch.setenv("RANK", str(number))


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("units", "net.py:make"),
        ("plan", "net.py:make --data net.py:batches --budget units=3 -o plan.json"),
        ("compress", "net.py:make --data net.py:batches --budget units=3 -o small"),
        ("verify", "small"),
    ],
)
def test_verbs_that_several_processes_do_not_share_are_refused_in_them(shoal, launch, files, name, rest):
    launch(0)
    outcome = shoal(f"{name} {rest}")
    assert outcome.code == 2
    assert f"asked for `shoal {name}` in 2 processes: it works in one" in outcome.err
    assert "analyze and train share their data among several" in outcome.err
    assert files() == ["net.py"]


def test_only_the_main_process_speaks(shoal, launch):
    launch(1)
    outcome = shoal("units net.py:make")
    assert (outcome.code, outcome.out, outcome.err) == (2, "", "")
    debugged = shoal("units net.py:make --debug")
    assert (debugged.code, debugged.out) == (2, "")
    assert "ConfigError" in debugged.err


def test_each_of_several_processes_takes_a_device_of_its_own(shoal, launch):
    launch(0)
    outcome = shoal("analyze net.py:make --data net.py:batches --device cuda:1")
    assert outcome.code == 2
    assert "asked for --device cuda:1 in 2 processes" in outcome.err
    assert "or say cuda" in outcome.err


def test_processes_that_a_launcher_starts_write_what_one_writes(shoal, place):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    settings = [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    ]
    work = ["-m", "shoal", "analyze", "net.py:make", "--data", "net.py:batches"]
    said = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launcher, *settings, *work, "-o", "two.json"], env=said, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("evidence written to two.json") == 1
    assert done.stdout.count("scored on net.py:batches, 48 samples, 3 batches") == 2
    assert shoal("analyze net.py:make --data net.py:batches -o one.json").code == 0
    one, two = (json.loads((place / name).read_text()) for name in ("one.json", "two.json"))
    assert one.keys() == two.keys()
    for name, values in one["importance"].items():
        assert two["importance"][name] == pytest.approx(values, rel=1e-6), name
    for name in ("boundary_similarity", "angular_distance"):
        assert np.array(two[name], float) == pytest.approx(np.array(one[name], float), rel=1e-6, nan_ok=True)
    assert two["data"] == one["data"] | {"loss": pytest.approx(one["data"]["loss"], rel=1e-6)}


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_of_several_ends_at_once_with_its_exit_code(count, monkeypatch):
    ended = []
    monkeypatch.setattr(app, "run", lambda: 2)
    monkeypatch.setattr(app, "started", lambda: count)
    monkeypatch.setattr(app.os, "_exit", lambda code: ended.append(code))
    with pytest.raises(SystemExit) as left:
        app.main()
    assert (left.value.code, ended) == (2, [2] * (count > 1))
