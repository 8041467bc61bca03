"""Documents: where texts come from.

bundled()                 the ten State of the Union addresses that ship with the package
read(["notes/*.txt"])     files, folders and globs
"""

from __future__ import annotations

import glob
import importlib.resources
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cutaway.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    text: str


def bundled() -> list[Document]:
    """The ten documents that the bundled model never saw, in the order of their names."""
    folder = Path(str(importlib.resources.files("cutaway"))) / "bundled" / "documents"
    return [Document(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))]


def read(sources: Sequence[str]) -> list[Document]:
    """Text files, folders of *.txt and globs of files, each file once, sorted by path within a source.

    Raises InputError for a source that matches nothing, and for a file that is empty or no UTF-8 text.
    """
    paths: dict[Path, Path] = {}  # the file, whatever it is called -> as it was first called
    for source in sources:
        try:
            found = _files(source)
        except OSError as error:
            raise InputError(f"corpus {source!r} cannot be read: {error.strerror}") from None
        if not found:
            what = "no *.txt files" if Path(source).is_dir() else "no file there"
            raise InputError(f"corpus {source!r}: {what}; a text file, a folder of *.txt or a glob was expected")
        for path in found:
            paths.setdefault(path.resolve(), path)
    return [Document(_name(path), _text(path)) for path in paths.values()]


def _files(source: str) -> list[Path]:
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    if path.is_file():
        return [path]
    # Path.glob takes no absolute patterns.
    found = path.glob("*.txt") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
    return sorted(file for file in found if file.is_file())


def _name(path: Path) -> str:
    """The path as text, also where its bytes are none."""
    return os.fsencode(path).decode("utf-8", "replace")


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text (byte {error.start}): convert it first") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise InputError(f"{path} holds no text")
    return text
