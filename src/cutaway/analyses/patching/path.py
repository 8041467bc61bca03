"""Path patching: what one component tells another, directly. Public as patching.path.

    path(model, clean, corrupted, "heads", "logits")           each head's direct effect on the answer
    path(model, clean, corrupted, "heads", "head 3.1 q")       each earlier head's on the queries of head 3.1
    path(model, clean, corrupted, ("blocks.1.attn.z", 4), "mlp 2")

There are three steps for each sender. Both texts are run. Then one of them is run with everything frozen at its own
values but the sender, which is given the other run's output; what the receiver reads is kept. Then it is run once more,
free, with that in the receiver's place. With everything frozen, only the straight path through the residual stream
carries the difference, so the second run needs no attention: the receiver reads its own stream plus the sender's
difference. With `through_mlps` the MLPs on the way are recomputed, and only attention is frozen.

Wang et al. 2022, Interpretability in the Wild, section 3.1 and appendix B (with MLPs recomputed). Goldowsky-Dill et al.
2023, Localizing Model Behavior with Path Patching (paths edge by edge).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from cutaway.analyses.patching.cells import Cell
from cutaway.analyses.patching.choice import indices, within
from cutaway.analyses.patching.metrics import Metric
from cutaway.analyses.patching.pair import Direction, Pair, read_pair
from cutaway.analyses.patching.result import Path, keep_when_interrupted
from cutaway.arguments import is_whole, whole
from cutaway.errors import InputError
from cutaway.model.taps.components import Address, find
from cutaway.model.taps.tap import Tap
from cutaway.model.trunk import BUDGET, Trunk
from cutaway.progress import meter
from cutaway.results.call import analysis

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

End: TypeAlias = str | tuple[str, int]  # of a path: "head 3.1", "mlp 2", or a site and its head
SENDER = "'head 3.1', 'mlp 2', 'heads', 'mlps', or a site with its head, such as ('blocks.3.attn.z', 1)"
RECEIVER = "'head 3.1 q' (or k, or v), 'mlp 2', 'logits', or a site with its head, such as ('blocks.3.attn.q', 1)"


@dataclass(frozen=True, slots=True)
class Receiver:
    """The reader of a message: q, k or v of a head, an MLP, or the unembedding."""

    kind: str  # attn.q, attn.k, attn.v, mlp_in or logits
    layer: int  # n_layers for logits
    head: int | None = None

    @property
    def name(self) -> str:
        """Return "head 3.1 q", "mlp 2" or "logits"."""
        if self.kind == "logits":
            return "logits"
        if self.head is None:
            return str(Address("mlp", self.layer))
        return str(Address("head", self.layer, self.head, self.kind[-1]))

    def can_read(self, sender: Cell) -> bool:
        """Return whether the sender writes before this reads."""
        same_block = self.kind == "mlp_in" and sender.by_head and sender.layer == self.layer
        return sender.layer < self.layer or same_block


@analysis("patching.path")
def path(
    model: Model,
    clean: Inputs,
    corrupted: Inputs,
    sender: End | Sequence[End] = "heads",
    receiver: End = "logits",
    metric: Metric = "logit difference",
    direction: Direction = "restore",
    answer: str | int | None = None,
    versus: str | int | None = None,
    *,
    positions: Sequence[int] | None = None,
    through_mlps: bool = False,
    bos: bool = False,
    budget: int = BUDGET,
    each: Callable[[Path], object] | None = None,
) -> Path:
    """Return each sender's direct effect on a receiver: the metric with that message taken from the other run.

    Args:
        sender: "head 3.1", "mlp 2", "heads" or "mlps" (all that the receiver can read), a site pattern of z or
            mlp_out, a pair (site, head), or several of these.
        receiver: "head 3.1 q" (or k, or v), "mlp 2", "logits", or a site (attn.q, attn.k, attn.v, mlp_in) with its
            head.
        positions: of the sender; None for all.
        through_mlps: recompute MLPs on the way, as Wang et al. do; otherwise they are frozen, too.

    The other arguments and the errors raised are as in patching.run; also InputError for a sender that does not come
    before the receiver, and while edits are in force.
    """
    pair = read_pair(model, clean, corrupted, metric, direction, answer, versus, bos)
    if model.active_edits:
        raise InputError("edits are in force: path patching works only without them, leave `with model.edited(...)`")
    reader = _find_receiver(model, receiver)
    positions = indices(positions, "positions")
    chosen = within(positions, pair.length, "positions", "both texts have {} tokens")
    senders = _find_senders(model, sender, reader, tuple(chosen))
    trunk = Trunk(model, pair.tokens, capture=["attn.z", "attn_out", "mlp_out", "resid_mid"], logits="last")
    measure = pair.measure(trunk.run.logits[:, 0])
    result = Path(
        meta=pair.meta(model, positions=positions),
        **pair.fields(model, measure),
        cells=senders,
        values=torch.full((len(senders),), math.nan, dtype=torch.float64),
        receiver=reader.name,
        through_mlps=through_mlps,
    )
    start = trunk.start(pair.first)
    rows = trunk.fitting(whole("budget", budget, 1), start)
    with keep_when_interrupted(lambda: result, "senders"), meter("path patching", "senders", len(senders)) as advance:
        for i in range(0, len(senders), rows):
            part = senders[i : i + rows]
            streams = _read_frozen(trunk, part, reader, pair, start, through_mlps)
            result.values[i : i + rows] = measure(_run_free(trunk, streams, reader, pair, start)).cpu()
            advance(len(part), len(senders))
            if each is not None:
                each(replace(result, values=result.values.clone()))
    return result


# --- the two runs ---


def _read_frozen(
    trunk: Trunk, senders: Sequence[Cell], reader: Receiver, pair: Pair, start: int, through_mlps: bool
) -> Tensor:
    """Return the stream that the receiver reads with all frozen but one sender: [senders, pos - start, D]."""
    model, run, row = trunk.model, trunk.run, pair.row
    first = min(cell.layer for cell in senders)
    tap = Tap.silent(trunk.tokens, start)
    x = trunk.resid[first][row, start:].repeat(len(senders), 1, 1)
    for i in range(first, min(reader.layer + 1, model.config.n_layers)):
        if i == reader.layer and reader.kind != "mlp_in":
            break
        x = x + run[f"blocks.{i}.attn_out"][row, start:]
        for n, cell in enumerate(senders):
            if cell.layer == i and cell.index is not None:
                x[n] += _difference(trunk, cell, pair, start)
        if i == reader.layer:
            break
        if through_mlps:
            x = x + model.architecture.mlp(model.weights.blocks[i], model.config, i, x, tap)
        else:
            x = x + run[f"blocks.{i}.mlp_out"][row, start:]
        for n, cell in enumerate(senders):
            if cell.layer == i and cell.index is None:
                x[n] += _difference(trunk, cell, pair, start)
    return x


def _difference(trunk: Trunk, cell: Cell, pair: Pair, start: int) -> Tensor:
    """Return what a sender writes in the other run less what it writes in this one, at its positions:
    [pos - start, D]."""
    value = trunk.run[cell.site.name]
    change = (value[pair.other] - value[pair.row])[start:]
    if cell.index is not None:
        K, W_O = trunk.model.config.d_head, trunk.model.weights.blocks[cell.layer].W_O  # HK D
        change = change[:, cell.index] @ W_O[cell.index * K : (cell.index + 1) * K]
    mask = torch.zeros(len(change), 1, dtype=change.dtype, device=change.device)
    mask[[p - start for p in cell.positions if p >= start]] = 1
    return change * mask


def _run_free(trunk: Trunk, x: Tensor, reader: Receiver, pair: Pair, start: int) -> Tensor:
    """Return last logits [rows, V] of runs in which nothing is frozen and the receiver reads the streams `x`."""
    model, rows, layer = trunk.model, [pair.row] * len(x), reader.layer
    if reader.kind == "logits":
        last = trunk.tokens.ids.shape[1] - 1
        return trunk.branch(layer, rows=rows, start=last, x=x[:, -1:], logits="last").logits[:, 0]
    read: Any = x
    if reader.head is not None:
        tap = Tap.silent(trunk.tokens, start)
        parts = model.architecture.project_qkv(model.weights.blocks[layer], model.config, layer, x, tap)
        new = parts[("attn.q", "attn.k", "attn.v").index(reader.kind)][:, :, reader.head]

        def read(value: Tensor, _: object) -> Tensor:
            value[:, :, reader.head] = new
            return value

    edits = {f"blocks.{layer}.{reader.kind}": read}
    return trunk.branch(layer, rows=rows, start=start, edits=edits, logits="last").logits[:, 0]


# --- senders and receivers ---


def _find_receiver(model: Model, address: End) -> Receiver:
    """Return the receiver at an address. Raises InputError or SiteError where there is none."""
    config = model.config
    if address == "logits":
        return Receiver("logits", config.n_layers)
    pattern, head = _pattern_and_head(address)
    found = find(pattern, config) if isinstance(pattern, str) and head is None else None
    if found is not None and len(found) == 1:
        [at] = found
        if at.part is not None or at.kind == "mlp":
            return Receiver("mlp_in" if at.part is None else f"attn.{at.part}", at.layer, at.index)
    if found is not None or not isinstance(pattern, str):
        raise InputError(f"receiver={address!r}: {RECEIVER} was expected")
    sites = model.sites().match(pattern)
    site, by_head = sites[0], sites[0].kind in ("attn.q", "attn.k", "attn.v")
    if len(sites) > 1 or not (by_head or site.kind == "mlp_in") or by_head == (head is None):
        raise InputError(f"receiver={address!r}: {RECEIVER} was expected")
    if head is not None and not 0 <= head < config.n_heads:
        raise InputError(f"receiver={address!r}: head {head} is not there; {site.name} has 0 to {config.n_heads - 1}")
    assert site.layer is not None
    return Receiver(site.kind, site.layer, head)


def _find_senders(model: Model, given: End | Sequence[End], reader: Receiver, positions: tuple[int, ...]) -> list[Cell]:
    """Return the senders at one or more addresses that the receiver can read, each once.

    Raises InputError or SiteError where an address has none.
    """
    is_one = isinstance(given, str) or _has_head(given) or not isinstance(given, Sequence)
    several: list[Any] = [given] if is_one else list(given)
    senders: dict[Cell, None] = {}
    for address in several:
        cells = [Cell(site, positions, head) for site, head in _sites_and_heads(model, address)]
        before = [cell for cell in cells if reader.can_read(cell)]
        if not before:
            raise InputError(f"sender={address!r} does not come before {reader.name}: an earlier one was expected")
        senders |= dict.fromkeys(before)
    if not senders:
        raise InputError(f"sender={given!r}: {SENDER} was expected")
    return list(senders)


def _sites_and_heads(model: Model, address: End) -> list[tuple[Any, int | None]]:
    """Return the sites and heads at a sender's address."""
    heads = model.config.n_heads
    pattern, head = _pattern_and_head(address)
    found = find(pattern, model.config) if isinstance(pattern, str) and head is None else None
    if not isinstance(pattern, str) or (found and (found[0].part is not None or found[0].kind not in ("head", "mlp"))):
        raise InputError(f"sender={address!r}: {SENDER} was expected")
    if found is not None:
        return [(model.sites().match(at.site)[0], at.index) for at in found]
    sites = model.sites().match(pattern)
    if other := [site.name for site in sites if site.kind not in ("attn.z", "mlp_out")]:
        raise InputError(f"sender={address!r} names {other[0]}: {SENDER} was expected")
    if head is not None and sites[0].kind == "mlp_out":
        raise InputError(f"sender={address!r}: head {head} is not there; {sites[0].name} has no heads")
    if head is not None and not 0 <= head < heads:
        raise InputError(f"sender={address!r}: head {head} is not there; {sites[0].name} has 0 to {heads - 1}")
    chosen = list(range(heads)) if head is None else [head]
    return [(site, h) for site in sites for h in (chosen if site.kind == "attn.z" else [None])]


def _pattern_and_head(address: Any) -> tuple[Any, int | None]:
    """Return a site pattern or an address, and the head that was given beside it."""
    return address if _has_head(address) else (address, None)


def _has_head(address: object) -> TypeGuard[tuple[Any, int | None]]:
    """Return whether an address is a pair of a site and its head, not a sequence of addresses."""
    return isinstance(address, tuple) and len(address) == 2 and (address[1] is None or is_whole(address[1]))
