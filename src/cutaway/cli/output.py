"""What commands print and write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import Interrupted
from cutaway.text.tokens import STEERING, visible

if TYPE_CHECKING:
    from cutaway.results.result import Result

INTERRUPTED = 130  # the exit code of Ctrl-C


def show(result: Result, as_json: bool, output: Path | None) -> None:
    if output:
        result.save(output)
        wrote(output)
    elif as_json:
        print_json(result.to_dict())
    else:
        print(visible(result.summary()))


@contextmanager
def kept(as_json: bool, output: Path | None) -> Iterator[None]:
    """Ctrl-C in the middle of a long analysis: what is done is shown or written before the command ends."""
    try:
        yield
    except Interrupted as stopped:
        show(stopped.result, as_json, output)
        print(visible(str(stopped)), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def print_json(data: dict[str, Any]) -> None:
    """Print data as JSON, exact; what could steer a terminal is escaped, as JSON itself has it below U+0020."""
    written = json.dumps(data, ensure_ascii=False, allow_nan=False)
    print(STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", written))


def wrote(path: Path) -> None:
    print(visible(str(path.expanduser().resolve())))


def print_table(columns: list[str], rows: Any) -> None:
    cells = [columns, *([visible(str(value)) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
