"""Paths, folders and globs -> the files they name, and the documents of those."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.hub import read_dataset
from cutaway.text.corpus.packing import endings
from cutaway.text.corpus.reading import ARRAYS, CSV, RECORDS, TABLES, read_file

IN_FOLDERS = (".txt", ".md", *RECORDS, *TABLES)  # what a folder's name takes in
NOT_IN_FOLDERS = (".json", *CSV, *ARRAYS, ".html", ".htm", ".ipynb", ".pdf")  # said, where a folder has them
LONGEST = 1000  # characters that may be a path

Part = tuple[str, Path | None]  # a name, and the file; None for a Hugging Face dataset


def files(sources: Sequence[str], field: str | None = None, strict: bool = False) -> Corpus:
    """Return text files, folders, globs, record files and "hf:" datasets, each file once, in the order given.

    Raises InputError for a source that matches nothing.
    """
    if isinstance(sources, str):
        sources = [sources]
    said: list[str] = []
    parts = parts_of(sources, said)
    single = all(path and endings(path.name)[0] in (".txt", ".md") for _, path in parts)
    named = f", field={field!r}" if field else ""
    corpus = Corpus(
        ", ".join(sources),
        lambda c: read_files(c, parts, field),
        strict,
        len(parts) if single else None,
        f"cutaway.text.corpus.files({list(sources)!r}{named})",
    )
    for message in said:
        corpus.say(message)
    return corpus


def parts_of(sources: Sequence[str], said: list[str] | None = None) -> list[Part]:
    """Return the files that paths, folders and globs name, each once; `said` takes what is to be said of folders."""
    parts: list[Part] = []
    seen = set()
    for source in sources:
        if source.startswith("hf:"):
            parts.append((source, None))
            continue
        for path in _expand(source, [] if said is None else said):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                parts.append((name_of(path), path))
    return parts


def read_files(corpus: Corpus, parts: Sequence[Part], field: str | None) -> Iterator[Document]:
    for name, path in parts:
        yield from read_dataset(corpus, name, field) if path is None else read_file(corpus, path, name, field)


def _expand(source: str, said: list[str]) -> list[Path]:
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    others: dict[str, int] = {}
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            everything = list(path.rglob("*"))
            found = [p for p in everything if endings(p.name)[0] in IN_FOLDERS and not _is_cache(p)]
            for p in everything:
                if (ending := endings(p.name)[0]) in NOT_IN_FOLDERS:
                    others[ending] = others.get(ending, 0) + 1
        else:
            # Path.glob takes no absolute patterns.
            found = [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        found = sorted(p for p in found if p.is_file())
    except OSError as error:
        raise InputError(f"corpus {_short(source)} cannot be read: {error.strerror}{_hint(source)}") from None
    also = ", ".join(f"{n:,} {ending}" for ending, n in sorted(others.items()))
    if not found:
        what = "no text or record files" if path.is_dir() else "no file there"
        hint = f"; it has {also}, which a glob names: {source}/*" if also else _hint(source)
        raise InputError(f"corpus {_short(source)}: {what}; a file, a folder or a glob was expected{hint}")
    if also:
        said.append(f"corpus {source}: {also} not read: name them by a glob, {source}/*{next(iter(others))}")
    return found


def _is_cache(path: Path) -> bool:
    """Return whether a file is what Hugging Face datasets keeps of an earlier step, beside a dataset saved to disk."""
    return path.match("cache-*.arrow") and (path.parent / "state.json").is_file()


def _hint(source: str) -> str:
    """Return what to do with a text that was given as a path."""
    return "; a text goes in a list, [text]" if re.search(r"\s", source) or len(source) > 200 else ""


def _short(source: str) -> str:
    return repr(source if len(source) <= 300 else source[:60] + "...")


def name_of(path: Path) -> str:
    """Return the path as text, also where its bytes are none."""
    return os.fsencode(path).decode("utf-8", "replace")


def names_files(text: str) -> str | None:
    """Return what a string names, in words: existing files, as a path, a folder or a glob; None where it names none.

    A word alone ("notes") is a text, also where a folder has that name.
    """
    if len(text) > LONGEST or "\n" in text or "\0" in text or not re.search(r"\w", text):
        return None
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    try:
        if path.is_file():
            return "an existing file"
        if path.is_dir():
            return "an existing folder" if re.search(r"[/\\~]", text) else None
        if not re.search(r"[*?[]", text) or not re.search(r"[/\\.]", text):
            return None
        found = sum(Path(p).is_file() for p in glob.iglob(str(path), recursive=True))  # noqa: PTH207
    except (OSError, ValueError, re.error):
        return None
    return f"{found:,} existing {'file' if found == 1 else 'files'}" if found else None


class Typed(str):
    """A text that somebody typed into a page: never a path, and not to tell which files there are."""


def refuse_path(text: object, corpus: bool = False) -> None:
    """Raise InputError for a string that was given as a text and names existing files.

    `corpus` is whether a corpus could have been given in its place.
    """
    if isinstance(text, str) and not isinstance(text, Typed) and (what := names_files(text)):
        corpora = f"cutaway.text.corpus.open_corpus({text!r}) is a corpus of it"
        single = "read it first: pathlib.Path(...).read_text()"
        raise InputError(f"a string is the text itself, and {text!r} names {what}: {corpora if corpus else single}")
