"""What commands print and write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import Interrupted

if TYPE_CHECKING:
    from cutaway.analyses.result import Result

INTERRUPTED = 130  # the exit code of Ctrl-C


def show(result: Result, as_json: bool, output: Path | None) -> None:
    if output:
        result.save(output)
        wrote(output)
    elif as_json:
        print_json(result.to_dict())
    else:
        print(result.summary())


@contextmanager
def kept(as_json: bool, output: Path | None) -> Iterator[None]:
    """Ctrl-C in the middle of a long analysis: what is done is shown or written before the command ends."""
    try:
        yield
    except Interrupted as stopped:
        show(stopped.result, as_json, output)
        print(stopped, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, ensure_ascii=False, allow_nan=False))


def wrote(path: Path) -> None:
    print(path.expanduser().resolve())


def print_table(columns: list[str], rows: Any) -> None:
    cells = [columns, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
