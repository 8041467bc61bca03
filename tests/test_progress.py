"""Progress is shown on a terminal, and nowhere else."""

import os
import re
import signal

import pytest

from cutaway.progress import track
from cutaway.stopping import undisturbed
from tests.terminal import Terminal

NESTED = """
import sys
from cutaway.progress import track
def inner():
    for i in track(range(3), "inner", 3):
        yield i
def broken():
    raise ValueError("stop")
    yield
seen = [list(inner()) for _ in track("ab", "outer", 2)]
try:
    list(track(broken(), "broken"))
except ValueError:
    pass
from cutaway import progress
assert progress._display is None
print(seen)
"""


def test_without_a_terminal_nothing_is_written(capfd):
    assert list(track(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


def test_items_come_one_by_one():
    drawn = []

    def source():
        for i in range(3):
            drawn.append(i)
            yield i

    items = track(source(), "reading")
    next(items)
    assert drawn == [0]


def test_an_error_of_the_source_is_passed_on():
    def source():
        yield 1
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        list(track(source(), "reading"))


def test_bars_inside_bars_share_a_terminal_and_leave_it_clean():
    terminal = Terminal("-c", NESTED)
    assert terminal.finish() == (0, "[[0, 1, 2], [0, 1, 2]]\n")
    shown = terminal.shown
    assert "outer" in shown
    assert "inner" in shown
    assert "Traceback" not in shown
    assert re.findall(r"\x1b\[\?25[lh]", shown)[-1] == "\x1b[?25h"  # the cursor is back
    assert shown.rstrip().endswith(("\x1b[2K", "\x1b[?25h"))  # the last line was erased


def test_ctrl_c_waits_for_the_end_of_the_block_and_a_second_one_does_not():
    handler, done = signal.getsignal(signal.SIGINT), []

    def work(presses):
        with undisturbed():
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
            done.append(presses)

    for presses in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            work(presses)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_in_a_block_within_a_block_waits_for_the_outer_one():
    done = []

    def work():
        with undisturbed():
            with undisturbed():
                os.kill(os.getpid(), signal.SIGINT)
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["outer"]
