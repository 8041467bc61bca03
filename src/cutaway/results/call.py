"""TODO."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cutaway.arguments import is_whole
from cutaway.model.inputs import is_ids
from cutaway.text.corpus import open_corpus
from cutaway.versions import versions

if TYPE_CHECKING:
    from cutaway.model.model import Model

if TYPE_CHECKING:
    from cutaway.model.model import Model


def call_input(model: Model, given: Any, rows: Sequence[Sequence[int]]) -> Any:
    """What a call says of an input, of which these rows of ids were read: a text, texts, or ids.

    Ids are texts where these, read again, give the very same ids.
    """
    if not is_ids(given):
        return given if isinstance(given, str) else list(given)
    rows = [list(row) for row in rows]
    if model.has_tokenizer:
        texts = [model.tokenizer.decode(row) for row in rows]
        if model.tokenizer.encode(texts)[0] == rows:
            return texts if len(texts) > 1 else texts[0]
    return ids_source(rows)


def ids_source(rows: Sequence[Sequence[int]]) -> Code:
    """Rows of ids as a call says them."""
    if len({len(row) for row in rows}) == 1:
        return Code(f"torch.tensor({rows})")
    return Code(f"Tokens.from_lists({rows})")


LONGEST = 1200  # characters of an input that are written out in a call


class Code(str):
    """What stands in meta under a name, and in a result's call as Python source: its repr."""

    source: str

    def __new__(cls, source: str, name: str | None = None) -> Code:
        made = super().__new__(cls, source if name is None else name)
        made.source = source
        return made

    def __repr__(self) -> str:
        return self.source


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
