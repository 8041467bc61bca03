"""Path patching: what one component tells another, directly.

    path(model, clean, corrupted, "heads", "logits")           each head's direct effect on the answer
    path(model, clean, corrupted, "heads", "head 3.1 q")       each earlier head's on the queries of head 3.1
    path(model, clean, corrupted, ("blocks.1.attn.z", 4), "mlp 2")

Three steps, for each sender. Both texts are run. Then one of them is run with everything frozen at its own values but
the sender, which is given the other run's output: what the receiver reads is kept. Then it is run once more, free, with
that in the receiver's place. Frozen, nothing but the straight path through the residual stream carries the difference,
so the second run needs no attention: the receiver reads its own stream plus the sender's difference. With
`through_mlps` the MLPs on the way are recomputed, and only attention is frozen.

Wang et al. 2022, Interpretability in the Wild, section 3.1 and appendix B (with MLPs recomputed). Goldowsky-Dill et al.
2023, Localizing Model Behavior with Path Patching (paths edge by edge).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeGuard

import torch
from torch import Tensor

from cutaway.analyses.patching.cells import Cell, indices, within
from cutaway.analyses.patching.pair import Metric, check_direction, read_pair, settled
from cutaway.analyses.patching.result import Cells, Direction
from cutaway.arguments import is_whole, whole
from cutaway.errors import InputError, Interrupted
from cutaway.model.modes import plainly
from cutaway.model.taps.tap import Tap
from cutaway.model.trunk import BUDGET, Trunk
from cutaway.progress import meter
from cutaway.results.call import describe

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

Place: TypeAlias = str | tuple[str, int]  # "head 3.1", "mlp 2", or a site and its head
SENDERS = {"heads": "attn.z", "mlps": "mlp_out"}
WORDS = "'head 3.1', 'mlp 2', 'heads', 'mlps', or a site with its head, such as ('blocks.3.attn.z', 1)"
RECEIVERS = "'head 3.1 q' (or k, or v), 'mlp 2', 'logits', or a site with its head, such as ('blocks.3.attn.q', 1)"


@dataclass(frozen=True, slots=True)
class Receiver:
    """What reads: q, k or v of a head, an MLP, or the unembedding."""

    kind: str  # attn.q, attn.k, attn.v, mlp_in or logits
    layer: int  # n_layers for logits
    head: int | None = None

    @property
    def name(self) -> str:
        if self.kind == "logits":
            return "logits"
        if self.head is None:
            return f"mlp {self.layer}"
        return f"head {self.layer}.{self.head} {self.kind[-1]}"

    def reads(self, sender: Cell) -> bool:
        """Whether the sender writes before this reads."""
        same = self.kind == "mlp_in" and sender.by_head and sender.layer == self.layer
        return sender.layer < self.layer or same


@dataclass(frozen=True, eq=False, repr=False)
class Path(Cells):
    """The metric with each sender's message to one receiver patched. A cell is a sender."""

    analysis: ClassVar[str] = "patching.path"
    title: ClassVar[str] = "Who tells it, directly?"

    receiver: str
    through_mlps: bool

    @property
    def done(self) -> int:
        """How many senders were computed: all of them, unless it was interrupted."""
        return int(self.values.isfinite().sum())

    def name(self, cell: Cell) -> str:
        return f"mlp {cell.layer}" if cell.index is None else f"head {cell.layer}.{cell.index}"

    def summary(self) -> str:
        frozen = "attention frozen, MLPs recomputed" if self.through_mlps else "all else frozen"
        missing = "" if self.done == len(self.cells) else f" (of {len(self.cells):,}: interrupted)"
        senders = f"{self.done:,} sender{'s' * (self.done != 1)}{missing}"
        return "\n".join(
            [
                self._levels(),
                f"{self.direction}, from {senders} to {self.receiver}, {frozen}; the largest (0 corrupted, 1 clean):",
                *self._best(),
            ]
        )

    def facts(self) -> list[tuple[str, str]]:
        return [
            (f"largest direct effect on {self.receiver}", f"{self.name(cell)} ({value:.2f})")
            for cell, value in self.largest(1)
        ]

    def caption(self) -> str:
        text, other = ("corrupted", "clean") if self.direction == "restore" else ("clean", "corrupted")
        way = "through the residual stream and MLPs" if self.through_mlps else "straight through the residual stream"
        reads = "the logits read" if self.receiver == "logits" else f"{self.receiver} reads"
        return (
            f"The {text} text runs with what {reads} changed by one sender: as if that had its value of "
            f"the {other} run, {way}. The scale is the {self.measured}: 0 as after the corrupted text "
            f"({self.corrupted_value:+.3g}), 1 as after the clean one ({self.clean_value:+.3g})."
        )


@plainly
def path(
    model: Model,
    clean: Inputs,
    corrupted: Inputs,
    sender: Place | Sequence[Place] = "heads",
    receiver: Place = "logits",
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
    """The direct effect of each sender on a receiver: the metric with that message of the other run's.

    Args:
        sender: "head 3.1", "mlp 2", "heads" or "mlps" (all that the receiver can read), a site pattern of z or
            mlp_out, a pair (site, head), or several of these.
        receiver: "head 3.1 q" (or k, or v), "mlp 2", "logits", or a site (attn.q, attn.k, attn.v, mlp_in) with its
            head.
        positions: of the sender; None for all.
        through_mlps: MLPs on the way are recomputed, as in Wang et al.; otherwise they are frozen, too.

    The other arguments, and what is raised, are those of patching.run; also InputError for a sender that does not come
    before the receiver, and while edits are in force.
    """
    pair = read_pair(model, clean, corrupted, metric, answer, versus, bos)
    row, other = check_direction(direction)
    if model.active_edits:
        raise InputError("path patching freezes the model as it is: edits are in force, leave `with model.edited(...)`")
    reader = _receiver(model, receiver)
    positions = indices(positions, "positions")
    at = within(positions, pair.length, "positions", "both texts have {} tokens")
    senders = _senders(model, sender, reader, tuple(at))
    kinds = ["attn.z", "attn_out", "mlp_out", "resid_mid"]
    trunk = Trunk(model, pair.tokens, capture=kinds, logits="last")
    measure = pair.measure(trunk.run.logits[:, 0])
    parameters = {
        **pair.call(), "sender": sender, "receiver": receiver, "direction": direction, "answer": answer,
        "versus": versus, "positions": positions, "through_mlps": through_mlps, "bos": bos,
    }  # fmt: skip
    result = Path(
        meta=describe(model, "patching.path", pair.subject, **parameters),
        **pair.words(model),
        **settled(model, measure),
        direction=direction,
        cells=senders,
        values=torch.full((len(senders),), math.nan, dtype=torch.float64),
        receiver=reader.name,
        through_mlps=through_mlps,
    )
    start = trunk.start(pair.first)
    rows = trunk.fitting(whole("budget", budget, 1), start)
    try:
        with meter("path patching", "senders", len(senders)) as advance:
            for i in range(0, len(senders), rows):
                part = senders[i : i + rows]
                streams = _read(trunk, part, reader, row, other, start, through_mlps)
                result.values[i : i + rows] = measure(_reread(trunk, streams, reader, row, start)).cpu()
                advance(len(part), len(senders))
                if each is not None:
                    each(replace(result, values=result.values.clone()))
    except KeyboardInterrupt:
        raise Interrupted(result, f"interrupted: {result.done:,} of {len(senders):,} senders are done") from None
    return result


# --- the two runs ---


def _read(
    trunk: Trunk, senders: Sequence[Cell], reader: Receiver, row: int, other: int, start: int, through_mlps: bool
) -> Tensor:
    """The stream that the receiver reads, frozen but for each sender: [senders, pos - start, D]."""
    model, run = trunk.model, trunk.run
    first = min(cell.layer for cell in senders)
    tap = Tap.silent(trunk.tokens, start)
    x = trunk.resid[first][row, start:].repeat(len(senders), 1, 1)
    for i in range(first, min(reader.layer + 1, model.config.n_layers)):
        if i == reader.layer and reader.kind != "mlp_in":
            break
        x = x + run[f"blocks.{i}.attn_out"][row, start:]
        for n, cell in enumerate(senders):
            if cell.layer == i and cell.index is not None:
                x[n] += _difference(trunk, cell, row, other, start)
        if i == reader.layer:
            break
        if through_mlps:
            x = x + model.architecture.mlp(model.weights.blocks[i], model.config, i, x, tap)
        else:
            x = x + run[f"blocks.{i}.mlp_out"][row, start:]
        for n, cell in enumerate(senders):
            if cell.layer == i and cell.index is None:
                x[n] += _difference(trunk, cell, row, other, start)
    return x


def _difference(trunk: Trunk, cell: Cell, row: int, other: int, start: int) -> Tensor:
    """What a sender writes in the other run less what it writes in this one, at its positions: [pos - start, D]."""
    value = trunk.run[cell.site.name]
    change = (value[other] - value[row])[start:]
    if cell.index is not None:
        K, W_O = trunk.model.config.d_head, trunk.model.weights.blocks[cell.layer].W_O  # HK D
        change = change[:, cell.index] @ W_O[cell.index * K : (cell.index + 1) * K]
    at = torch.zeros(len(change), 1, dtype=change.dtype, device=change.device)
    at[[p - start for p in cell.positions if p >= start]] = 1
    return change * at


def _reread(trunk: Trunk, x: Tensor, reader: Receiver, row: int, start: int) -> Tensor:
    """Last logits [rows, V] of a free run whose receiver reads these streams."""
    model, rows, layer = trunk.model, [row] * len(x), reader.layer
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


# --- who ---


def _receiver(model: Model, place: Place) -> Receiver:
    config = model.config
    if place == "logits":
        return Receiver("logits", config.n_layers)
    site: Any
    site, head = place if _with_head(place) else (place, None)
    if isinstance(site, str):
        if found := re.fullmatch(r"head (-?\d+)\.(\d+) ([qkv])", site):
            site, head = f"blocks.{found[1]}.attn.{found[3]}", int(found[2][:20])
        elif found := re.fullmatch(r"mlp (-?\d+)", site):
            site = f"blocks.{found[1]}.mlp_in"
    if not isinstance(site, str) or re.fullmatch(r"(head|mlp|heads|mlps)( .*)?", site):
        raise InputError(f"receiver={place!r}: {RECEIVERS} was expected")
    sites = model.sites().match(site)
    by_head = sites[0].kind in ("attn.q", "attn.k", "attn.v")
    if len(sites) > 1 or not (by_head or sites[0].kind == "mlp_in") or by_head == (head is None):
        raise InputError(f"receiver={place!r}: {RECEIVERS} was expected")
    if head is not None and not 0 <= head < config.n_heads:
        raise InputError(f"receiver={place!r}: head {head} is not there; {site} has 0 to {config.n_heads - 1}")
    assert sites[0].layer is not None
    return Receiver(sites[0].kind, sites[0].layer, head)


def _with_head(place: object) -> TypeGuard[tuple[Any, int | None]]:
    """Whether it is a pair of a site and its head, and no sequence of places."""
    return isinstance(place, tuple) and len(place) == 2 and (place[1] is None or is_whole(place[1]))


def _senders(model: Model, given: Place | Sequence[Place], reader: Receiver, positions: tuple[int, ...]) -> list[Cell]:
    one = isinstance(given, str) or _with_head(given) or not isinstance(given, Sequence)
    several: list[Any] = [given] if one else list(given)
    found: dict[Cell, None] = {}
    for place in several:
        cells = [Cell(site, positions, head) for site, head in _places(model, place)]
        before = [cell for cell in cells if reader.reads(cell)]
        if not before:
            raise InputError(f"sender={place!r} does not come before {reader.name}: an earlier one was expected")
        found |= dict.fromkeys(before)
    if not found:
        raise InputError(f"sender={given!r}: {WORDS} was expected")
    return list(found)


def _places(model: Model, place: Place) -> list[tuple[Any, int | None]]:
    """Sites and heads that a sender's name means."""
    c = model.config
    pattern: Any
    pattern, head = place if _with_head(place) else (place, None)
    if isinstance(pattern, str):
        pattern = SENDERS.get(pattern, pattern)
        if found := re.fullmatch(r"head (-?\d+)\.(\d+)", pattern):
            pattern, head = f"blocks.{found[1]}.attn.z", int(found[2][:20])
        elif found := re.fullmatch(r"mlp (-?\d+)", pattern):
            pattern = f"blocks.{found[1]}.mlp_out"
    if not isinstance(pattern, str) or re.match(r"(head|mlp) ", pattern):
        raise InputError(f"sender={place!r}: {WORDS} was expected")
    sites = model.sites().match(pattern)
    if other := [site.name for site in sites if site.kind not in ("attn.z", "mlp_out")]:
        raise InputError(f"sender={place!r} names {other[0]}: {WORDS} was expected")
    if head is not None and not (is_whole(head) and 0 <= head < c.n_heads and sites[0].kind == "attn.z"):
        raise InputError(f"sender={place!r}: head {head} is not there; {sites[0].name} has 0 to {c.n_heads - 1}")
    heads = list(range(c.n_heads)) if head is None else [head]
    return [(site, h) for site in sites for h in (heads if site.kind == "attn.z" else [None])]
