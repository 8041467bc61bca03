"""Print and write the results of commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import Interrupted
from cutaway.text.display import CONTROLS, visible

if TYPE_CHECKING:
    from cutaway.results.result import Result

INTERRUPTED = 130  # the exit code of Ctrl-C


def show(result: Result, as_json: bool, output: Path | None) -> None:
    """Write a result to `output`, or print it as JSON, or print its summary."""
    if output:
        result.save(output)
        print_path(output)
    elif as_json:
        print_json(result.to_dict())
    else:
        print(visible(result.summary()))


@contextmanager
def showing_partial_results(as_json: bool, output: Path | None) -> Iterator[None]:
    """Show or write what a long analysis has done by Ctrl-C, then end the command."""
    try:
        yield
    except Interrupted as stopped:
        show(stopped.result, as_json, output)
        print(visible(str(stopped)), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def print_json(data: dict[str, Any]) -> None:
    """Print data as exact JSON; escape every character that could steer a terminal."""
    written = json.dumps(data, ensure_ascii=False, allow_nan=False)
    print(CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", written))


def print_path(path: Path) -> None:
    """Print where a file was written."""
    print(visible(str(path.expanduser().resolve())))


def print_table(columns: list[str], rows: Any) -> None:
    """Print rows of cells under the names of their columns, aligned."""
    cells = [columns, *([visible(str(value)) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
