"""Signals that end a process: obeyed at once, or, while a run trains, noted and obeyed where the work can stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: What a terminal and schedulers send to end a process.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], Any]

_noted: int | None = None


class Stopped(SystemExit):
    """A signal has ended the work; the exit status is 128 + its number.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(128 + number)

    @property
    def name(self) -> str:
        """The signal's name, such as ``SIGTERM``."""
        return signal.Signals(self.number).name


def noted() -> int | None:
    """The number of the signal that has come and not been obeyed yet."""
    return _noted


def check() -> None:
    """Obeys a signal that was noted: called between the steps of environments, where nothing is half done.

    Raises:
        Stopped: there is one.
    """
    if _noted is not None:
        raise Stopped(_noted)


def at_once(number: int, frame: FrameType | None) -> None:
    """A handler: ends what is going on."""
    global _noted
    _noted = number  # as well: an exception may be swallowed where Python calls from C
    raise Stopped(number)


def later(number: int, frame: FrameType | None) -> None:
    """A handler: only notes the signal. Ctrl-C a second time ends what is going on, half done as it is."""
    global _noted
    if number == _noted == signal.SIGINT:
        raise KeyboardInterrupt
    _noted = number


def take_over(handler: Handler) -> dict[int, Any]:
    """Sets the handler of all three signals, where the process may (in its main thread).

    Returns:
        What :func:`give_back` needs.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in STOPPING}


def give_back(handlers: dict[int, Any]) -> None:
    """Sets the handlers that :func:`take_over` replaced."""
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def obeyed() -> Iterator[None]:
    """Within it, a signal ends the work at once, through its ``finally`` clauses, with status 128 + its number."""
    global _noted
    handlers = take_over(at_once)
    try:
        yield
    finally:
        give_back(handlers)
        if handlers:
            _noted = None


def ignore() -> None:
    """Leaves the signals to the parent, which a terminal sends them to as well: it ends its helpers."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def end_with(parent: int) -> None:
    """Ends this process within a second after its parent, whatever it is doing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
