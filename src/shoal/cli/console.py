"""What the user sees: tables on stdout; messages, warnings and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalWarning
from shoal.progress import Title, said

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from shoal.reports.tables import Table

__all__ = ["TerminalReporter", "note", "say", "show_json", "show_table", "show_text", "show_warnings"]

_WIDE = 200
# Work that takes less than this shows no progress.
_PATIENCE = 2.0
_EVERY = 5.0


def say(message: str) -> None:
    """Write one message to stderr."""
    print(message, file=sys.stderr)


def note(message: str, *, quiet: bool = False) -> None:
    """Write what has been done to stderr, unless quiet."""
    if not quiet:
        say(message)


def show_text(text: str) -> None:
    """Write text to stdout."""
    print(text)


def show_json(document: Any) -> None:
    """Write one JSON document to stdout; numbers that are not finite become null.

    Example:
        >>> show_json({"loss": float("nan")})
        {
          "loss": null
        }
    """
    print(json.dumps(_plain(document), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def show_table(table: Table) -> None:
    """Write a table to stdout, with its title above and its notes below."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Grid
    from rich.text import Text

    console = _console(stderr=False)
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False)
    for name, right in table.columns:
        grid.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*map(Text, row))
    console.print(Text(table.title, style="bold"))
    if table.rows:
        console.print(grid)
    for line in table.notes:
        console.print(Text(line), soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False)


def show_warnings() -> None:
    """Show shoal's warnings as one line; inside `warnings.catch_warnings` only."""
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ShoalWarning):
            say(f"warning: {message}")
        else:
            usual(message, category, *where, **more)

    warnings.showwarning = show


class TerminalReporter:
    """Shows on stderr how far long work has come: bars on a terminal, lines elsewhere.

    Nothing is shown of what takes less than two seconds.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._running = 0

    def __enter__(self) -> TerminalReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @contextmanager
    def task(self, title: Title, total: int | None) -> Iterator[Callable[[int], None]]:
        """Yield the function that is told the steps done."""
        if not sys.stderr.isatty():
            yield _Lines(title, total).advance
            return
        bars = self._start()
        number = bars.add_task(said(title), total=total)

        def advance(steps: int) -> None:
            bars.update(number, advance=steps, description=said(title))

        try:
            yield advance
        finally:
            bars.remove_task(number)
            self._running -= 1
            if self._running == 0:
                # A screen that refreshes would disturb what is timed next.
                self._stop()

    def _start(self) -> Progress:
        if self._bars is None:
            self._bars = _late_bars()
            self._bars.start()
        self._running += 1
        return self._bars

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None


def _late_bars() -> Progress:
    from rich.console import RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Late(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table([task for task in self.tasks if (task.elapsed or 0) > _PATIENCE])

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Late(*columns, console=_console(stderr=True), refresh_per_second=4, transient=True)


class _Lines:
    """Progress where there is no terminal: a line every few seconds."""

    def __init__(self, title: Title, total: int | None) -> None:
        self.title, self.total, self.done = title, total, 0
        self.begun = time.monotonic()
        self.due = self.begun + _PATIENCE

    def advance(self, steps: int) -> None:
        """Count the steps, and say how far the work has come where it is time to."""
        self.done += steps
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + _EVERY
        say(f"{said(self.title)}: {self._state(now - self.begun)}")

    def _state(self, elapsed: float) -> str:
        if not self.total:
            return f"{self.done:,} done"
        left = elapsed * (self.total - self.done) / max(self.done, 1)
        return f"{100 * self.done // self.total} % ({self.done:,} of {self.total:,}), {left:.0f} s left"
