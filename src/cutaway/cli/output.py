"""What commands print and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.analyses.result import Result


def show(result: Result, as_json: bool, output: Path | None) -> None:
    if output:
        result.save(output)
        wrote(output)
    elif as_json:
        print_json(result.to_dict())
    else:
        print(result.summary())


def print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, ensure_ascii=False, allow_nan=False))


def wrote(path: Path) -> None:
    print(path.expanduser().resolve())


def print_table(columns: list[str], rows: Any) -> None:
    cells = [columns, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
