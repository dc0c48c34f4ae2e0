"""The demo as a new user runs it: train, compress to 0.6 of the latency, heal, verify, load again."""

import json

import pytest

import shoal
from shoal.cli import run
from shoal.data import load_data
from shoal.measurement import evaluate_quality


def test_the_demo_leaves_a_verified_smaller_and_quicker_network(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="needs the extra demo")
    monkeypatch.chdir(tmp_path)
    # Without --json, as `make demo` runs it: its tables are what a new user sees first.
    code = run(["demo"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "of the original's, measured" in captured.out
    found = json.loads((tmp_path / "shoal-demo" / "shoal.json").read_text())

    assert [path.name for path in tmp_path.iterdir()] == ["shoal-demo"]
    assert found["verification"]["passed"]
    assert found["plan"]["steps"]
    assert found["after"]["latency"] < 0.8 * found["before"]["latency"]
    assert found["before"]["quality"]["accuracy"] > 0.95
    assert found["after"]["quality"]["accuracy"] > 0.93

    small = shoal.load(tmp_path / "shoal-demo")
    quality = evaluate_quality(small, load_data("digits:test").batches)
    assert quality["accuracy"] == pytest.approx(found["after"]["quality"]["accuracy"])
