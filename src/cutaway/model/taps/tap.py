"""The tap: what a forward pass carries through itself to hand tensors out and let edits in.

At each site the forward calls `x = tap(name, x)`. Where nobody asked for that site this is one dictionary look-up;
otherwise the edits run in the order they were given, and the edited value is shown to whoever watches and captured.
After the last site that anybody asked for the tap raises Stop, which Model.run catches, so nothing further is computed.

What is captured is the caller's own: it shares memory with no other capture and with no tensor that an edit gave, so
that writing into it changes nothing else. (With gradients captures are parts of one graph, and may.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.modes import lasting
from cutaway.model.taps.sites import Site
from cutaway.stopping import stop_point


@dataclass(frozen=True, slots=True)
class Context:
    """What an edit function is told about where it runs."""

    site: str  # canonical name
    layer: int | None
    tokens: Tensor  # ids, B P
    mask: Tensor  # 1 where a token is, 0 where padding is, B P
    positions: Tensor  # B P


EditFunction: TypeAlias = Callable[[Tensor, Context], Tensor | None]
Watcher: TypeAlias = Callable[[Tensor, Context], object]
Edit: TypeAlias = Tensor | float | int | EditFunction  # numpy's numbers too


class Stop(Exception):  # noqa: N818 - control flow, not an error
    """Raised by the tap once every site that was asked for has been seen."""


class Tap:
    """Captures and edits for one run.

    `edits` maps a site to its edits in order, `watch` to what sees its value without keeping or changing it. `grad`
    makes every captured tensor part of the autograd graph: a leaf where nothing before it needs a gradient.
    """

    def __init__(
        self,
        capture: Collection[Site] = (),
        edits: Mapping[Site, Sequence[Edit]] | None = None,
        watch: Mapping[Site, Sequence[Watcher]] | None = None,
        *,
        tokens: Tensor,
        mask: Tensor,
        positions: Tensor,
        stop_after: str | None = None,
        grad: bool = False,
    ) -> None:
        self.captured: dict[str, Tensor] = {}
        self._addresses: set[int] = set()  # of what was captured, or given by an edit
        self._capture = {site.name for site in capture}
        self._edits = {site.name: (site, list(values)) for site, values in (edits or {}).items()}
        self._watch = {site.name: (site, list(watchers)) for site, watchers in (watch or {}).items()}
        self._wanted = self._capture | self._edits.keys() | self._watch.keys()
        self._stop_after = stop_after
        self._grad = grad
        self._batch = (tokens, mask, positions)

    def wants(self, *sites: str) -> bool:
        """Whether any of these is captured, watched or edited."""
        return not self._wanted.isdisjoint(sites)

    def wants_after(self, site: str) -> bool:
        """Whether any site behind this one is captured, watched or edited; sites of a block stand together."""
        block = site.rpartition(".resid_pre")[0]
        return any(s != site and s.startswith((f"{block}.", "ln_final.", "logits")) for s in self._wanted)

    def steers(self, *sites: str) -> bool:
        """Whether what follows must be computed from the value at any of these: an edit, or a gradient."""
        return any(s in self._edits or (self._grad and s in self._capture) for s in sites)

    def __call__(self, site: str, value: Tensor) -> Tensor:
        stop_point()
        if site in self._wanted:
            if site in self._edits:
                value = self._edited(site, value)
            if site in self._watch:
                self._shown(site, value)
            if site in self._capture:
                value = self._tracked(value) if self._grad else value
                self.captured[site] = value if self._grad else self._own(site, value)
            if site == self._stop_after:
                raise Stop
        return value

    def _edited(self, name: str, value: Tensor) -> Tensor:
        site, edits = self._edits[name]
        context = Context(name, site.layer, *self._batch)
        for edit in edits:
            value = apply(edit, value, context, site.shape)
        self._addresses.add(value.data_ptr())  # it may be somebody's tensor, which later sites hold as it is
        return value

    def _shown(self, name: str, value: Tensor) -> None:
        site, watchers = self._watch[name]
        for watcher in watchers:
            # A copy, as torch does not notice all writing: not through `.data`, nor through `.numpy()`.
            seen = value if getattr(watcher, "only_looks", False) else value.clone()
            before = seen._version
            with _named(f"the watcher at {name!r}", value):
                watcher(seen, Context(name, site.layer, *self._batch))
            if seen._version != before:
                hint = "a watcher only looks; give a function that changes the value as an edit"
                raise EditError(f"the watcher at {name!r} wrote into its value: {hint}")

    def _own(self, site: str, value: Tensor) -> Tensor:
        """Return a value to keep: a copy where another capture, another head or an edit may hold the same memory."""
        if value.data_ptr() in self._addresses or site in self._edits or 0 in value.stride():
            value = value.clone()
        self._addresses.add(value.data_ptr())
        return value

    @staticmethod
    def _tracked(value: Tensor) -> Tensor:
        if not value.requires_grad:
            return value.detach().requires_grad_()
        own = value.view_as(value)  # sites that hold the same tensor (resid_mid and mlp_in) have each its own gradient
        own.retain_grad()
        return own


def only_looks(watcher: Watcher) -> Watcher:
    """Mark a watcher that is known to write into nothing, so that it is shown the value itself and no copy is made."""
    watcher.only_looks = True  # type: ignore[attr-defined]
    return watcher


def apply(edit: Edit, value: Tensor, context: Context, letters: str) -> Tensor:
    """The value after one edit.

    A number fills, a tensor of the site's shape (or one that broadcasts to it) replaces, a function returns the new
    value, or None: the value as the function left it. It gets a copy, so that writing into it cannot reach other sites.

    Raises:
        EditError: a shape, dtype, device, type or number that does not fit, named with the site.
    """
    name = context.site
    if isinstance(edit, (int, float, Real)):
        number = _as_float(edit)
        if number is None or torch.finfo(value.dtype).max < abs(number) < math.inf:
            raise EditError(f"the edit at {name!r} is a number beyond what {value.dtype} holds")
        return torch.full_like(value, number)
    if isinstance(edit, Tensor):
        got: object = lasting(edit)
    else:
        own = value.clone()
        with _named(f"the edit at {name!r}", value):
            got = edit(own, context)
        got = own if got is None else got
    if not isinstance(got, Tensor):
        raise EditError(
            f"the edit at {name!r} returned {type(got).__name__}: a tensor or None was expected{_from_numpy(got)}"
        )
    if got.dtype != value.dtype:
        raise EditError(f"the edit at {name!r} has dtype {got.dtype}: {value.dtype} was expected")
    if got.device != value.device:
        raise EditError(f"the edit at {name!r} is on {got.device}: {value.device} was expected")
    if got.shape == value.shape:
        return got
    try:
        if not isinstance(edit, Tensor):  # a function that changes the shape is wrong, whether or not it broadcasts
            raise RuntimeError
        return got.expand(value.shape)
    except RuntimeError:
        shape = f"{list(value.shape)} ({letters})"
        raise EditError(f"the edit at {name!r} has shape {list(got.shape)}: {shape} was expected") from None


@contextmanager
def _named(what: str, value: Tensor) -> Iterator[None]:
    """Let an error of somebody's own function say at which site it arose."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{what} raised this; its value was {value.dtype} {list(value.shape)}")
        raise


def _as_float(number: Any) -> float | None:
    """Return a number as Python's float; None for a whole number that is beyond it."""
    try:
        return float(number)
    except OverflowError:
        return None


def _from_numpy(given: object) -> str:
    """Return how an array becomes a tensor, in an error; nothing for what is not an array."""
    return ", such as torch.from_numpy(array).to(value)" if isinstance(given, np.ndarray) else ""


def check(edit: object, pattern: str) -> None:
    """Raise EditError for a value that can be no edit, before anything runs."""
    if isinstance(edit, bool) or not (isinstance(edit, (Real, Tensor)) or callable(edit)):
        kinds = "a number, a tensor or a function (value, ctx) was expected"
        raise EditError(f"the edit at {pattern!r} is {type(edit).__name__}: {kinds}{_from_numpy(edit)}")


def described(edits: Mapping[str, Edit]) -> dict[str, str]:
    """Return what stands at each pattern, in a few words."""
    return {pattern: describe(edit) for pattern, edit in edits.items()}


def describe(edit: Edit) -> str:
    """An edit in a few words, for a result's meta."""
    if isinstance(edit, Tensor):
        return f"tensor {list(edit.shape)}"
    return str(edit) if isinstance(edit, Real) else getattr(edit, "__qualname__", type(edit).__name__)
