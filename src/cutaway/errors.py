"""Every error that Cutaway raises on purpose.

Each message is one line: what was got, what was expected, what to do. All of them are CutawayError, so that the
command line can tell a user's mistake from a fault of ours; each is also the built-in error that a caller would
expect to catch. Interrupted is none of them: it is the KeyboardInterrupt that it stands for.
"""

from __future__ import annotations

from typing import Any


class CutawayError(Exception):
    """The root: catch this to catch everything that Cutaway raises on purpose."""


class InputError(CutawayError, ValueError):
    """A text, a batch of tokens or an argument that a model or an analysis cannot take."""


class SiteError(CutawayError, LookupError):
    """A site name or pattern that matches nothing, or that matches more or other than what was asked."""


class EditError(CutawayError, ValueError):
    """An edit whose value does not fit the site it was meant for."""


class CheckpointError(CutawayError, ValueError):
    """A folder or file that is not a GPT-2 checkpoint, or is a damaged one."""


class TokenizerError(CutawayError, ValueError):
    """A missing tokenizer, or a text or token that the tokenizer cannot take."""


class OutputError(CutawayError, OSError):
    """A file that cannot be written where, or as what, it was asked for."""


class CutawayWarning(UserWarning):
    """Warn of what a user should know: said once in Python, one line on the command line."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a long analysis. `result` is what was done by then: a result with holes in it."""

    def __init__(self, result: Any, message: str) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[Interrupted], tuple[Any, str]]:
        return type(self), (self.result, str(self))
