"""Define the base class of what every analysis returns.

result.table()       a long-form pandas DataFrame
result.summary()     a few lines of text
result.chart()       an Altair chart
result.to_dict()     plain data; NaN and infinities as None
result.save("x.html")   or .png .svg .json .csv .parquet
result.meta          model fingerprint, input, parameters, versions, active edits, and the call that made it
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.results.saving import DATA_ENDINGS, ending, envelope, save_table
from cutaway.text.display import visible

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The base of all results: frozen data that can be shown as a table, text or chart, and saved."""

    analysis: ClassVar[str]  # module.function
    title: ClassVar[str]  # the question, as a heading
    version: ClassVar[int] = 1  # of the data's form in to_dict()

    meta: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """Return the result as a long-form DataFrame."""
        raise NotImplementedError

    def summary(self) -> str:
        """Return the result in a few lines of text."""
        raise NotImplementedError

    def caption(self) -> str:
        """Return a sentence or two that say what the chart shows, with its units."""
        raise NotImplementedError

    def facts(self) -> list[tuple[str, str]]:
        """Return the one or two numbers worth a headline, as (name, value)."""
        return []

    def chart(self) -> alt.TopLevelMixin:
        """Return the result as an Altair chart."""
        from cutaway import charts

        return charts.draw(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: {"analysis", "version", "meta", "data": [records of table()]}; NaN and infinity as None"""

        return envelope(self.analysis, self.meta, self.table(), self.version)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the chart (.html, offline and interactive; .png; .svg) or the data (.json, .csv, .parquet).

        Raises OutputError for another ending or a path that cannot be written; an existing file is then left as it was.
        """
        if ending(path) in DATA_ENDINGS:
            save_table(path, self.table(), self.to_dict)
            return
        from cutaway.pages import page

        page.save(self, path)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Return the result for a notebook: its summary, and its chart and caption as HTML that needs no network."""

        from cutaway.pages import page

        return {"text/plain": repr(self), "text/html": page.notebook(self)}

    def __repr__(self) -> str:
        return visible(self.summary())
