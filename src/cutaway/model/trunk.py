"""Runs that branch off another: only what an intervention can reach is computed again.

    trunk = Trunk(model, tokens)                                   one whole run, kept
    trunk.resid[3], trunk.keys[3], trunk.values[3]                 what entered block 3, and its keys and values
    trunk.branch(3, rows=[0, 0, 1], edits={...}, logits="last")    three rows that leave it at block 3
    trunk.branch(3, start=5, rows=[0], x=changed)                  from position 5 on, with another stream
    trunk.branch(3, start=5, end=6, rows=[0], logits=None, ...)    position 5 alone

Blocks before the first one and positions before `start` are the trunk's own: attention never looks ahead, so nothing
that happens at position 5 changes an earlier one, and of those only the keys and values are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.architectures import gpt2
from cutaway.model.modes import gradients
from cutaway.model.taps import tap
from cutaway.model.taps.captures import Run
from cutaway.model.taps.sites import Site
from cutaway.model.taps.tap import Edit, Tap
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Logits, Model

BUDGET = 256 << 20  # bytes that one batch of branches may take, by default


class Trunk:
    """A finished run: what enters each block (and leaves the last one), and each block's keys and values.

    Edits in force, and those given here, hold in the trunk; the former hold in every branch, too. `keys=False` keeps
    no keys and values: every branch then begins at position 0.

    Attributes:
        tokens: the batch that ran.
        resid: n_layers + 1 tensors B P D; `resid[i]` enters block i, edits at its resid_pre included.
        keys, values: n_layers tensors B P H K.
        run: the captures that were asked for, and the logits.
    """

    def __init__(
        self,
        model: Model,
        tokens: Tokens,
        *,
        capture: Iterable[str] = (),
        edits: Mapping[str, Edit] | None = None,
        keys: bool = True,
        logits: Logits = None,
    ) -> None:
        n = model.config.n_layers
        kept = ["resid_pre", f"blocks.{n - 1}.resid_post", *(["attn.k", "attn.v"] if keys else [])]
        run = model.run(tokens, capture=[*kept, *capture], edits=edits, logits=logits)
        self.model, self.tokens, self.run = model, run.tokens, run
        self.resid = [*(run[f"blocks.{i}.resid_pre"] for i in range(n)), run[f"blocks.{n - 1}.resid_post"]]
        self.keys = [run[f"blocks.{i}.attn.k"] for i in range(n)] if keys else None
        self.values = [run[f"blocks.{i}.attn.v"] for i in range(n)] if keys else None

    def start(self, position: int) -> int:
        """Where a branch may begin that changes nothing before `position`: 0 where edits in force may look anywhere."""
        return position if self.keys is not None and not self.model.active_edits else 0

    def past(self, rows: Tensor, start: int) -> Prefix | None:
        """What a branch's rows see of the positions before `start`."""
        if not start:
            return None
        if self.keys is None or self.values is None or start != self.start(start):
            raise InputError(
                f"start={start}: this trunk's branches begin at position 0 (no keys kept, or edits in force)"
            )
        return Prefix(self.keys, self.values, rows, start)

    def fitting(self, budget: int = BUDGET, start: int = 0, outputs: int = 1, patterns: bool = False) -> int:
        """How many rows a branch may have for `budget` bytes, at least one; `outputs` positions are unembedded.

        Counted is what a block holds at its widest: the stream three times, keys and values with their past, and the
        larger of queries and neurons; `patterns`: attention is written out.
        """
        c, whole = self.model.config, self.tokens.ids.shape[1]
        positions, heads = whole - start, c.n_heads * c.d_head
        block = positions * (3 * c.d_model + max(4 * heads, 2 * c.d_mlp)) + 4 * whole * heads
        block += 3 * c.n_heads * positions * whole if patterns else 0
        numbers = max(block, positions * 3 * c.d_model + 2 * outputs * c.d_vocab)
        return max(1, budget // (numbers * self.resid[0].element_size()))

    def branch(
        self,
        layer: int,
        *,
        rows: Sequence[int] | Tensor,
        start: int = 0,
        end: int | None = None,
        x: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
        capture: Iterable[str] = (),
        logits: Logits = "all",
    ) -> Run:
        """Run blocks `layer`, layer + 1, ... again, on positions from `start` on.

        Args:
            layer: the first block that is computed; n_layers for none but the unembedding.
            rows: the trunk's row that each row of the branch leaves; any number of times each.
            start: the first position; must be one that start() allows.
            end: behind the last position, which later ones cannot reach; None for all.
            x: what enters the first block, [rows, end - start, d_model]; None for the trunk's own.
            edits: site pattern -> edit, as in Model.run; they see positions from `start` to `end`.

        Returns a Run of those rows and positions.
        """
        model = self.model
        index = torch.as_tensor(rows, device=model.device, dtype=torch.long)
        x = self.resid[layer][index, start:end] if x is None else x
        tokens = Tokens(self.tokens.ids[index, start:end], self.tokens.mask[index, start:end], self.tokens.tokenizer)
        sites = model.sites().match(capture)
        edited = self._edits(layer, edits or {})
        positions = self.tokens.positions[index, start:end]
        a_tap = Tap(
            sites,
            edited,
            tokens=tokens.ids,
            mask=tokens.mask,
            positions=positions,
            stop_after=sites[-1].name if logits is None and sites else None,
        )
        last = tokens.lengths - 1 if logits == "last" else None
        result = None
        with gradients(False):
            try:
                past = self.past(index, start)
                result = gpt2.run_from(model.weights, model.config, layer, x, a_tap, last, past)
            except tap.Stop:
                result = a_tap.captured.get("logits")
        return Run(tokens, model.sites(), a_tap.captured, result)

    def _edits(self, layer: int, edits: Mapping[str, Edit]) -> dict[Site, list[Edit]]:
        """Those in force and those given; what the trunk did at the first block's entry is not done twice."""
        sites, entry = self.model.sites(), f"blocks.{layer}.resid_pre"
        by_site = {site: found for site, found in self.model.edits_by_site({}).items() if site.name != entry}
        for pattern, edit in edits.items():
            tap.check(edit, pattern)
            for site in sites.match(pattern):
                by_site.setdefault(site, []).append(edit)
        return by_site


class Prefix:
    """Keys and values of the positions before `start`, for a branch's rows: what gpt2.Cache is for generation."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], rows: Tensor, start: int) -> None:
        self._keys, self._values, self._rows, self._start = keys, values, rows, start

    def extend(self, i: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A block's keys and values from `start` on, B P H K -> those of all positions, and which are visible."""
        before = (self._keys[i][self._rows, : self._start], self._values[i][self._rows, : self._start])
        k, v = (torch.cat([kept, new], 1) for kept, new in zip(before, (k, v), strict=True))
        seen = torch.ones(k.shape[1] - self._start, k.shape[1], dtype=torch.bool, device=k.device)
        return k, v, seen.tril(self._start)
