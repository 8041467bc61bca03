"""Build the `meta` of a result, and in it the call that makes the result again.

@analysis("attribution.direct")            an analysis: its arguments are known while it runs
meta_of(model, text)                       in it: the meta of its result, with the arguments that it was called with
call_input(model, text, rows)              the input as it appears there: a text, texts or ids
corpus_source(corpus)                      a corpus given as a keyword argument, likewise
describe(model, "generate", text, ...)     the meta of anything else
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from cutaway.arguments import is_whole
from cutaway.model.inputs import is_ids
from cutaway.model.modes import plainly
from cutaway.text.corpus import open_corpus
from cutaway.versions import versions

if TYPE_CHECKING:
    from cutaway.model.model import Model

P = ParamSpec("P")
R = TypeVar("R")

LONGEST = 1200  # characters of an input that are written out in a call
INPUTS = {"model", "text", "prompt", "prompts", "corpus", "clean", "width"}  # arguments that are read, not parameters
RUNNING = {"budget", "each", "run", "state"}  # arguments that say how it is computed, and change no result


@dataclass(frozen=True)
class Call:
    """A call of an analysis, while it runs."""

    analysis: str
    arguments: dict[str, Any]  # by name, defaults included


_DEFAULTS: dict[str, dict[str, Any]] = {}  # of each analysis that was imported
_CALL: ContextVar[Call | None] = ContextVar("cutaway_call", default=None)


def analysis(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function an analysis: it runs without gradients, and `meta_of` knows what it was called with."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        defaults = {n: p.default for n, p in signature.parameters.items() if p.default is not p.empty}
        _DEFAULTS[name] = defaults
        plain = plainly(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:  # which the function itself says better
                return plain(*args, **kwargs)
            token = _CALL.set(Call(name, defaults | bound.arguments))
            try:
                return plain(*args, **kwargs)
            finally:
                _CALL.reset(token)

        return call

    return decorate


def meta_of(model: Model | None, subject: Any, /, **replaced: Any) -> dict[str, Any]:
    """Return the meta of the result of the analysis that is running.

    Args:
        model: the model analysed, or None.
        subject: the text, texts or corpus that was read, or None.
        replaced: parameters that should appear otherwise than they were given.
    """
    call = _CALL.get()
    if call is None:
        raise RuntimeError("meta_of was called outside an @analysis")
    given = {name: value for name, value in call.arguments.items() if name not in INPUTS | RUNNING}
    return describe(model, call.analysis, subject, **given | replaced)


class Code(str):
    """A string for `meta` whose `repr` is a Python expression, used where a value cannot be written as a literal."""

    source: str

    def __new__(cls, source: str, name: str | None = None) -> Code:
        """Make the string `name` (by default the source itself) with the Python expression `source`."""
        code = super().__new__(cls, source if name is None else name)
        code.source = source
        return code

    def __repr__(self) -> str:
        return self.source


def call_input(model: Model, given: Any, rows: Sequence[Sequence[int]]) -> Any:
    """Return the input as it should appear in `meta["call"]`: a text or texts, or the ids that were read.

    Ids appear as text where re-tokenizing the text gives exactly these ids.
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
    """Return rows of ids as Python source."""
    if len({len(row) for row in rows}) == 1:
        return Code(f"torch.tensor({rows})")
    return Code(f"Tokens.from_lists({rows})")


def corpus_source(corpus: Any) -> Any:
    """Return a corpus as it should appear among the parameters in `meta`.

    None, False and paths stay as they are; texts are written out where they are short; anything else has the name of
    its corpus.
    """
    if corpus is None or corpus is False or isinstance(corpus, str):
        return corpus
    opened = open_corpus(corpus)
    source = repr(corpus) if _is_plain(corpus) else opened.origin
    return Code(source if len(source) <= LONGEST else "...", opened.name)


def describe(model: Model | None, analysis: str, subject: Any, /, **parameters: Any) -> dict[str, Any]:
    """Return a result's meta. The call in it leaves out parameters that have their defaults.

    Args:
        model: the model analysed; None where the analysis has none, and `subject` is then its first argument.
        analysis: the function as "module.name".
        subject: the text, texts or corpus that was read, or None.
        parameters: the analysis' keyword arguments.
    """
    parameters = _plain_numbers(parameters)
    if model is None:
        arguments = ", ".join([repr(subject), *arguments_source(analysis, parameters)])
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


def arguments_source(analysis: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the keyword arguments that differ from the analysis' defaults, as Python source."""
    defaults = _DEFAULTS.get(analysis, {})
    return [
        f"{name}={value!r}"
        for name, value in parameters.items()
        if name not in defaults or not _same(value, defaults[name])
    ]


def _same(value: Any, default: Any) -> bool:
    """Return whether a parameter has its default; a list is the same as a tuple of the same items."""
    value, default = (tuple(v) if isinstance(v, list) else v for v in (value, default))
    return type(value) is type(default) and bool(value == default)


def _plain_numbers(value: Any) -> Any:
    """Return a parameter with the whole numbers of NumPy and torch as ints."""
    if isinstance(value, dict):
        return {_plain_numbers(key): _plain_numbers(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain_numbers, value))
    return int(value) if is_whole(value) else value


def _call(model: Model, analysis: str, subject: Any, parameters: Mapping[str, Any]) -> str:
    """Return the Python that makes the result again.

    An input that would fill the page, and an edit that is not a number, appear as `...` for the reader to fill in.
    """
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
    arguments += arguments_source(analysis, parameters)
    call = f"cutaway.{analysis}({', '.join(arguments)})"
    if blocks := [", ".join(f"{s!r}: {_edit_source(e)}" for s, e in edits.items()) for edits in model.active_edits]:
        call = f"with {', '.join(f'model.edited({{{block}}})' for block in blocks)}:\n    {call}"
    return "\n".join([*lines, call])


def _is_plain(subject: Any) -> bool:
    """Return whether an input is a string or strings, which can be written as a Python literal."""
    if isinstance(subject, Mapping):
        return all(isinstance(text, str) for text in subject.values())
    return isinstance(subject, str) or (isinstance(subject, (list, tuple)) and all(isinstance(t, str) for t in subject))


def _size(subject: Any) -> str:
    """Return the size of an input in a few words."""
    if isinstance(subject, Code):
        return "token ids [batch, pos]"
    subject = [subject] if isinstance(subject, str) else subject
    texts = list(subject.values()) if isinstance(subject, Mapping) else subject
    characters = f"{sum(map(len, texts)):,} characters"
    return characters if len(texts) == 1 else f"{len(texts):,} texts of {characters} in all"


def _edit_source(edit: str) -> str:
    """Return a described edit as Python source: a number, or `...` for anything else."""
    try:
        return edit if math.isfinite(float(edit)) else f"float({edit!r})"
    except ValueError:
        return "..."
