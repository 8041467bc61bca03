"""Write files without losing any: to a temporary file beside the target, which is then renamed into place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutaway.errors import CutawayError, OutputError


def expand_user(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` expanded; unlike Path.expanduser, keep that of an unknown user as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place on success, and leave `path` as it was on any error.

    Missing folders are made. Raises OutputError for a place that cannot be written.
    """
    try:
        target = Path(path).expanduser()
    except RuntimeError:
        raise OutputError(f"{path} cannot be written: no such user is known") from None
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
        reason = "a part of its path is a file, not a folder" if not_folder else error.strerror or error
        raise OutputError(f"{target} cannot be written: {reason}") from None
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, whole or not at all. Raises OutputError as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
