import json
import sys

import pytest

from shoal.cli import console
from shoal.cli.console import TerminalReporter, show_json, show_table
from shoal.progress import reporting, task, track
from shoal.reports import Table


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_null_for_what_is_no_number(value, capsys):
    show_json({"a": [value, 1.5], "b": (True, None, "x")})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": [True, None, "x"]}


def test_a_table_keeps_brackets_as_they_are(capsys):
    show_table(
        Table(title="[start, stop)", columns=(("[bold]", False),), rows=(("[0, 3)",),), notes=("[x]",))
    )
    out = capsys.readouterr().out
    assert all(text in out for text in ("[start, stop)", "[bold]", "[0, 3)", "[x]"))


def test_a_table_without_rows_is_its_title(capsys):
    show_table(Table(title="nothing", columns=(("a", True),), rows=()))
    assert capsys.readouterr().out.strip() == "nothing"


def test_quick_work_shows_no_progress(capsys):
    with TerminalReporter() as reporter, reporting(reporter):
        assert list(track(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_long_work_says_how_far_it_is_on_stderr_only(capsys, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE", 0.0)
    with TerminalReporter() as reporter, reporting(reporter), task("scoring", total=4) as advance:
        advance(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scoring: 25 % (1 of 4), ")


def test_progress_without_a_total_counts(capsys, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE", 0.0)
    with TerminalReporter() as reporter, reporting(reporter), task("reading") as advance:
        advance(3)
    assert capsys.readouterr().err == "reading: 3 done\n"


def test_on_a_terminal_there_is_a_bar_that_goes_away(capsys, monkeypatch):
    monkeypatch.setattr(console, "_PATIENCE", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with TerminalReporter() as reporter, reporting(reporter):
        with task("outer", total=2) as outer, task("inner", total=1) as inner:
            inner(1)
            outer(2)
        assert reporter._bars is None
    out, err = capsys.readouterr()
    assert out == ""
    assert "outer" in err
