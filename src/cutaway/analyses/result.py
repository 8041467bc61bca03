"""What every analysis returns.

result.table()       a long-form pandas DataFrame
result.summary()     a few lines of text
result.chart()       an Altair chart
result.to_dict()     plain data; NaN and infinities as None
result.save("x.html")   or .png .svg .json .csv .parquet
result.meta          model fingerprint, input, parameters, versions, active edits, and the call that made it
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.arguments import is_whole
from cutaway.corpus import open_corpus
from cutaway.errors import OutputError
from cutaway.files import replacing
from cutaway.tokens import visible
from cutaway.versions import versions

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from cutaway.model.model import Model

DATA_ENDINGS = (".json", ".csv", ".parquet")
CHART_ENDINGS = (".html", ".png", ".svg")
LONGEST = 1200  # characters of an input that are written out in a call


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The base of all results: data, and what it can turn itself into."""

    analysis: ClassVar[str]  # module.function
    title: ClassVar[str]  # the question, as a heading
    version: ClassVar[int] = 1  # of the data's form in to_dict()

    meta: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """The result as a long-form DataFrame."""
        raise NotImplementedError

    def summary(self) -> str:
        """The result in a few lines."""
        raise NotImplementedError

    def caption(self) -> str:
        """What the chart shows, with its units, in a sentence or two."""
        raise NotImplementedError

    def facts(self) -> list[tuple[str, str]]:
        """The one or two numbers worth a headline: (name, value)."""
        return []

    def chart(self) -> alt.TopLevelMixin:
        """The result as an Altair chart."""
        from cutaway import charts

        return charts.draw(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: {"analysis", "version", "meta", "data": [records of table()]}, NaN and infinities as None."""
        return envelope(self.analysis, self.meta, self.table(), self.version)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the chart (.html, offline and interactive; .png; .svg) or the data (.json, .csv, .parquet).

        Raises OutputError for another ending or a place that cannot be written; what was there is then untouched.
        """
        if ending(path) in DATA_ENDINGS:
            save_table(path, self.table(), self.to_dict)
            return
        from cutaway import charts

        charts.save(self, path)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from cutaway import charts

        return {"text/plain": repr(self), "text/html": charts.notebook(self)}

    def __repr__(self) -> str:
        return visible(self.summary())


def ending(path: str | os.PathLike[str], known: tuple[str, ...] = CHART_ENDINGS + DATA_ENDINGS) -> str:
    """What a path ends in, lower case. Raises OutputError where that is not among the known."""
    found = Path(path).suffix.lower()
    if found not in known:
        got = f"ends in {found!r}" if found else "has no ending"
        raise OutputError(f"{path} {got}: one of {' '.join(known)} was expected")
    return found


def save_table(path: str | os.PathLike[str], table: pd.DataFrame, to_dict: Any) -> None:
    """A table by its path's ending: .json (as `to_dict()` gives it), .csv or .parquet."""
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
    """The form of every JSON output."""
    return {"analysis": analysis, "version": version, "meta": plain(meta), "data": plain(table.to_dict("records"))}


class Code(str):
    """What stands in meta under a name, and in a result's call as Python source: its repr."""

    source: str

    def __new__(cls, source: str, name: str | None = None) -> Code:
        made = super().__new__(cls, source if name is None else name)
        made.source = source
        return made

    def __repr__(self) -> str:
        return self.source


def plain(value: Any) -> Any:
    """Nested data with numpy's and pandas's scalars as Python's own, and NaN, infinities and NA as None."""
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


def describe(model: Model | None, analysis: str, subject: Any, /, **parameters: Any) -> dict[str, Any]:
    """A result's meta. `subject` is the text or texts, or None; `parameters` the analysis' own keyword arguments.

    Without a model the subject is the first argument.
    """
    parameters = _counted(parameters)
    if model is None:
        arguments = ", ".join([repr(subject), *(f"{name}={value!r}" for name, value in parameters.items())])
        known = {"model": None, "input": subject, "parameters": parameters, "edits": [], "versions": versions()}
        return known | {"call": f"cutaway.{analysis}({arguments})"}
    return {
        "model": {
            "name": model.name,
            "fingerprint": model.fingerprint,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
        },
        "input": subject,
        "parameters": parameters,
        "edits": model.active_edits,
        "versions": versions(),
        "call": _call(model, analysis, subject, parameters),
    }


def _counted(value: Any) -> Any:
    """Return a parameter with the whole numbers that NumPy or torch made as a call says them."""
    if isinstance(value, dict):
        return {_counted(key): _counted(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_counted, value))
    return int(value) if is_whole(value) else value


def _call(model: Model, analysis: str, subject: Any, parameters: Mapping[str, Any]) -> str:
    """The Python that makes the result again; an input that would fill the page, and an edit that is no number, are
    left as `...` to be put in."""
    lines, arguments = [f"model = {model.origin}"], ["model"]
    if subject is not None:
        literal, name = repr(subject), "texts"
        if isinstance(subject, str):
            name = "ids" if isinstance(subject, Code) else "text"
        if not _is_plain(subject):
            source = open_corpus(subject)
            lines.append(f"corpus = {source.origin}  # {source.name}")
            literal = "corpus"
        elif len(literal) > LONGEST:
            lines.append(f"{name} = ...  # {_size(subject)}")
            literal = name
        arguments.append(literal)
    arguments += [f"{name}={value!r}" for name, value in parameters.items()]
    call = f"cutaway.{analysis}({', '.join(arguments)})"
    if blocks := [", ".join(f"{s!r}: {_source(e)}" for s, e in edits.items()) for edits in model.active_edits]:
        call = f"with {', '.join(f'model.edited({{{block}}})' for block in blocks)}:\n    {call}"
    return "\n".join([*lines, call])


def _is_plain(subject: Any) -> bool:
    """Whether an input is a string or strings, which Python source can spell."""
    if isinstance(subject, Mapping):
        return all(isinstance(text, str) for text in subject.values())
    return isinstance(subject, str) or (isinstance(subject, (list, tuple)) and all(isinstance(t, str) for t in subject))


def _size(subject: Any) -> str:
    """What an input was, in a few words."""
    if isinstance(subject, Code):
        return "token ids [batch, pos]"
    subject = [subject] if isinstance(subject, str) else subject
    texts = list(subject.values()) if isinstance(subject, Mapping) else subject
    characters = f"{sum(map(len, texts)):,} characters"
    return characters if len(texts) == 1 else f"{len(texts):,} texts of {characters} in all"


def _source(edit: str) -> str:
    """A described edit as Python source: a number, or `...` for what a description cannot bring back."""
    try:
        return edit if math.isfinite(float(edit)) else f"float({edit!r})"
    except ValueError:
        return "..."
