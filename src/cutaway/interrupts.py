"""Ctrl-C while modules are imported: an end at once, for an interrupt inside an import can come out as anything."""

from __future__ import annotations

import os
import signal
import types


def leave_at_once() -> None:
    """Make Ctrl-C end the program with 130 and one word, until `work_begins()`: there is nothing yet to lose."""
    signal.signal(signal.SIGINT, _leave)


def work_begins() -> None:
    """Make Ctrl-C a KeyboardInterrupt again, as what runs from here on knows how to end with one."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001 - what a handler is given
    os.write(2, b"interrupted\n")
    os._exit(130)
