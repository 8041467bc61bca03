"""Progress bars on standard error, and nowhere when that is not a terminal; work that Ctrl-C lets finish, and work
that is given up when nobody waits for it any more.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
Advance: TypeAlias = "Callable[[int, float | None], None]"
_display: Progress | None = None  # the one that is on the terminal; bars inside bars share it


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar that shows how many are done and the time left."""
    with meter(description, "", total) as advance:
        for item in items:
            yield item
            advance(1, total)


@contextmanager
def meter(description: str, unit: str, total: float | None = None) -> Iterator[Advance]:
    """A bar for work whose amount is known only roughly: yields `advance(amount, total)`, total None where unknown.

    Shows what is done, how much a second where there is a unit, and the time left.
    """
    global _display
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    outermost = _display is None
    display = _display = _display or _new_display()
    task = display.add_task(description, total=total, unit=unit)

    def advance(amount: int, total: float | None) -> None:
        display.update(task, advance=amount, total=total)

    try:
        yield advance
    finally:
        display.remove_task(task)
        if outermost:
            display.stop()
            _display = None


def _new_display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            of = "" if task.total is None else f"/{task.total:,.0f}"
            unit = task.fields["unit"]
            speed = f"  {task.speed:,.0f} {unit}/s" if unit and task.speed else ""
            return Text(f"{task.completed:,.0f}{of}{f' {unit}' if unit else ''}{speed}")

    columns = (TextColumn("{task.description}"), BarColumn(), Amount(), TimeRemainingColumn())
    display = Progress(*columns, console=Console(stderr=True), transient=True)
    display.start()
    return display


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, so that it is done whole or not at all; a second one does not wait."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():  # signals arrive elsewhere
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


class Stopped(BaseException):
    """Work was given up. No Exception, so that no analysis takes it for an error of its own."""


_wanted = threading.local()


@contextmanager
def stoppable(left: Callable[[], bool]) -> Iterator[None]:
    """Work in this thread ends with Stopped at its next `stop_point()` once `left()` is true."""
    before = getattr(_wanted, "left", None)
    _wanted.left = left
    try:
        yield
    finally:
        _wanted.left = before


def stop_point() -> None:
    """A place where work can be given up: every site of a forward pass is one, and every step of a long loop."""
    left = getattr(_wanted, "left", None)
    if left is not None and left():
        raise Stopped
