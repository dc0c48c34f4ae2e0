"""How far long work has come: stages report here, whoever started them decides what is shown.

The library shows nothing by itself. The command line installs a bar with the time left; a notebook
may install its own `Reporter`. Of several processes only the main one reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol, TypeVar

from shoal.launchers import is_main

__all__ = ["Reporter", "Title", "length", "reporting", "said", "task", "track"]

T = TypeVar("T")
Title = str | Callable[[], str]
"""What is being done, for the person who waits; a function is asked again whenever it is shown."""


class Reporter(Protocol):
    """Shows how far a task has come."""

    def task(self, title: Title, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """Return a context in which the yielded function is called with the steps done."""
        ...


_reporter: ContextVar[Reporter | None] = ContextVar("shoal_reporter", default=None)


@contextmanager
def reporting(reporter: Reporter | None) -> Iterator[None]:
    """Send all progress inside the `with` to `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def task(title: Title, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
    """Return a context that yields `advance(steps)`, for work that is no simple loop.

    Example:
        >>> with task("scoring", total=2) as advance:
        ...     advance(1)
    """
    reporter = _reporter.get() if is_main() else None
    return nullcontext(lambda steps: None) if reporter is None else reporter.task(title, total)


def track(items: Iterable[T], title: Title, total: int | None = None) -> Iterator[T]:
    """Yield the items and report each as it is done.

    Args:
        items: What to go through.
        title: What is being done, for the person who waits.
        total: How many; taken from `len(items)` where it has one.

    Example:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    with task(title, length(items) if total is None else total) as advance:
        for item in items:
            yield item
            advance(1)


def said(title: Title) -> str:
    """Return a title as it reads now.

    Example:
        >>> said("scoring"), said(lambda: "training, loss 0.5")
        ('scoring', 'training, loss 0.5')
    """
    return title if isinstance(title, str) else title()


def length(items: Iterable[object]) -> int | None:
    """Return how many items there are, None if that cannot be known beforehand."""
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        # A loader of a stream has a length in name only.
        return None
