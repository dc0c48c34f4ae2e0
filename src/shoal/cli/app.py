"""`shoal` itself: its verbs, and what every run of it has in common."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

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
    export,
    heal,
    plan,
    train,
    units,
    verify,
)
from shoal.cli.command import add_verb
from shoal.cli.console import TerminalReporter, show_warnings
from shoal.cli.exits import Exits, Interrupted
from shoal.errors import ConfigError, ShoalWarning
from shoal.launchers import is_main, started
from shoal.processes import together
from shoal.progress import reporting

__all__ = ["app", "main", "run"]

_VERBS = (
    units,
    analyze,
    plan,
    apply,
    verify,
    heal,
    train,
    evaluate,
    bench,
    compress,
    compare,
    export,
    doctor,
    demo,
)
# Verbs whose work several processes share; the others would all do the same, and write the same files.
_SHARED = ("analyze", "train")

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


def _launched(name: str, work: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let several processes do the work of a verb together, or refuse to."""

    @wraps(work)
    def run_verb(options: Any) -> None:
        if started() == 1:
            try:
                work(options)
            except KeyboardInterrupt as error:
                raise Interrupted(*error.args) from error
            return
        if name not in _SHARED:
            raise ConfigError(
                f"asked for `shoal {name}` in {started()} processes: it works in one. Start it without "
                f"`accelerate launch` or torchrun; {' and '.join(_SHARED)} share their data among several."
            )
        device = getattr(options, "device", None) or ""
        if ":" in device:
            raise ConfigError(
                f"asked for --device {device} in {started()} processes: each takes a device of its own. "
                f"Leave --device out, or say {device.partition(':')[0]}."
            )
        with together():
            work(options)

    return run_verb


for _verb in _VERBS:
    _name = _verb.__name__.rpartition(".")[2]
    add_verb(app, _name, _verb.Options, _launched(_name, _verb.run))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: What the user typed after `shoal`; the process's own where it is None.

    Returns:
        0; 1 if the work failed; 2 if the request was wrong; 130 if it was interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed
    with _one_speaks(debug=debug), Exits(debug=debug) as exits, warnings.catch_warnings():
        warnings.simplefilter("always", ShoalWarning)
        show_warnings()
        with TerminalReporter() as reporter, reporting(reporter):
            exits.code = app(typed, prog_name="shoal", standalone_mode=False) or 0
    return exits.code


@contextmanager
def _one_speaks(*, debug: bool) -> Iterator[None]:
    """Keep all but the main one of several processes silent; with `debug`, off stdout alone."""
    if is_main():
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        errors = sys.stderr if debug else nowhere
        with redirect_stdout(nowhere), redirect_stderr(errors):
            yield


def main() -> None:
    """Run the command that the user typed, and leave with its exit code."""
    code = run()
    if started() > 1:
        # All is written, and threads of the process group abort now and then while a process ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
