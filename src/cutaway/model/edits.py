"""Edits in force: those of every `with model.edited(...)` block that the running thread or task is in.

    with in_force(model, {"blocks.3.mlp_out": 0.0}): ...
    of(model)                                           the blocks' edits, outermost first

They are kept in a context variable: another thread starts without them, a task starts with those of whoever made it,
and neither sees what the other sets. A block that has ended is in force nowhere, in whatever order blocks end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.tap import Edit


@dataclass(slots=True, eq=False)
class Block:
    model: Model | None  # None: it has ended, also for tasks that began inside it
    edits: Mapping[str, Edit]


_BLOCKS: ContextVar[tuple[Block, ...]] = ContextVar("cutaway_edits", default=())


def of(model: Model) -> list[Mapping[str, Edit]]:
    """Return the edits in force on a model here, outermost block first."""
    return [block.edits for block in _BLOCKS.get() if block.model is model]


@contextmanager
def in_force(model: Model, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Put edits in force on a model until the block is left."""
    block = Block(model, edits)
    _BLOCKS.set((*_BLOCKS.get(), block))
    try:
        yield
    finally:
        block.model, block.edits = None, {}
        _BLOCKS.set(tuple(other for other in _BLOCKS.get() if other.model is not None))
