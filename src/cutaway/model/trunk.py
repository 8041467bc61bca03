"""Run branches of a finished run: only what an intervention can reach is computed again.

    trunk = Trunk(model, tokens)                                   one whole run, kept
    trunk.resid[3], trunk.keys[3], trunk.values[3]                 what entered block 3, and its keys and values
    trunk.branch(3, rows=[0, 0, 1], edits={...}, logits="last")    three rows that leave it at block 3
    trunk.branch(3, start=5, rows=[0], x=changed)                  from position 5 on, with another stream
    trunk.branch(3, start=5, end=6, rows=[0], logits=None, ...)    position 5 alone

Blocks before the first one and positions before `start` are the trunk's own: attention never looks ahead, so a change
at position 5 leaves positions 0 to 4 as they are, and only their keys and values are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.cache import Prefix
from cutaway.model.modes import gradients
from cutaway.model.passes import Logits, run_from, run_pass
from cutaway.model.taps import edits as editing
from cutaway.model.taps.captures import Run
from cutaway.model.taps.sites import Site
from cutaway.model.taps.tap import Edit
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model

BUDGET = 256 << 20  # bytes that one batch of branches may take, by default


class Trunk:
    """A finished run: what enters each block (and leaves the last one), and each block's keys and values.

    Edits in force hold in the trunk and in every branch; the edits given here hold in the trunk only. `keys=False`
    keeps no keys and values: every branch then begins at position 0.

    Attributes:
        tokens: the batch that ran.
        resid: n_layers + 1 tensors B P D; `resid[i]` enters block i, edits at its resid_pre included.
        keys, values: n_layers tensors B P H K.
        run: the captures and logits that were asked for.
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
        """Return where a branch may begin that changes nothing before `position`.

        That is `position` itself; or 0 if edits are in force, which may look anywhere, or if no keys were kept.
        """
        return position if self.keys is not None and not self.model.active_edits else 0

    def past(self, rows: Tensor, start: int) -> Prefix | None:
        """Return the keys and values before `start` that a branch's rows attend to; None for start 0."""
        if not start:
            return None
        if self.keys is None or self.values is None or start != self.start(start):
            raise InputError(
                f"start={start}: this trunk's branches begin at position 0 (no keys kept, or edits in force)"
            )
        return Prefix(self.keys, self.values, rows, start)

    def fitting(self, budget: int = BUDGET, start: int = 0, outputs: int = 1, patterns: bool = False) -> int:
        """Return how many rows a branch may have for `budget` bytes, at least one.

        Counted are the tensors that a block holds at its widest: the stream three times, keys and values with their
        past, and the larger of queries and neurons.

        Args:
            start: the branch's first position.
            outputs: how many positions are unembedded.
            patterns: attention patterns are written out.
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
            layer: the first block that is computed; n_layers for the unembedding only.
            rows: for each row of the branch the trunk's row that it leaves; a row may be left any number of times.
            start: the first position; must be one that start() allows.
            end: the position behind the last one; None for all.
            x: the stream that enters the first block, [rows, end - start, d_model]; None for the trunk's own.
            edits: site pattern -> edit, as in Model.run; they see positions from `start` to `end`.
            capture, logits: as in Model.run.

        Returns a Run of the branch's rows and positions.
        """
        model, sites = self.model, self.model.sites()
        index = torch.as_tensor(rows, device=model.device, dtype=torch.long)
        entering = self.resid[layer][index, start:end] if x is None else x
        tokens = Tokens(self.tokens.ids[index, start:end], self.tokens.mask[index, start:end], self.tokens.tokenizer)
        wanted = sites.match(capture)
        edited = self._edits(layer, edits or {})
        past = self.past(index, start)
        with gradients(False):
            return run_pass(
                sites,
                tokens,
                lambda tap, last: run_from(model.weights, model.config, layer, entering, tap, last, past),
                capture=wanted,
                edits=edited,
                positions=self.tokens.positions[index, start:end],
                stop_after=wanted[-1] if logits is None and wanted else None,
                logits=logits,
            )

    def _edits(self, layer: int, edits: Mapping[str, Edit]) -> dict[Site, list[Edit]]:
        """Return the edits in force, then the given ones, by site.

        The trunk has already applied the edits in force at the first block's entry: they are left out.
        """
        entry = f"blocks.{layer}.resid_pre"
        by_site = {site: found for site, found in self.model.edits_by_site({}).items() if site.name != entry}
        for site, given in editing.by_site(self.model.sites(), [edits]).items():
            by_site.setdefault(site, []).extend(given)
        return by_site
