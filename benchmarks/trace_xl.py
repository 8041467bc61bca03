"""Causal tracing at gpt2-xl's shape, beside ROME's loop: 7 GB, and hours if all of it were timed.

So one position of the trace (all kinds and layers at once) and a few cells of the loop are timed; their times are
scaled to the whole by token-layers and by cells. ROME's loop and ours share one set of random weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

import cutaway
from benchmarks import models
from benchmarks.timing import Row, faster
from benchmarks.trace import ANSWER, SUBJECT, TOKENS, Loop, seconds
from cutaway.analyses.causal_trace.engine import Tracer
from cutaway.analyses.causal_trace.restorations import KINDS, restorations

POSITION = 16
TIMED = 2  # cells of the loop in a round


def rows(rounds: int) -> Iterator[Row]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(models.SEED)
    theirs = GPT2LMHeadModel(GPT2Config(n_embd=1600, n_layer=48, n_head=25)).eval()
    with torch.no_grad():
        model, loop = cutaway.load(theirs, device="cpu"), Loop(theirs, 10)
        tracer = Tracer(model, loop.ids[0].tolist(), [ANSWER], SUBJECT, loop.noise)
        of = [cell for kind in KINDS for cell in restorations(kind, 48, 1 if kind == "resid_post" else 10)]
        whole = sum(tracer.cost(position, of) for position in range(TOKENS))
        part = tracer.cost(POSITION, of)
        kind, _, cell = loop.cells[loop.count // 2]
        found = tracer.scores(POSITION, of)[of.index(cell)].float()
        models.check("the trace", {"ours": found, "ROME's loop": loop.cell(kind, POSITION, cell, one=True)})
        times: dict[str, list[float]] = {"ours": [], "ROME's loop": [], "ROME's loop, one position unembedded": []}
        ours, full, one = times
        for number in range(rounds):
            times[ours].append(seconds(lambda: tracer.scores(POSITION, of)) * whole / part)
            for name in (full, one):
                cells = loop.some(number, TIMED)
                taken = seconds(lambda cells=cells, one=name == one: [loop.cell(*cell, one=one) for cell in cells])
                times[name].append(taken * loop.count / TIMED)
        what = "trace, 3 kinds, window 10, gpt2-xl's shape (scaled from a part)"
        yield faster(what, times, ours, full)
        yield faster(what, times, ours, one)
