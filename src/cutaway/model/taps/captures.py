"""Hold the tensors that one forward pass kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import InputError, SiteError
from cutaway.model.taps.sites import Site, Sites
from cutaway.text.tokens import Tokens


class Run(Mapping[str, Tensor]):
    """The tensors that one forward pass was asked to keep: a mapping from site names, in forward order.

    `run[name]` takes any spelling that means exactly one captured site, or a Site.

    Attributes:
        tokens: the batch that ran.
        edits: the edits that were in force, described.
    """

    def __init__(
        self,
        tokens: Tokens,
        sites: Sites,
        captured: dict[str, Tensor],
        logits: Tensor | None,
        edits: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.tokens = tokens
        self.edits = list(edits)
        self._sites = sites
        self._captured = dict(sorted(captured.items(), key=lambda item: sites.order[item[0]]))
        self._logits = logits

    @property
    def logits(self) -> Tensor:
        """Return the logits, [batch, pos, d_vocab], or [batch, 1, d_vocab] with `logits="last"`.

        Raises InputError if the run kept none.
        """
        if self._logits is None:
            raise InputError("this run kept no logits: call run(..., logits='all') or logits='last'")
        return self._logits

    def _find(self, pattern: str | Site) -> list[Site]:
        """Return the captured sites that a pattern names. Raises SiteError if there are none."""
        found = [site for site in self._sites.match(pattern) if site.name in self._captured]
        if not found:
            kept = ", ".join(list(self._captured)[:4]) or "nothing"
            more = f" and {len(self) - 4} more" if len(self) > 4 else ""
            name = pattern.name if isinstance(pattern, Site) else pattern
            raise SiteError(f"{name!r} was not captured: this run kept {kept}{more}; name it in capture=[...]")
        return found

    def __getitem__(self, name: str | Site) -> Tensor:
        if isinstance(name, tuple):
            asked = ", ".join(map(repr, name))
            raise SiteError(f"run[{asked}]: one name was expected, such as run['blocks.0.attn_out']")
        found = self._find(name)
        if len(found) > 1:
            first, last = found[0].name, found[-1].name
            hint = f"say which, or call run.stack({name!r})"
            raise SiteError(f"{name!r} means {len(found)} captured sites ({first} ... {last}): {hint}")
        return self._captured[found[0].name]

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, (str, Site)) and len(self._find(name)) == 1
        except SiteError:
            return False

    def get(self, name: str | Site, default: Any = None) -> Any:
        """Return `run[name]`, or the default if `name in run` is false."""
        try:
            return self[name]
        except SiteError:  # not a KeyError, so Mapping's own get would let it through
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._captured)

    def __len__(self) -> int:
        return len(self._captured)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _of_layers(self, kind: str) -> list[Site]:
        """Return the captured sites of one kind, by layer. Raises SiteError for anything but one kind of the blocks."""
        found = self._find(kind)
        if len({site.kind for site in found}) > 1 or found[0].layer is None:
            raise SiteError(f"{kind!r} is not one kind of site in several layers: name one, such as 'attn_out'")
        return found

    def layers(self, kind: str) -> list[int]:
        """Return the layers in which this kind was captured, ascending."""
        return [site.layer for site in self._of_layers(kind) if site.layer is not None]

    def stack(self, kind: str) -> Tensor:
        """Return the captures of one kind, layers ascending: [layer, batch, pos, ...]."""
        return torch.stack([self._captured[site.name] for site in self._of_layers(kind)])

    def __repr__(self) -> str:
        lines = [f"{name:<28} {list(value.shape)}" for name, value in self.items()]
        logits = "no logits" if self._logits is None else f"logits {list(self._logits.shape)}"
        return "\n".join([f"Run: {len(self)} captured, {logits}", *lines])
