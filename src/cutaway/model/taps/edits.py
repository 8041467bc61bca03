"""Edits in force: those of every `with model.edited(...)` block that the running thread or task is in.

    with Edited(model, {"blocks.3.mlp_out": 0.0}): ...
    of(model)                                           the blocks' edits, outermost first

They are kept in a context variable: another thread starts without them, a task starts with those of whoever made it,
and neither sees what the other sets. A block that has ended is in force nowhere, in whatever order blocks end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cutaway.errors import CutawayWarning

Function = TypeVar("Function", bound=Callable[..., Any])

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.tap import Edit


@dataclass(slots=True, eq=False)
class Block:
    model: Model | None  # None: it has ended, also for tasks that began inside it
    edits: Mapping[str, Edit]


_BLOCKS: ContextVar[tuple[Block, ...]] = ContextVar("cutaway_edits", default=())


def of(model: Model) -> list[Mapping[str, Edit]]:
    """Return the edits in force on a model here, outermost block first."""
    return [block.edits for block in _BLOCKS.get() if block.model is model]


class Edited(ContextDecorator):
    """Edits that are in force inside `with`, or while a function that this decorates runs; any number of times."""

    def __init__(self, model: Model, edits: Mapping[str, Edit]) -> None:
        self._model, self._edits = model, edits
        self._open: list[Block] = []
        self._used = False

    def __enter__(self) -> Model:
        block = Block(self._model, self._edits)
        self._open.append(block)
        self._used = True
        _BLOCKS.set((*_BLOCKS.get(), block))
        return self._model

    def __exit__(self, *_: object) -> None:
        block = self._open.pop()
        block.model, block.edits = None, {}
        _BLOCKS.set(tuple(other for other in _BLOCKS.get() if other.model is not None))

    def __call__(self, function: Function) -> Function:
        self._used = True
        return super().__call__(function)

    def __repr__(self) -> str:
        return "edits that are not in force yet: with model.edited({...}): ..."

    def __del__(self) -> None:
        if not self._used:
            hint = "write `with model.edited({...}):`"
            warnings.warn(f"edits were made and never put in force: {hint}", CutawayWarning, stacklevel=2)
