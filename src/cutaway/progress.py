"""Show progress bars on standard error, and nothing where standard error is not a terminal."""

from __future__ import annotations

import sys
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
