"""Ctrl-C or SIGTERM in a training run: the step in progress is finished and its state kept first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stoppable"]


@contextmanager
def stoppable(*, wanted: bool = True) -> Iterator[Callable[[], bool]]:
    """Yield what says whether Ctrl-C was pressed inside the `with`, or SIGTERM sent, where that does nothing
    at first.

    A second one acts at once. In other threads than the main one, and where the caller has a handler of its
    own or ignores the signal, that stays as it is.

    Args:
        wanted: Whether this is wanted at all.

    Example:
        >>> with stoppable() as stopping:
        ...     stopping()
        False
    """
    asked = list[bool]()
    main = threading.current_thread() is threading.main_thread()
    usual = {number: how for number, how in _USUAL.items() if signal.getsignal(number) is how}
    if not (wanted and main):
        usual.clear()

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(True)
        signal.signal(number, usual[number])

    for number in usual:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, how in usual.items():
            signal.signal(number, how)


_USUAL = {int(signal.SIGINT): signal.default_int_handler, int(signal.SIGTERM): signal.SIG_DFL}
