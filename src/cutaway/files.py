"""Writing files without losing any: beside the target first, then renamed into place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutaway.errors import CutawayError, OutputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it into place, on any error leave `path` as it was.

    Missing folders are made. Raises OutputError for a place that cannot be written.
    """
    try:
        target = Path(path).expanduser()
    except RuntimeError:
        raise OutputError(f"{path} cannot be written: no such user's home is known") from None
    temporary = None
    try:
        if target.is_dir():
            raise OutputError(f"{target} is a folder: the path of a file was expected")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".cutaway.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except CutawayError:
        raise
    except OSError as error:
        not_folder = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a part of its path is a file, no folder" if not_folder else error.strerror or error
        raise OutputError(f"{target} cannot be written: {reason}") from None
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
