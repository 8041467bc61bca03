"""End work early and cleanly: at Ctrl-C, or when its client has left.

with undisturbed(): ...                 defer Ctrl-C until a block has finished
with stoppable(left): ...               cancel long work at its next `stop_point()` once left() is true
leave_at_once(); work_begins()          end the whole program at Ctrl-C, while modules are still being imported
"""

from __future__ import annotations

import os
import signal
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_deferring = False  # whether the main thread is in a block that Ctrl-C waits for


@contextmanager
def undisturbed() -> Iterator[None]:
    """Defer Ctrl-C until the block has finished, so that its work is done completely or not at all.

    A second Ctrl-C ends the block at once. Inside such a block another one adds nothing: the outer one decides.
    """
    global _deferring
    signals: list[int] = []

    def note(number: int, _: object) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)

    # Signals arrive in the main thread.
    if threading.current_thread() is not threading.main_thread() or _deferring:
        yield
        return
    before, _deferring = signal.signal(signal.SIGINT, note), True
    try:
        yield
    finally:
        _deferring = False
        signal.signal(signal.SIGINT, before)
    if signals:
        raise KeyboardInterrupt


class Stopped(BaseException):
    """Raised to end cancelled work; a BaseException, so that no analysis handles it as an error of its own."""


_current = threading.local()


@contextmanager
def stoppable(left: Callable[[], bool]) -> Iterator[None]:
    """End this thread's work with Stopped at its next `stop_point()` once `left()` is true."""
    before = getattr(_current, "left", None)
    _current.left = left
    try:
        yield
    finally:
        _current.left = before


def stop_point() -> None:
    """Raise Stopped if the current work was cancelled.

    Every site of a forward pass and every step of a long loop calls this.
    """
    left = getattr(_current, "left", None)
    if left is not None and left():
        raise Stopped


def leave_at_once() -> None:
    """Make Ctrl-C end the program with exit status 130 and one word, until `work_begins()` is called.

    An interrupt inside an import can come out as any error, and before work begins there is nothing to lose.
    """
    signal.signal(signal.SIGINT, _leave)


def work_begins() -> None:
    """Make Ctrl-C a KeyboardInterrupt again, which all later code handles."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001 - the arguments of a signal handler
    os.write(2, b"interrupted\n")
    os._exit(130)
