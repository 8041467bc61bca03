"""Draw a result: the Altair chart of its analysis, or a picture of it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.charts.theme import LIGHT
from cutaway.files import replacing

if TYPE_CHECKING:
    import altair as alt

    from cutaway.results.result import Result


def draw(result: Result, at: Mapping[str, Any] | None = None) -> alt.TopLevelMixin:
    """Return the chart of a result, in the light theme.

    The chart of the analysis "patching.path" is made by the function `path` of cutaway.charts.patching.

    `at` sets sliders and choices by their names, such as {"layer": 2, "head": 5}. Names that the chart does not have
    are left out, and a number beyond a slider's end becomes that end.
    """
    home, _, function = result.analysis.partition(".")
    chart = getattr(importlib.import_module(f"cutaway.charts.{home}"), function or home)(result)
    params = chart.params if isinstance(chart.params, list) else []  # altair's Undefined where there are none
    for param in params if at else ():
        if (value := (at or {}).get(param.name)) is not None:
            bind = param.bind.to_dict()
            param.value = min(max(value, bind["min"]), bind["max"]) if bind["input"] == "range" else value
    return chart.configure(**LIGHT)  # type: ignore[no-any-return]


def save(result: Result, path: str | os.PathLike[str], at: Mapping[str, Any] | None = None) -> None:
    """Write a chart as a picture, .png or .svg; `at` is what draw() takes."""
    ending = Path(path).suffix.lower()
    with replacing(path) as temporary, altairs_own():
        chart = draw(result, at)
        if ending == ".png":
            chart.save(temporary, format="png", scale_factor=2)
        else:
            chart.save(temporary, format="svg")


@contextmanager
def altairs_own() -> Iterator[None]:
    """Use altair's defaults, not the theme and data handling that a notebook has set for its own charts."""
    import altair as alt

    with alt.data_transformers.enable("default", max_rows=None), alt.theme.enable("default"):
        yield
