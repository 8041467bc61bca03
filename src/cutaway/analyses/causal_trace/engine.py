"""Compute what each restored state does to the answer, running only what the state can reach.

    tracer = Tracer(model, ids, answer, noised, noise)      the clean run and the corrupted ones, once
    chosen = restorations("mlp_out", n_layers, window)      layers [first, end), at a position
    tracer.scores(position, chosen)                         log-probability of the answer: [restoration, sample]

A state restored at position p leaves all earlier positions as they are, and all layers below. So for each position the
stream goes up through the layers once, positions p.. only, in a batch that grows: at each layer the restorations that
began below join it. Attention to earlier positions uses the corrupted runs' keys and values.

    resid_post   joins after the restored layer: the corrupted stream, with the clean state at p in it
    mlp_out      joins there, too: the first restored MLP's output is known, and changes only p
    attn_out     the same, and one MLP at one position to compute its effect on p
    windows      clipped to the same first layer are one row until the first of them ends
    last block   keys and values of all positions, the rest only at the positions that predict the answer, and only
                 these are unembedded

Edits in force may look at any position. Then each restoration is a branch of its own over whole positions, still
without the layers below its first one.

Letters: G rows, S samples, Q positions from p on, D d_model, V d_vocab.

Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1: the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.causal_trace.restorations import KINDS, Group, Restoration, SharedRow, group_by_start
from cutaway.analyses.logits import widen
from cutaway.model.architectures import gpt2
from cutaway.model.modes import plainly
from cutaway.model.taps.tap import Context, Tap
from cutaway.model.trunk import BUDGET, Trunk
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Logits, Model


class Tracer:
    """The clean run and the corrupted runs of a prompt, and the answer's score under any restoration.

    Args:
        ids: of the prompt, and of all of the answer's tokens but the last.
        answer: ids of the answer's tokens; empty for the clean run's own first choice.
        noised: the positions whose token embedding is noised.
        noise: [sample, noised position, d_model].
        budget: bytes that a batch may take. The corrupted runs' own states come on top of it.

    Attributes:
        answer: the answer's ids.
        clean, corrupted: log-probability of the answer, float64; of the corrupted runs a tensor [sample].
        computed: token-layers so far, each one block at one position of one row. The last block counts whole.
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
        self.outputs = len(self.answer)  # the number of last positions whose logits predict the answer
        self.restored = {kind: [value[0] for value in run.stack(kind)] for kind in KINDS}  # layer -> P D
        self.clean = float(self._score(run.logits)[0])

        places = slice(noised.start, noised.stop)
        noise = noise.to(device, model.dtype)

        def hide(value: Tensor, _: Context) -> Tensor:
            value[:, places] += noise
            return value

        self._tap = Tap(tokens=many.ids, mask=many.mask, positions=many.positions)  # where no edits are in force
        kept = logits if model.active_edits else None
        self.trunk = Trunk(model, many, edits={"embed": hide}, capture=["resid_mid"], logits=kept)
        self.corrupted = self._score(self.trunk.run.logits) if kept else self._read(self.trunk.resid[-1][None])[0]
        self.computed = (1 + self.samples) * self.width * config.n_layers

    def _score(self, logits: Tensor) -> Tensor:
        """Return the log-probability of the whole answer, [row], float64, on the CPU.

        `logits` is [row, pos, V] and ends with the positions that predict the answer.
        """
        wide = widen(logits[:, -self.outputs :])
        target = torch.tensor(self.answer, device=logits.device)[None, :, None].expand(len(wide), -1, 1)
        return (wide.gather(2, target)[..., 0] - wide.logsumexp(-1)).double().sum(1).cpu()

    def reaches(self, restoration: Restoration, position: int) -> bool:
        """Return whether a restoration at a position can change the answer."""
        if self.model.active_edits:
            return True
        predicts = position >= self.width - self.outputs
        return position >= self.noised.start and (predicts or restoration.first < self.model.config.n_layers - 1)

    @plainly
    def scores(self, position: int, chosen: Sequence[Restoration]) -> Tensor:
        """Return the answer's log-probability under each restoration at a position: [restoration, sample], float64."""
        scores = self.corrupted.repeat(len(chosen), 1)
        reached = [i for i, restoration in enumerate(chosen) if self.reaches(restoration, position)]
        if self.model.active_edits:
            for i in reached:
                scores[i] = self._branch(position, chosen[i])
            return scores
        for numbers, samples in self._batches(position, chosen, reached):
            for row, scored in self._climb(position, chosen, numbers, samples):
                for i in row.numbers:
                    scores[i, samples] = scored
        return scores

    def cost(self, position: int, chosen: Sequence[Restoration]) -> int:
        """Return the token-layers that scores() will compute."""
        layers, reached = self.model.config.n_layers, [each for each in chosen if self.reaches(each, position)]
        if self.model.active_edits:
            return sum((layers - each.first) * self.samples * self.width for each in reached)
        rows = 0
        for group in group_by_start(range(len(reached)), reached):
            ends = {max(reached[i].end, group.first + 1) for i in group.numbers}
            # One row from after the first layer on, and one more from where each but the last of them ends.
            rows += layers - group.first - 1 + sum(layers - end for end in ends - {max(ends)})
        begun = len({each.first for each in reached if each.kind == "attn_out"})
        return self.samples * (rows * (self.width - position) + begun)

    # --- no edits in force: all restorations at a position go up together ---

    def _batches(
        self, position: int, chosen: Sequence[Restoration], reached: list[int]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield restorations' numbers and samples that go up together: half of the budget holds their streams."""
        groups = list(group_by_start(reached, chosen))
        size = self.trunk.resid[0].element_size() * (self.width - position) * self.model.config.d_model
        most = max(1, self.budget // 4 // size)  # streams; each layer makes a new batch beside the last one
        together = sum(group.rows for group in groups)
        samples = _split(self.samples, most // max(1, together))
        batches: list[list[Group]] = [[]]
        for group in groups:
            if batches[-1] and sum(each.rows for each in batches[-1]) + group.rows > most:
                batches.append([])
            batches[-1].append(group)
        for batch in batches if groups else []:
            numbers = [i for group in batch for i in group.numbers]
            yield from ((numbers, part) for part in samples)

    def _climb(
        self, p: int, chosen: Sequence[Restoration], numbers: list[int], samples: Tensor
    ) -> Iterator[tuple[SharedRow, Tensor]]:
        """Yield each row of the batch after the last block, with its scores [sample]."""
        layers, rows = self.model.config.n_layers, list[SharedRow]()
        samples = samples.to(self.model.device)
        x = self.trunk.resid[0].new_empty(0, len(samples), self.width - p, self.model.config.d_model)  # G S Q D
        groups = list(group_by_start(numbers, chosen))
        for layer in range(layers + 1):  # before block `layer`, or after the last one
            joining = [group for group in groups if group.first == layer - 1]
            rows += [SharedRow(group.kind, group.numbers, [chosen[i].end for i in group.numbers]) for group in joining]
            if joining:
                begun = [self._begin(group.kind, group.first, p, samples)[:, -x.shape[2] :] for group in joining]
                x = torch.cat([x, torch.stack(begun)])
            if ended := [i for i, row in enumerate(rows) if min(row.ends) <= layer < max(row.ends)]:
                x = torch.cat([x, x[ended]])
                rows += [rows[i].split(layer) for i in ended]
            if rows and layer < layers:
                x = self._block(layer, p, x, rows, samples)
        yield from zip(rows, self._read(x), strict=True)

    def _begin(self, kind: str, layer: int, p: int, samples: Tensor) -> Tensor:
        """Return the corrupted stream after a layer, with a clean output of that layer at p: S Q D."""
        x, clean = self.trunk.resid[layer + 1][samples, p:], self.restored[kind][layer][p]
        if kind == "resid_post":
            x[:, 0] = clean
        elif kind == "mlp_out":
            x[:, 0] = self.trunk.run[f"blocks.{layer}.resid_mid"][samples, p] + clean
        else:
            self.computed += len(samples)
            mid = self.trunk.resid[layer][samples, p : p + 1] + clean
            w, config = self.model.weights, self.model.config
            x[:, :1] = mid + gpt2.mlp(w.blocks[layer], config, layer, mid, self._tap)
        return x

    def _block(self, layer: int, p: int, x: Tensor, rows: list[SharedRow], samples: Tensor) -> Tensor:
        """Run a block on all rows, G S Q D, as many at a time as the budget has room for.

        The last block returns only the positions that predict the answer.
        """
        G, S, Q, D = x.shape
        self.computed += G * S * Q
        final = layer == self.model.config.n_layers - 1 and self.outputs < Q
        flat, index = x.view(G * S, Q, D), samples.repeat(G)
        restored = {
            kind: torch.tensor([row.kind == kind and row.restores(layer) for row in rows]).repeat_interleave(S)
            for kind in ("attn_out", "mlp_out")
        }
        out = flat.new_empty(G * S, self.outputs if final else Q, D)
        for part in self._parts(G * S, p):
            places = None if final else {kind: mask[part].nonzero()[:, 0] for kind, mask in restored.items()}
            out[part] = self._run_rows(layer, p, flat[part], index[part], places)
        return out.view(G, S, -1, D)

    def _run_rows(self, layer: int, p: int, x: Tensor, index: Tensor, places: dict[str, Tensor] | None) -> Tensor:
        """Run one block on some rows, putting clean outputs at position p for rows listed in `places`.

        If `places` is None (last block), compute only the positions that predict the answer.
        """
        w, config, tap = self.model.weights.blocks[layer], self.model.config, self._tap
        last = None
        if places is None:
            last = torch.arange(x.shape[1] - self.outputs, x.shape[1], device=x.device).expand(len(x), -1)
        written = gpt2.attention(w, config, layer, x, tap, self.trunk.past(index, p), last)
        if places is not None and len(places["attn_out"]):
            written[places["attn_out"], 0] = self.restored["attn_out"][layer][p]
        mid = (x if last is None else gpt2.take(x, last)) + written
        written = gpt2.mlp(w, config, layer, mid, tap)
        if places is not None and len(places["mlp_out"]):
            written[places["mlp_out"], 0] = self.restored["mlp_out"][layer][p]
        return mid.add_(written)

    @plainly
    def _read(self, x: Tensor) -> Tensor:
        """Return the answer's log-probability from streams after the last block: G S Q D -> [G, S]."""
        w, config = self.model.weights, self.model.config
        flat = x[:, :, -self.outputs :].flatten(0, 1)
        parts = [
            self._score(gpt2.run_from(w, config, config.n_layers, flat[part], self._tap))
            for part in self._parts(len(flat), self.width - self.outputs)
        ]
        return torch.cat(parts).view(x.shape[:2]) if parts else torch.empty(x.shape[:2], dtype=torch.float64)

    def _parts(self, rows: int, start: int) -> list[slice]:
        """Return slices of 0 .. rows - 1 that fit half of the budget, positions from `start` on."""
        step = self.trunk.fitting(self.budget // 2, start, self.outputs)
        return [slice(i, i + step) for i in range(0, rows, step)]

    # --- edits in force: one restoration after the other ---

    def _branch(self, position: int, restoration: Restoration) -> Tensor:
        """Return the answer's log-probability under one restoration, [sample], from runs over whole positions."""

        def clean(layer: int) -> Callable[[Tensor, Context], Tensor]:
            def restore(value: Tensor, _: Context) -> Tensor:
                value[:, position] = self.restored[restoration.kind][layer][position]
                return value

            return restore

        first = restoration.first
        edits = {f"blocks.{i}.{restoration.kind}": clean(i) for i in range(first, restoration.end)}
        step = self.trunk.fitting(self.budget, outputs=self.width)
        self.computed += (self.model.config.n_layers - first) * self.samples * self.width
        scores = [
            self._score(self.trunk.branch(first, rows=part, edits=edits, logits=self._kept).logits)
            for part in _split(self.samples, step)
        ]
        return torch.cat(scores)


def _split(n: int, step: int) -> list[Tensor]:
    """Return 0 .. n - 1 in parts of `step`, at least 1."""
    step = max(1, step)
    return [torch.arange(i, min(i + step, n)) for i in range(0, n, step)]
