"""Save results: the form of JSON output, and tables as JSON, CSV and Parquet files."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import OutputError
from cutaway.files import replacing

if TYPE_CHECKING:
    import pandas as pd

DATA_ENDINGS = (".json", ".csv", ".parquet")
CHART_ENDINGS = (".html", ".png", ".svg")


def ending(path: str | os.PathLike[str], known: tuple[str, ...] = CHART_ENDINGS + DATA_ENDINGS) -> str:
    """Return a path's ending in lower case. Raises OutputError for an ending that is not among the known ones."""
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        got = f"ends in {suffix!r}" if suffix else "has no ending"
        raise OutputError(f"{path} {got}: one of {' '.join(known)} was expected")
    return suffix


def save_table(path: str | os.PathLike[str], table: pd.DataFrame, to_dict: Callable[[], Any]) -> None:
    """Write a table in the form that its path's ending names: .json (what `to_dict()` returns), .csv or .parquet."""
    with replacing(path) as temporary:
        match Path(path).suffix.lower():
            case ".json":
                temporary.write_text(json.dumps(to_dict(), ensure_ascii=False, allow_nan=False), encoding="utf-8")
            case ".csv":
                # Quoted, as Python's csv leaves a token that is a carriage return bare.
                table.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)
            case ".parquet":
                table.to_parquet(temporary, index=False)


def envelope(analysis: str, meta: Mapping[str, Any], table: pd.DataFrame, version: int = 1) -> dict[str, Any]:
    """Return data in the form of every JSON output."""
    return {"analysis": analysis, "version": version, "meta": plain(meta), "data": plain(table.to_dict("records"))}


def plain(value: Any) -> Any:
    """Return nested data as plain Python: scalars of NumPy and pandas as Python's, NaN, infinities and NA as None."""

    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    import pandas as pd

    return None if pd.isna(value) else str(value)
