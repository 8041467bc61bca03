"""Write any results into one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from cutaway.arguments import shown
from cutaway.errors import InputError
from cutaway.files import write_text
from cutaway.pages import page
from cutaway.results.result import Result
from cutaway.results.saving import ending

ENDINGS = (".html", ".htm")


def report(results: Iterable[Result], path: str | os.PathLike[str], title: str | None = None) -> None:
    """Write results into one HTML page that opens from disk, light or dark, with no network.

    Raises InputError for no results or something that is not a result, OutputError for a path that is not .html or
    cannot be written.
    """
    given: Any = results
    if isinstance(given, Result):
        raise InputError(
            f"report takes a list of results: give [{given.analysis}(...)], or save the one with .save(path)"
        )
    if isinstance(given, (str, os.PathLike, Tensor)) or not isinstance(given, Iterable):
        raise InputError(f"{shown(given)} was given as results: a list of them and a path were expected")
    results = list(given)
    for i, result in enumerate(results):
        if not isinstance(result, Result):
            raise InputError(
                f"result {i + 1} is a {type(result).__name__}: what an analysis returns was expected, such as "
                "cutaway.predictions.along(model, text)"
            )
    if not results:
        raise InputError("a report needs at least one result, such as cutaway.predictions.along(model, text)")
    ending(path, ENDINGS)
    names = dict.fromkeys(result.meta["model"]["name"] for result in results if result.meta["model"])
    figures = [page.figure(result) for result in results]
    write_text(path, page.page(title or f"Inside {', '.join(names) or 'a Gaussian'}", figures, facts(results)))


def facts(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return the headline numbers of some results, each once."""
    return list(dict.fromkeys(fact for result in results for fact in result.facts()))
