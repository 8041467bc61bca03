"""Show progress bars on standard error, and nothing where standard error is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
Advance: TypeAlias = "Callable[[float, float | None], None]"
_display: Progress | None = None  # the display on the terminal; bars inside bars share it


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield items, and show a bar with the number that are done and the time left."""
    with meter(description, "", total) as advance:
        for item in items:
            yield item
            advance(1, total)


@contextmanager
def meter(description: str, unit: str, total: float | None = None) -> Iterator[Advance]:
    """Show a bar for work whose total is an estimate; yields `advance(amount, total)`, with None for no estimate.

    The bar shows the amount that is done, the time left and, where there is a `unit`, the amount per second.
    """
    global _display
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    outermost = _display is None
    display = _display = _display or _new_display()
    task = display.add_task(description, total=total, unit=unit)

    def advance(amount: float, total: float | None) -> None:
        display.update(task, advance=amount, total=total)

    try:
        yield advance
    finally:
        display.remove_task(task)
        if outermost:
            display.stop()
            _display = None


def _new_display() -> Progress:
    """Start a display on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Amount(ProgressColumn):
        """The amount that is done, of the total, and per second."""

        def render(self, task: Task) -> Text:
            """Return the column's text."""
            of = "" if task.total is None else f"/{task.total:,.0f}"
            unit = task.fields["unit"]
            speed = f"  {task.speed:,.0f} {unit}/s" if unit and task.speed else ""
            return Text(f"{task.completed:,.0f}{of}{f' {unit}' if unit else ''}{speed}")

    columns = (TextColumn("{task.description}"), BarColumn(), Amount(), TimeRemainingColumn())
    display = Progress(*columns, console=Console(stderr=True), transient=True)
    display.start()
    return display
