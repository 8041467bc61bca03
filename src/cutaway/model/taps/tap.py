"""Hand tensors out of a forward pass and let edits in: the tap that the pass carries through itself.

At each site the forward calls `x = tap(name, x)`. If nobody asked for that site this is one look-up in a set; otherwise
the edits run in the order they were given, and the edited value is shown to its watchers and captured. After the last
site that anybody asked for the tap raises Stop, which passes.py catches, so nothing further is computed.

A captured tensor is the caller's own: it shares memory with no other capture and with no tensor that an edit gave, so
that writing into it changes nothing else. (With gradients captures are parts of one graph, and may share memory.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.modes import lasting
from cutaway.model.taps.sites import Site
from cutaway.stopping import stop_point

if TYPE_CHECKING:
    from cutaway.text.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Context:
    """The place where an edit function or a watcher runs."""

    site: str  # canonical name
    layer: int | None
    tokens: Tensor  # ids, B P
    mask: Tensor  # 1 where a token is, 0 where padding is, B P
    positions: Tensor  # B P
    component: str | None = None  # "head 3.1", where the value is one head's or neuron's


EditFunction: TypeAlias = Callable[[Tensor, Context], Tensor | None]
Watcher: TypeAlias = Callable[[Tensor, Context], object]
Edit: TypeAlias = Tensor | float | int | EditFunction  # numpy's numbers too


@dataclass(frozen=True, slots=True, eq=False)
class PartEdit:
    """An edit of one head or neuron: of [:, :, index] of its site's value."""

    component: str  # its address
    index: int
    edit: Edit
    letters: str  # its shape

    def __call__(self, value: Tensor, context: Context) -> Tensor:
        """Return a copy of the site's value with the part edited. Raises EditError as `apply` does."""
        new = value.clone()
        part = value[:, :, self.index]
        new[:, :, self.index] = apply(self.edit, part, replace(context, component=self.component), self.letters)
        return new


class Stop(Exception):  # noqa: N818 - control flow, not an error
    """Signal, from the tap, that every site that was asked for has been seen."""


class Tap:
    """Captures and edits for one run.

    `edits` maps a site to its edits in order, `watch` to the watchers that see its value without keeping or changing
    it. `grad` makes every captured tensor part of the autograd graph: a leaf if nothing before it needs a gradient.

    Attributes:
        captured: site names to tensors.
        positions: of the tokens, [batch, pos]; a pass reads them from here.
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
        self.positions = positions
        self._addresses: set[int] = set()  # of captured tensors, and of those that edits gave
        self._capture = {site.name for site in capture}
        self._edits = {site.name: (site, list(values)) for site, values in (edits or {}).items()}
        self._watch = {site.name: (site, list(watchers)) for site, watchers in (watch or {}).items()}
        self._wanted = self._capture | self._edits.keys() | self._watch.keys()
        self._stop_after = stop_after
        self._grad = grad
        self._batch = (tokens, mask, positions)

    @classmethod
    def silent(cls, tokens: Tokens | None = None, start: int = 0) -> Tap:
        """Return a tap that captures and edits nothing, for these tokens from position `start` on."""
        if tokens is None:  # for a norm or a head, which know no positions
            none = torch.empty(0, 0, dtype=torch.long)
            return cls(tokens=none, mask=none, positions=none)
        return cls(tokens=tokens.ids[:, start:], mask=tokens.mask[:, start:], positions=tokens.positions[:, start:])

    def wants(self, *sites: str) -> bool:
        """Return whether any of these sites is captured, watched or edited."""
        return not self._wanted.isdisjoint(sites)

    def wants_after(self, i: int) -> bool:
        """Return whether any site of block i behind its resid_pre, or behind the last block, is wanted."""
        entry = f"blocks.{i}.resid_pre"
        return any(s != entry and s.startswith((f"blocks.{i}.", "ln_final.", "logits")) for s in self._wanted)

    def steers(self, *sites: str) -> bool:
        """Return whether an edit or a gradient at any of these sites makes later tensors depend on its very value."""
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
        """Return a site's value after all its edits."""
        site, edits = self._edits[name]
        context = Context(name, site.layer, *self._batch)
        for edit in edits:
            value = apply(edit, value, context, site.shape)
        self._addresses.add(value.data_ptr())  # it may be the caller's tensor, which later sites hold without a copy
        return value

    def _shown(self, name: str, value: Tensor) -> None:
        """Show a site's value to its watchers. Raises EditError if one writes into it."""
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
        """Return a value to keep: a copy if another capture, another head or an edit may hold the same memory."""
        if value.data_ptr() in self._addresses or site in self._edits or 0 in value.stride():
            value = value.clone()
        self._addresses.add(value.data_ptr())
        return value

    @staticmethod
    def _tracked(value: Tensor) -> Tensor:
        """Return a value that will have its gradient: a leaf of the graph, or a part of it."""
        if not value.requires_grad:
            return value.detach().requires_grad_()
        own = value.view_as(value)  # so that two sites of one tensor (resid_mid, mlp_in) each get a gradient
        own.retain_grad()
        return own


def only_looks(watcher: Watcher) -> Watcher:
    """Mark a watcher as one that never writes into its value, so that it is shown the value itself and not a copy."""
    watcher.only_looks = True  # type: ignore[attr-defined]
    return watcher


def apply(edit: Edit, value: Tensor, context: Context, letters: str) -> Tensor:
    """Return the value after one edit.

    A number fills, a tensor of the site's shape (or one that broadcasts to it) replaces, a function returns the new
    value, or None for the value as the function left it. It gets a copy, so that writing into it reaches no other site.

    Raises:
        EditError: a shape, dtype, device, type or number that does not fit, named with the site.
    """
    if isinstance(edit, PartEdit):
        return edit(value, context)
    name = context.component or context.site
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
    """Add to an error of the user's own function at which site it arose."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{what} raised this; its value was {value.dtype} {list(value.shape)}")
        raise


def _as_float(number: Any) -> float | None:
    """Return a number as a float, or None for a whole number too large for one."""
    try:
        return float(number)
    except OverflowError:
        return None


def _from_numpy(given: object) -> str:
    """Return a hint for an error, how an array becomes a tensor; an empty string for anything else."""
    return ", such as torch.from_numpy(array).to(value)" if isinstance(given, np.ndarray) else ""


def check(edit: object, pattern: str) -> None:
    """Raise EditError for a value that cannot be an edit, before anything runs."""
    if isinstance(edit, bool) or not (isinstance(edit, (Real, Tensor)) or callable(edit)):
        kinds = "a number, a tensor or a function (value, ctx) was expected"
        raise EditError(f"the edit at {pattern!r} is {type(edit).__name__}: {kinds}{_from_numpy(edit)}")


def described(edits: Mapping[str, Edit]) -> dict[str, str]:
    """Return the edit at each pattern in a few words."""
    return {pattern: describe(edit) for pattern, edit in edits.items()}


def describe(edit: Edit) -> str:
    """Return an edit in a few words, for a result's meta."""
    if isinstance(edit, Tensor):
        return f"tensor {list(edit.shape)}"
    return str(edit) if isinstance(edit, Real) else getattr(edit, "__qualname__", type(edit).__name__)
