"""Make one pass through a model: blocks from the bottom up, sites captured and edited on the way.

    run_pass(sites, tokens, compute, capture=...)   a Run: what was kept of a pass, and its logits
    forward(w, config, ids, tap)                    logits, from token ids
    run_from(w, config, 3, x, tap)                  logits, from the stream that enters block 3
    unembed(w, config, states)                      logits of any states of the stream

The forward pass itself is its family's (architectures/). Here is what all families share: the loop over blocks; `last`,
which leaves out what the logits of few positions do not need; and stopping behind the last site that was asked for.

`last` [B] gives one position per row; only its logits are computed, [B, 1, V]. `last` [B, A] gives A positions per row
and returns [B, A, V].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.architectures import architecture_of
from cutaway.model.architectures.families import Config, Weights
from cutaway.model.cache import Past, Queried, take
from cutaway.model.taps.captures import Run
from cutaway.model.taps.sites import Site, Sites
from cutaway.model.taps.tap import Edit, Stop, Tap, Watcher
from cutaway.text.tokens import Tokens

Logits: TypeAlias = Literal["all", "last"] | None
FINAL_NORM = ("ln_final.scale", "ln_final.normalized", "ln_final.out")


def run_pass(
    sites: Sites,
    tokens: Tokens,
    compute: Callable[[Tap, Tensor | None], Tensor],
    *,
    capture: Sequence[Site],
    edits: Mapping[Site, Sequence[Edit]],
    watch: Mapping[Site, Sequence[Watcher]] | None = None,
    positions: Tensor | None = None,
    stop_after: Site | None = None,
    logits: Logits = "all",
    grad: bool = False,
    described: Sequence[Mapping[str, str]] = (),
) -> Run:
    """Make a tap, compute a pass with it, and return what the pass kept.

    Args:
        compute: takes the tap and `last`, and returns logits: forward or run_from, the other arguments given.
        positions: of the tokens; None if they begin at 0.
        stop_after: the site behind which nothing is computed any more; None to go on to the logits.
        described: the edits in force, for the Run.
    """
    tap = Tap(
        capture,
        edits,
        watch,
        tokens=tokens.ids,
        mask=tokens.mask,
        positions=tokens.positions if positions is None else positions,
        stop_after=None if stop_after is None else stop_after.name,
        grad=grad,
    )
    last = tokens.lengths - 1 if logits == "last" else None
    try:
        result: Tensor | None = compute(tap, last)
    except Stop:
        result = tap.captured.get("logits")
    return Run(tokens, sites, tap.captured, result, described)


def forward(
    w: Weights, config: Config, ids: Tensor, tap: Tap, last: Tensor | None = None, past: Past | None = None
) -> Tensor:
    """Return the logits of token ids: B P -> B P V, or those at `last` only.

    The tap holds the positions of the tokens, `past` the keys and values of those before them.
    """
    return run_from(w, config, 0, architecture_of(config).embed(w, ids, tap), tap, last, past)


def run_from(
    w: Weights, config: Config, first: int, x: Tensor, tap: Tap, last: Tensor | None = None, past: Past | None = None
) -> Tensor:
    """Return the logits, given the stream that enters block `first` (n_layers: that leaves the last block), B P D."""
    block = architecture_of(config).block
    for i in range(first, config.n_layers):
        if last is not None and i == config.n_layers - 1 and not tap.wants_after(i):
            x, last = _last_block(w, config, i, x, tap, last, past), None  # B A D
        else:
            x = block(w.blocks[i], config, i, x, tap, past)  # B P D
    return _head(w, config, x, tap, last)


def _last_block(w: Weights, config: Config, i: int, x: Tensor, tap: Tap, last: Tensor, past: Past | None) -> Tensor:
    """Return the stream that leaves the last block at the positions `last`: B P D -> B A D.

    Only those positions need a query, an output and an MLP; all positions still need keys and values.
    """
    family = architecture_of(config)
    resid_pre = tap(f"blocks.{i}.resid_pre", x)  # B P D
    attn_out = family.attention(w.blocks[i], config, i, resid_pre, tap, Queried(last, past))  # B A D
    return family.after_attention(w.blocks[i], config, i, take(resid_pre, last), attn_out, tap)


def _head(w: Weights, config: Config, x: Tensor, tap: Tap, last: Tensor | None) -> Tensor:
    """Return the logits at `last`, or all: as few positions are normed and unembedded as the sites allow."""
    family = architecture_of(config)
    if last is not None and tap.wants("logits"):
        return take(family.head(w, config, x, tap), last)
    if last is not None and tap.wants(*FINAL_NORM):
        return family.unembed(w, take(family.final_norm(w, config, x, tap), last))
    return family.head(w, config, x if last is None else take(x, last), tap)


def unembed(w: Weights, config: Config, states: Tensor, normed: bool = False) -> Tensor:
    """Return the logits [..., V] of states [..., D]. Model.unembed describes the arguments."""
    if not isinstance(states, Tensor) or states.shape[-1:] != (config.d_model,):
        got = list(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise InputError(f"states {got} were given: a tensor [..., {config.d_model}] was expected")
    kind, own = (states.dtype, states.device), (w.W_E.dtype, w.W_E.device)
    if kind != own:
        raise InputError(f"states of {kind[0]} on {kind[1]} were given: {own[0]} on {own[1]} was expected")
    family = architecture_of(config)
    return family.unembed(w, states if normed else family.final_norm(w, config, states, Tap.silent()))
