"""Find the files that paths, folders and globs name, and read their documents."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cutaway.errors import InputError
from cutaway.files import expand_user
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.file_types import ARRAYS, CSV, RECORDS, TABLES, endings
from cutaway.text.corpus.hub import read_dataset
from cutaway.text.corpus.reading import read_file

IN_FOLDERS = (".txt", ".md", *RECORDS, *TABLES)  # the files that a folder stands for
NOT_IN_FOLDERS = (".json", *CSV, *ARRAYS, ".html", ".htm", ".ipynb", ".pdf")  # not read, but counted in a log message
LONGEST = 1000  # characters of a string that can be a path

NamedFile = tuple[str, Path | None]  # a name, and the file; None for a Hugging Face dataset


def files(sources: Sequence[str], field: str | None = None, strict: bool = False) -> Corpus:
    """Return the corpus of files, folders, globs and "hf:" datasets, each file once, in the order given.

    Raises InputError for a source that matches nothing.
    """
    if isinstance(sources, str):
        sources = [sources]
    messages: list[str] = []
    named_files = expand_paths(sources, messages)
    are_texts = all(path and endings(path.name)[0] in (".txt", ".md") for _, path in named_files)
    option = f", field={field!r}" if field else ""
    corpus = Corpus(
        ", ".join(sources),
        lambda c: read_files(c, named_files, field),
        strict,
        len(named_files) if are_texts else None,
        f"cutaway.text.corpus.files({list(sources)!r}{option})",
    )
    for message in messages:
        corpus.log_once(message)
    return corpus


def expand_paths(sources: Sequence[str], messages: list[str] | None = None) -> list[NamedFile]:
    """Return the files that paths, folders and globs name, each once.

    Messages on the files of folders that are not read are added to `messages`.
    """
    named_files: list[NamedFile] = []
    seen = set()
    for source in sources:
        if source.startswith("hf:"):
            named_files.append((source, None))
            continue
        for path in _expand(source, [] if messages is None else messages):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                named_files.append((name_of(path), path))
    return named_files


def read_files(corpus: Corpus, named_files: Sequence[NamedFile], field: str | None) -> Iterator[Document]:
    """Yield the documents of files and datasets, in order."""
    for name, path in named_files:
        yield from read_dataset(corpus, name, field) if path is None else read_file(corpus, path, name, field)


def _expand(source: str, messages: list[str]) -> list[Path]:
    """Return the files that one path, folder or glob names. Raises InputError where there is none."""
    path = expand_user(source)
    others: dict[str, int] = {}
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            everything = list(path.rglob("*"))
            paths = [p for p in everything if endings(p.name)[0] in IN_FOLDERS and not _is_cache(p)]
            for p in everything:
                if (ending := endings(p.name)[0]) in NOT_IN_FOLDERS:
                    others[ending] = others.get(ending, 0) + 1
        else:
            # Path.glob does not take absolute patterns.
            paths = [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        paths = sorted(p for p in paths if p.is_file())
    except OSError as error:
        raise InputError(f"corpus {_short(source)} cannot be read: {error.strerror}{_hint(source)}") from None
    also = ", ".join(f"{n:,} {ending}" for ending, n in sorted(others.items()))
    if not paths:
        problem = "no text or record files" if path.is_dir() else "no file there"
        hint = f"; it has {also}, which a glob names: {source}/*" if also else _hint(source)
        raise InputError(f"corpus {_short(source)}: {problem}; a file, a folder or a glob was expected{hint}")
    if also:
        messages.append(f"corpus {source}: {also} not read: name them by a glob, {source}/*{next(iter(others))}")
    return paths


def _is_cache(path: Path) -> bool:
    """Return whether a file is a cache of Hugging Face datasets, beside a dataset that is saved to disk."""
    return path.match("cache-*.arrow") and (path.parent / "state.json").is_file()


def _hint(source: str) -> str:
    """Return what to do with a text that was given as a path; "" for a string that does not look like a text."""
    return "; a text goes in a list, [text]" if re.search(r"\s", source) or len(source) > 200 else ""


def _short(source: str) -> str:
    return repr(source if len(source) <= 300 else source[:60] + "...")


def name_of(path: Path) -> str:
    """Return a path as text; bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def names_files(text: str) -> str | None:
    """Say which existing files a string names as a path, a folder or a glob ("an existing file"); None for no files.

    A single word ("notes") is a text, also where a folder has that name.
    """
    if len(text) > LONGEST or "\n" in text or "\0" in text or not re.search(r"\w", text):
        return None
    path = expand_user(text)
    try:
        if path.is_file():
            return "an existing file"
        if path.is_dir():
            return "an existing folder" if re.search(r"[/\\~]", text) else None
        if not re.search(r"[*?[]", text) or not re.search(r"[/\\.]", text):
            return None
        count = sum(Path(p).is_file() for p in glob.iglob(str(path), recursive=True))  # noqa: PTH207
    except (OSError, ValueError, re.error):
        return None
    return f"{count:,} existing {'file' if count == 1 else 'files'}" if count else None


class Typed(str):
    """A text from a web page: never a path, so that a page cannot ask which files exist."""


def refuse_path(text: object, corpus: bool = False) -> None:
    """Raise InputError for a string that was given as a text but names existing files.

    `corpus` says whether the caller could have been given a corpus instead.
    """
    if isinstance(text, str) and not isinstance(text, Typed) and (what := names_files(text)):
        hint = "read it first: pathlib.Path(...).read_text()"
        if corpus:
            hint = f"cutaway.text.corpus.open_corpus({text!r}) is a corpus of it"
        raise InputError(f"a string is the text itself, and {text!r} names {what}: {hint}")
