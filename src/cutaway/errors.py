"""Define every error that Cutaway raises on purpose.

Each message is one line: what was got, what was expected, what to do. All errors are CutawayErrors, so that the command
line can tell a user's mistake from a fault in Cutaway; each is also the built-in error that a caller would expect to
catch. Interrupted is not a CutawayError: it is a KeyboardInterrupt.
"""

from __future__ import annotations

from typing import Any


class CutawayError(Exception):
    """The base class: catch it to catch everything that Cutaway raises on purpose."""


class InputError(CutawayError, ValueError):
    """A text, a batch of tokens or an argument that a model or an analysis cannot take."""


class SiteError(CutawayError, LookupError):
    """A site name or pattern that matches no site, or not exactly one where one was expected."""


class EditError(CutawayError, ValueError):
    """An edit whose value does not fit its site."""


class CheckpointError(CutawayError, ValueError):
    """A folder or file that is not a GPT-2 checkpoint, or a damaged one."""


class TokenizerError(CutawayError, ValueError):
    """A missing tokenizer, or a text or token that the tokenizer cannot take."""


class OutputError(CutawayError, OSError):
    """A file that cannot be written at the given path, or in the given format."""


class CutawayWarning(UserWarning):
    """A warning that a user should know: shown once in Python, as one line on the command line."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a long analysis; `result` holds what was computed until then, and NaN elsewhere."""

    def __init__(self, result: Any, message: str) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[Interrupted], tuple[Any, str]]:
        return type(self), (self.result, str(self))
