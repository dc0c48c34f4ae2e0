"""From what went wrong to one message and an exit code.

0 done; 1 the work failed, nothing half-written is left; 2 the request was wrong, the message says
what would work; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

import typer

from shoal.cli.console import say
from shoal.errors import ShoalError, SurgeryError, VerificationError

__all__ = ["FAILED", "INTERRUPTED", "WRONG", "Exits", "Interrupted"]

FAILED, WRONG, INTERRUPTED = 1, 2, 130
# Newer typer carries a copy of click of its own, so its exceptions are found by what it exports.
_Usage = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


class Interrupted(BaseException):
    """Work that Ctrl-C has stopped, and in words how far it was; typer keeps the code of others alone."""


class Exits:
    """A `with` that turns every exception into a message on stderr and an exit code.

    Args:
        debug: Whether to show where an exception came from; the variable SHOAL_DEBUG does it too.

    Attributes:
        code: The exit code.
    """

    def __init__(self, *, debug: bool = False) -> None:
        self.debug = debug or bool(os.environ.get("SHOAL_DEBUG"))
        self.code = 0

    def __enter__(self) -> Exits:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            if self.code == INTERRUPTED:
                say("interrupted.")
            return True
        if isinstance(error, (SystemExit, GeneratorExit)):
            return False
        if self.debug:
            traceback.print_exception(error)
        self.code = self._report(error)
        return True

    def _report(self, error: BaseException) -> int:
        if isinstance(error, (Interrupted, KeyboardInterrupt, typer.Abort)):
            say(f"{str(error) or 'interrupted'}.")
            return INTERRUPTED
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has gone; Python would complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        if isinstance(error, _Usage):
            say(f"error: {_usage(error)}")
            return WRONG
        if isinstance(error, ShoalError):
            say(f"error: {error}")
            return FAILED if isinstance(error, (SurgeryError, VerificationError)) else WRONG
        say(f"error: {type(error).__name__}: {error}")
        if not self.debug:
            say("This is none of shoal's own messages; --debug shows where it comes from.")
        return FAILED


def _usage(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    verb = getattr(context, "command_path", "shoal")
    # A question that names the nearest word is its own hint.
    end = "" if message.endswith("?") else "."
    return f"{message}{end} `{verb} --help` lists what works."
