"""Keep the edits in force: those of every `with model.edited(...)` block that the running thread or task is in.

    with Edited(model, {"blocks.3.mlp_out": 0.0}): ...
    in_force(model)                                     the blocks' edits, outermost first
    by_site(sites, [{"mlp_out": 0.0}])                  each site's edits, in order; those of heads and neurons, too

They are kept in a context variable: another thread starts without them, a task starts with the edits of the thread or
task that made it, and neither sees edits that the other sets. A block that has ended is in force nowhere, in whatever
order blocks end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cutaway.errors import CutawayWarning, EditError
from cutaway.model.taps.components import find
from cutaway.model.taps.sites import Site, Sites
from cutaway.model.taps.tap import Edit, PartEdit, check

Function = TypeVar("Function", bound=Callable[..., Any])
T = TypeVar("T")
M = TypeVar("M")  # the model, which these edits only have to recognize


@dataclass(slots=True, eq=False)
class Block:
    """One `with` block that was entered."""

    model: object | None  # None: it has ended, also for tasks that began inside it
    edits: Mapping[str, Edit]


_BLOCKS: ContextVar[tuple[Block, ...]] = ContextVar("cutaway_edits", default=())


def in_force(model: object) -> list[Mapping[str, Edit]]:
    """Return the edits in force on a model, outermost block first."""
    return [block.edits for block in _BLOCKS.get() if block.model is model]


def by_site(sites: Sites, edits: Iterable[Mapping[str, Edit]]) -> dict[Site, list[Edit]]:
    """Return each site's edits, in order. Raises SiteError and EditError as Model.run does."""
    return grouped(sites, (each for name, edit in _checked(edits) for each in _placed(sites, name, edit)))


def _checked(edits: Iterable[Mapping[str, Edit]]) -> Iterator[tuple[str, Edit]]:
    """Yield each pattern and its edit. Raises EditError for a value that cannot be one."""
    for each in edits:
        if not isinstance(each, Mapping):
            kind = type(each).__name__
            raise EditError(f"edits are a mapping from site patterns to values, such as {{'mlp_out': 0.0}}; got {kind}")
        for pattern, edit in each.items():
            check(edit, pattern)
            yield pattern, edit


def _placed(sites: Sites, name: str, edit: Edit) -> Iterator[tuple[str, Edit]]:
    """Yield the pattern and the edit of a site, or one for each head or neuron that an address means."""
    found = find(name, sites.config) if isinstance(name, str) else None
    if found is None or found[0].index is None:
        yield name, edit
        return
    for each in found:
        [site] = sites.match(each.site)
        letters = site.shape.split()
        yield each.site, PartEdit(str(each), each.index or 0, edit, " ".join([*letters[:2], *letters[3:]]))


def grouped(sites: Sites, given: Iterable[tuple[str, T]]) -> dict[Site, list[T]]:
    """Return each site's values, in order, of pairs of a site pattern and a value."""
    found: dict[Site, list[T]] = {}
    for pattern, value in given:
        for site in sites.match(pattern):
            found.setdefault(site, []).append(value)
    return found


class Edited(ContextDecorator, Generic[M]):
    """Edits that are in force inside `with`, or while a function that this decorates runs; any number of times."""

    def __init__(self, model: M, edits: Mapping[str, Edit]) -> None:
        self._model, self._edits = model, edits
        self._open: list[Block] = []
        self._used = False

    def __enter__(self) -> M:
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
