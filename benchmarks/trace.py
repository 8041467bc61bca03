"""Causal tracing of a prompt of 20 tokens, beside ROME's loop on transformers' modules.

The loop takes the same time for every cell: a few are timed in each round, spread evenly over kinds, positions and
layers, and their time is scaled to all of them. The trace is timed whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import cutaway
from benchmarks import models
from benchmarks.timing import Row, faster
from cutaway.analyses.causal_trace.noise import draw_noise
from cutaway.analyses.causal_trace.restorations import KINDS, Restoration, restorations

TOKENS, SAMPLES, ANSWER = 20, 10, 262
SUBJECT = range(1, 3)  # two tokens, the first at position 1
TIMED = 8  # cells of the loop in a round
MODULES = {"resid_post": lambda block: block, "mlp_out": lambda block: block.mlp, "attn_out": lambda block: block.attn}


def rows(rounds: int) -> Iterator[Row]:
    with TemporaryDirectory() as temporary, torch.no_grad():
        folder = models.write(Path(temporary))
        yield from beside("trace, 3 kinds, window 10", Loop(models.in_transformers(folder), 10), folder, rounds, 6.0)


def beside(what: str, loop: Loop, folder: Path, rounds: int, goal: float | None) -> Iterator[Row]:
    model = cutaway.load(folder, device="cpu")
    found = loop.ours(model)
    check(loop, found)
    times: dict[str, list[float]] = {"ours": [], "full": [], "one": []}
    for _ in range(rounds):
        times["ours"].append(seconds(lambda: loop.ours(model)))
        for name in ("full", "one"):
            cells = loop.some(len(times[name]))
            taken = seconds(lambda cells=cells, one=name == "one": [loop.cell(*cell, one=one) for cell in cells])
            times[name].append(taken * loop.count / len(cells))
    names = {"ours": "ours", "full": "ROME's loop", "one": "ROME's loop, one position unembedded"}
    named = {names[name]: taken for name, taken in times.items()}
    yield faster(what, named, "ours", "ROME's loop", goal=goal)
    yield faster(what, named, "ours", "ROME's loop, one position unembedded")
    print(f"{loop.count} cells; {found.computed:,} token-layers against {found.plain:,}")


@dataclass
class Loop:
    """ROME's loop, written plainly: for each cell one run of a clean row and the corrupted ones, with hooks."""

    model: Any
    window: int

    def __post_init__(self) -> None:
        self.ids = models.ids(1, TOKENS)
        self.layers = len(self.model.transformer.h)
        embedded = self.model.transformer.wte.weight[self.ids[0, SUBJECT.start : SUBJECT.stop]]
        noise = draw_noise("gaussian", 0, SAMPLES, SUBJECT, embedded.shape[1])
        self.noise = (3.0 * embedded.double().std() * noise).float()
        self.cells = [
            (kind, position, cell)
            for kind in KINDS
            for position in range(TOKENS)
            for cell in restorations(kind, self.layers, 1 if kind == "resid_post" else self.window)
        ]
        self.count = len(self.cells)

    def ours(self, model: Any) -> Any:
        return cutaway.causal_trace.trace(model, self.ids, SUBJECT, [ANSWER], window=self.window, samples=SAMPLES)

    def some(self, number: int, of: int = TIMED) -> list[tuple[str, int, Restoration]]:
        """So many cells, others in each round."""
        step = self.count / of
        return [self.cells[int((i + number / 7 % 1) * step)] for i in range(of)]

    def cell(self, kind: str, position: int, cell: Restoration, one: bool) -> Tensor:
        """The answer's log-probability [sample]; `one`: only the last position is unembedded."""
        body = self.model.transformer

        def corrupt(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[1:, SUBJECT.start : SUBJECT.stop] += self.noise
            return output

        def restore(_module: Any, _inputs: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            states[1:, position] = states[0, position]

        hooks = [body.wte.register_forward_hook(corrupt)]
        hooks += [MODULES[kind](body.h[i]).register_forward_hook(restore) for i in range(cell.first, cell.end)]
        rows_, options = self.ids.expand(1 + SAMPLES, -1), {"logits_to_keep": 1} if one else {}
        logits = self.model(rows_, use_cache=False, **options).logits
        for hook in hooks:
            hook.remove()
        return logits[1:, -1].log_softmax(-1)[:, ANSWER]


def check(loop: Loop, found: Any) -> None:
    """The loop's scores of some cells, and ours."""
    for kind, position, cell in loop.some(0):
        ours = found.log_probabilities[KINDS.index(kind), position, cell.layer].float()
        for one in (False, True):
            models.check(
                f"the trace at {kind}, {position}, {cell.layer}",
                {"ours": ours, "ROME's loop": loop.cell(kind, position, cell, one)},
            )


def seconds(job: Any) -> float:
    start = perf_counter()
    job()
    return perf_counter() - start
