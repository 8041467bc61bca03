"""The engine of causal tracing: what each restored state does to the answer, computing only what it can reach.

    tracer = Tracer(model, ids, answer, noised, noise)      the clean run and the corrupted ones, once
    for cell in cells("mlp_out", n_layers, window): ...     what is restored: layers [first, end) at one position
    tracer.scores(position, cells)                          log-probability of the answer: [cell, sample]

A state restored at position p leaves all earlier positions as they are, and all layers below. So for each position the
stream goes up through the layers once, positions p.. alone, in a batch that grows: at each layer the cells whose
restoration began below join it. What they see of earlier positions are the corrupted runs' keys and values.

    resid_post   begins behind the restored layer: the corrupted stream, the clean state at p in it
    mlp_out      begins there too: what the first restored MLP writes is known, and moves p alone
    attn_out     the same, and one MLP at one position to find what that does to p
    windows      clipped to the same first layer are one row until the first of them ends
    last block   keys and values of all positions, and the rest of those alone that are asked; only they are unembedded

Edits in force may look at any position. Then each cell is a branch of its own over whole positions, still without the
layers below its first one.

Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1: the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.logits import widen
from cutaway.model.cache import Queried, take
from cutaway.model.modes import plainly
from cutaway.model.passes import Logits, run_from
from cutaway.model.taps.tap import Context, Tap
from cutaway.model.trunk import BUDGET, Trunk
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model

KINDS = ("resid_post", "mlp_out", "attn_out")


@dataclass(frozen=True)
class Cell:
    """What one score restores: a kind of state in layers first .. end - 1, shown at `layer`."""

    kind: str
    layer: int
    first: int
    end: int


def cells(kind: str, n_layers: int, window: int) -> list[Cell]:
    """One cell a layer; windows reach from layer - window // 2 on, and are clipped to the layers there are."""
    return [Cell(kind, i, max(0, i - window // 2), min(n_layers, i + (window + 1) // 2)) for i in range(n_layers)]


@dataclass
class _Row:
    """One stream of the growing batch (for each sample), and the cells that it still is the state of."""

    kind: str
    cells: list[int]  # their numbers
    ends: list[int]

    def restores(self, layer: int) -> bool:
        return max(self.ends) > layer


class Tracer:
    """The clean run and the corrupted ones of a prompt, and the answer's score under any restoration.

    Args:
        ids: of the prompt, and of all of the answer's tokens but the last.
        answer: ids of the answer's tokens; empty for the clean run's own first choice.
        noised: the positions whose token embedding is noised.
        noise: [sample, noised position, d_model].
        budget: bytes that a batch may take. The corrupted runs' own states come on top of it.

    Attributes:
        answer: the answer's ids.
        clean, corrupted: log-probability of the answer, float64; a tensor [sample] for the latter.
        computed: token-layers so far: a block at one position of one row. The last block's count whole.
    """

    def __init__(
        self, model: Model, ids: list[int], answer: list[int], noised: range, noise: Tensor, budget: int = BUDGET
    ) -> None:
        config, device = model.config, model.device
        self.model, self.budget, self.samples = model, budget, len(noise)
        self.noised, self.width = noised, len(ids)
        logits: Logits = "last" if len(answer) < 2 else "all"
        self._kept = logits
        one = model.tokens(torch.tensor([ids], device=device))
        many = Tokens(one.ids.expand(self.samples, -1), one.mask.expand(self.samples, -1), one.tokenizer)
        run = model.run(one, capture=KINDS, logits=logits)
        self.answer = answer or [int(run.logits[0, -1].argmax())]
        self.asked = len(self.answer)  # the last so many positions say the answer
        self.restored = {kind: [value[0] for value in run.stack(kind)] for kind in KINDS}  # layer -> P D
        self.clean = float(self._score(run.logits)[0])

        places = slice(noised.start, noised.stop)
        noise = noise.to(device, model.dtype)

        def hide(value: Tensor, _: Context) -> Tensor:
            value[:, places] += noise
            return value

        self._tap = Tap.silent(many)  # for runs without edits in force
        kept = logits if model.active_edits else None
        self.trunk = Trunk(model, many, edits={"embed": hide}, capture=["resid_mid"], logits=kept)
        self.corrupted = self._score(self.trunk.run.logits) if kept else self._read(self.trunk.resid[-1][None])[0]
        self.computed = (1 + self.samples) * self.width * config.n_layers

    def _score(self, logits: Tensor) -> Tensor:
        """Logits [row, >= asked, V] -> log-probability of the whole answer, [row], float64, on the CPU."""
        wide = widen(logits[:, -self.asked :])
        target = torch.tensor(self.answer, device=logits.device)[None, :, None].expand(len(wide), -1, 1)
        return (wide.gather(2, target)[..., 0] - wide.logsumexp(-1)).double().sum(1).cpu()

    def reaches(self, cell: Cell, position: int) -> bool:
        """Whether restoring this can change the answer."""
        if self.model.active_edits:
            return True
        final = position >= self.width - self.asked  # what is asked is said here
        return position >= self.noised.start and (final or cell.first < self.model.config.n_layers - 1)

    @plainly
    def scores(self, position: int, of: Sequence[Cell]) -> Tensor:
        """The answer's log-probability with each cell restored at a position: [cell, sample], float64."""
        found = self.corrupted.repeat(len(of), 1)
        reached = [i for i, cell in enumerate(of) if self.reaches(cell, position)]
        if self.model.active_edits:
            for i in reached:
                found[i] = self._branch(position, of[i])
            return found
        for numbers, samples in self._batches(position, of, reached):
            for row, scored in self._climb(position, of, numbers, samples):
                for i in row.cells:
                    found[i, samples] = scored
        return found

    def cost(self, position: int, of: Sequence[Cell]) -> int:
        """Token-layers that scores() will compute."""
        layers, reached = self.model.config.n_layers, [cell for cell in of if self.reaches(cell, position)]
        if self.model.active_edits:
            return sum((layers - cell.first) * self.samples * self.width for cell in reached)
        rows = 0
        for path in _paths(range(len(reached)), reached):
            ends = {max(reached[i].end, path.first + 1) for i in path.numbers}
            # One row from behind the first layer on, and one more from where each but the last of them ends.
            rows += layers - path.first - 1 + sum(layers - end for end in ends - {max(ends)})
        begun = len({cell.first for cell in reached if cell.kind == "attn_out"})
        return self.samples * (rows * (self.width - position) + begun)

    # --- no edits in force: one way up for all cells of a position ---

    def _batches(self, position: int, of: Sequence[Cell], reached: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Cells and samples that climb together: half of the budget holds their streams."""
        paths = list(_paths(reached, of))
        size = self.trunk.resid[0].element_size() * (self.width - position) * self.model.config.d_model
        most = max(1, self.budget // 4 // size)  # streams; each layer makes a new batch beside the last one
        together = sum(path.rows for path in paths)
        samples = _split(self.samples, most // max(1, together))
        groups: list[list[_Path]] = [[]]
        for path in paths:
            if groups[-1] and sum(p.rows for p in groups[-1]) + path.rows > most:
                groups.append([])
            groups[-1].append(path)
        for group in groups if paths else []:
            numbers = [i for path in group for i in path.numbers]
            yield from ((numbers, part) for part in samples)

    def _climb(self, p: int, of: Sequence[Cell], numbers: list[int], samples: Tensor) -> Iterator[tuple[_Row, Tensor]]:
        """Each row of the batch when it has arrived, with its scores [sample]."""
        layers, rows = self.model.config.n_layers, list[_Row]()
        samples = samples.to(self.model.device)
        x = self.trunk.resid[0].new_empty(0, len(samples), self.width - p, self.model.config.d_model)  # G S Q D
        paths = list(_paths(numbers, of))
        for layer in range(layers + 1):  # before block `layer`, or behind the last one
            joining = [path for path in paths if path.first == layer - 1]
            rows += [_Row(path.kind, path.numbers, [of[i].end for i in path.numbers]) for path in joining]
            if joining:
                begun = [self._begin(path.kind, path.first, p, samples)[:, -x.shape[2] :] for path in joining]
                x = torch.cat([x, torch.stack(begun)])
            if ended := [i for i, row in enumerate(rows) if min(row.ends) <= layer < max(row.ends)]:
                x = torch.cat([x, x[ended]])
                rows += [_leave(rows[i], layer) for i in ended]
            if rows and layer < layers:
                x = self._block(layer, p, x, rows, samples)
        yield from zip(rows, self._read(x), strict=True)

    def _begin(self, kind: str, layer: int, p: int, samples: Tensor) -> Tensor:
        """The corrupted stream behind a layer, positions p.., with a clean output of that layer at p: S Q D."""
        x, clean = self.trunk.resid[layer + 1][samples, p:], self.restored[kind][layer][p]
        if kind == "resid_post":
            x[:, 0] = clean
        elif kind == "mlp_out":
            x[:, 0] = self.trunk.run[f"blocks.{layer}.resid_mid"][samples, p] + clean
        else:
            self.computed += len(samples)
            entered, after = self.trunk.resid[layer][samples, p : p + 1], self.model.architecture.after_attention
            w, config = self.model.weights.blocks[layer], self.model.config
            x[:, :1] = after(w, config, layer, entered, clean, self._tap)
        return x

    def _block(self, layer: int, p: int, x: Tensor, rows: list[_Row], samples: Tensor) -> Tensor:
        """All rows through a block, as many at once as the budget has room for."""
        G, S, Q, D = x.shape
        self.computed += G * S * Q
        final = layer == self.model.config.n_layers - 1 and self.asked < Q
        flat, index = x.view(G * S, Q, D), samples.repeat(G)
        restored = {
            kind: torch.tensor([row.kind == kind and row.restores(layer) for row in rows]).repeat_interleave(S)
            for kind in ("attn_out", "mlp_out")
        }
        out = flat.new_empty(G * S, self.asked if final else Q, D)
        for part in self._parts(G * S, p):
            places = None if final else {kind: which[part].nonzero()[:, 0] for kind, which in restored.items()}
            out[part] = self._several(layer, p, flat[part], index[part], places)
        return out.view(G, S, -1, D)

    def _several(self, layer: int, p: int, x: Tensor, index: Tensor, places: dict[str, Tensor] | None) -> Tensor:
        """Run a block on some rows, with clean outputs at position p for the rows listed in `places`.

        If `places` is None (the last block), compute only the answer's positions.
        """
        w, config, tap, family = self.model.weights.blocks[layer], self.model.config, self._tap, self.model.architecture
        past = self.trunk.past(index, p)
        if places is None:
            last = torch.arange(x.shape[1] - self.asked, x.shape[1], device=x.device).expand(len(x), -1)
            written = family.attention(w, config, layer, x, tap, Queried(last, past))
            return family.after_attention(w, config, layer, take(x, last), written, tap)
        written = family.attention(w, config, layer, x, tap, past)
        if len(rows := places["attn_out"]):
            written[rows, 0] = self.restored["attn_out"][layer][p]
        out = family.after_attention(w, config, layer, x, written, tap)
        if len(rows := places["mlp_out"]):
            out[rows, 0] = x[rows, 0] + written[rows, 0] + self.restored["mlp_out"][layer][p]
        return out

    @plainly
    def _read(self, x: Tensor) -> Tensor:
        """Streams behind the last block, G S Q D -> log-probability of the answer [G, S]."""
        w, config = self.model.weights, self.model.config
        flat = x[:, :, -self.asked :].flatten(0, 1)
        parts = [
            self._score(run_from(w, config, config.n_layers, flat[part], self._tap))
            for part in self._parts(len(flat), self.width - self.asked)
        ]
        return torch.cat(parts).view(x.shape[:2]) if parts else torch.empty(x.shape[:2], dtype=torch.float64)

    def _parts(self, rows: int, start: int) -> list[slice]:
        step = self.trunk.fitting(self.budget // 2, start, self.asked)
        return [slice(i, i + step) for i in range(0, rows, step)]

    # --- edits in force: one cell after the other ---

    def _branch(self, position: int, cell: Cell) -> Tensor:
        def clean(layer: int) -> Callable[[Tensor, Context], Tensor]:
            def restore(value: Tensor, _: Context) -> Tensor:
                value[:, position] = self.restored[cell.kind][layer][position]
                return value

            return restore

        edits = {f"blocks.{i}.{cell.kind}": clean(i) for i in range(cell.first, cell.end)}
        step = self.trunk.fitting(self.budget, outputs=self.width)
        self.computed += (self.model.config.n_layers - cell.first) * self.samples * self.width
        found = [
            self._score(self.trunk.branch(cell.first, rows=part, edits=edits, logits=self._kept).logits)
            for part in _split(self.samples, step)
        ]
        return torch.cat(found)


def _split(n: int, step: int) -> list[Tensor]:
    """0 .. n - 1, `step` at a time."""
    step = max(1, step)
    return [torch.arange(i, min(i + step, n)) for i in range(0, n, step)]


@dataclass(frozen=True)
class _Path:
    """Cells of one kind whose restoration begins in the same layer."""

    kind: str
    first: int
    numbers: list[int]
    rows: int  # at the end of the way


def _paths(numbers: Sequence[int], of: Sequence[Cell]) -> Iterator[_Path]:
    grouped: dict[tuple[str, int], list[int]] = {}
    for i in numbers:
        grouped.setdefault((of[i].kind, of[i].first), []).append(i)
    for (kind, first), members in grouped.items():
        yield _Path(kind, first, members, len({of[i].end for i in members}))


def _leave(row: _Row, layer: int) -> _Row:
    """Take the cells out of a row whose restoration has ended; return their own."""
    done = [i for i, end in enumerate(row.ends) if end <= layer]
    left = _Row(row.kind, [row.cells[i] for i in done], [row.ends[i] for i in done])
    row.cells = [cell for i, cell in enumerate(row.cells) if i not in done]
    row.ends = [end for i, end in enumerate(row.ends) if i not in done]
    return left
