"""`shoal` itself: its verbs, and what every run of it has in common."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from shoal import __version__
from shoal.cli import (
    analyze,
    apply,
    bench,
    compare,
    compress,
    demo,
    doctor,
    evaluate,
    heal,
    plan,
    units,
    verify,
)
from shoal.cli.command import add_verb
from shoal.cli.console import TerminalReporter, show_warnings
from shoal.cli.exits import Exits
from shoal.errors import ShoalWarning
from shoal.progress import reporting

__all__ = ["app", "main", "run"]

_VERBS = (units, analyze, plan, apply, verify, heal, evaluate, bench, compress, compare, doctor, demo)

app = typer.Typer(
    name="shoal",
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"shoal {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def shoal(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which shoal this is."),
    ] = False,
) -> None:
    """Make trained networks shallower: find the layers that a network can do without, remove them
    within a budget, heal, and prove that the result is right."""
    if context.invoked_subcommand is None:
        help_text = context.get_help()
        if help_text:
            print(help_text)


for _verb in _VERBS:
    add_verb(app, _verb.__name__.rpartition(".")[2], _verb.Options, _verb.run)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: What the user typed after `shoal`; the process's own where it is None.

    Returns:
        0; 1 if the work failed; 2 if the request was wrong; 130 if it was interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    with Exits(debug="--debug" in typed) as exits, warnings.catch_warnings():
        warnings.simplefilter("always", ShoalWarning)
        show_warnings()
        with TerminalReporter() as reporter, reporting(reporter):
            exits.code = app(typed, prog_name="shoal", standalone_mode=False) or 0
    return exits.code


def main() -> None:
    """Run the command that the user typed, and leave with its exit code."""
    sys.exit(run())
