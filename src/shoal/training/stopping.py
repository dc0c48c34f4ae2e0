"""Ctrl-C in a training run: the step in progress is finished and its state kept before the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stoppable"]


@contextmanager
def stoppable(*, wanted: bool = True) -> Iterator[Callable[[], bool]]:
    """Yield what says whether Ctrl-C was pressed inside the `with`, where that raises nothing at first.

    A second Ctrl-C raises `KeyboardInterrupt` at once. In other threads than the main one, and where the
    caller has a handler of its own or ignores Ctrl-C, that stays as it is.

    Args:
        wanted: Whether this is wanted at all.

    Example:
        >>> with stoppable() as stopping:
        ...     stopping()
        False
    """
    usual, asked = signal.default_int_handler, list[bool]()
    main = threading.current_thread() is threading.main_thread()
    if not (wanted and main and signal.getsignal(signal.SIGINT) is usual):
        yield lambda: False
        return

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(True)
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, usual)
