import warnings

import pytest
import typer

from shoal.cli.console import show_warnings
from shoal.cli.exits import Exits, Interrupted
from shoal.errors import (
    BudgetError,
    ConfigError,
    DataError,
    MissingExtraError,
    PlanError,
    ShoalWarning,
    SurgeryError,
    UnitError,
    UnknownArchitectureError,
    VerificationError,
)

WRONG = [ConfigError, BudgetError, PlanError, UnitError, DataError, UnknownArchitectureError]


def leave_by(error, *, debug=False):
    with Exits(debug=debug) as exits:
        raise error
    return exits.code


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_request_exits_with_2_and_its_message(kind, capsys):
    assert leave_by(kind("asked for x: found y.")) == 2
    assert capsys.readouterr().err == "error: asked for x: found y.\n"


def test_a_missing_extra_is_a_wrong_request(capsys):
    assert leave_by(MissingExtraError("transformers", extra="hf", purpose="to load it")) == 2
    assert "pip install 'shoal[hf]'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [SurgeryError, VerificationError])
def test_failed_work_exits_with_1(kind, capsys):
    assert leave_by(kind("it broke")) == 1
    assert capsys.readouterr().err == "error: it broke\n"


def test_what_nobody_foresaw_exits_with_1_in_one_line(capsys):
    assert leave_by(KeyError("gone")) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: KeyError: 'gone'\n")
    assert "Traceback" not in said


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), typer.Abort()])
def test_an_interruption_exits_with_130(interruption, capsys):
    assert leave_by(interruption) == 130
    assert capsys.readouterr().err == "interrupted.\n"


def test_work_that_was_stopped_says_how_far_it_was(capsys):
    assert leave_by(Interrupted("stopped after step 3 of 15")) == 130
    assert capsys.readouterr().err == "stopped after step 3 of 15.\n"


def test_debugging_shows_where_an_error_comes_from(capsys, monkeypatch):
    leave_by(ConfigError("wrong"), debug=True)
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("SHOAL_DEBUG", "1")
    leave_by(ConfigError("wrong"))
    assert "Traceback" in capsys.readouterr().err


def test_a_demanded_exit_passes():
    with pytest.raises(SystemExit):
        leave_by(SystemExit(3))


def test_without_an_error_the_code_stays():
    with Exits() as exits:
        pass
    assert exits.code == 0


def test_a_warning_of_shoals_is_one_line(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always", ShoalWarning)
        show_warnings()
        warnings.warn("look here", ShoalWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: look here\n"
