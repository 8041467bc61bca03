"""One forward pass: capturing, what it costs, the logits, and one prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import cutaway
from benchmarks import models
from benchmarks.timing import Job, Row, cost, faster, interleaved
from cutaway.model.products import linear

KINDS = {"attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "resid_post": "hook_resid_post"}
LAST = "blocks.-1.resid_post"
Linear = Callable[[Tensor, Tensor, Tensor], Tensor]  # rows in, in out, out -> rows out


def rows(rounds: int) -> Iterator[Row]:
    with TemporaryDirectory() as temporary, torch.no_grad():
        folder = models.write(Path(temporary))
        ours, theirs = cutaway.load(folder), models.in_transformers(folder)
        yield from capture(ours, theirs, folder, rounds)
        yield from capture_cost(ours, rounds)
        yield from logits(ours, theirs, rounds)
        yield from prediction(ours, theirs, rounds)


def capture(ours: Any, theirs: Any, folder: Path, rounds: int) -> Iterator[Row]:
    """attn_out, mlp_out and resid_post of every layer."""
    ids = models.ids(1, 1024)
    bridge, traced = models.in_transformer_lens(folder), models.in_nnsight(folder)
    names = [f"blocks.{i}.{hook}" for i in range(ours.config.n_layers) for hook in KINDS.values()]

    def hooked() -> dict[str, Tensor]:
        kept, handles = {}, []
        for i, block in enumerate(theirs.transformer.h):
            for kind, module in zip(KINDS, (block.attn, block.mlp, block), strict=True):

                def keep(_module: Any, _inputs: Any, output: Any, name: str = f"blocks.{i}.{kind}") -> None:
                    kept[name] = output[0] if isinstance(output, tuple) else output

                handles.append(module.register_forward_hook(keep))
        theirs(ids)
        for handle in handles:
            handle.remove()
        return kept

    def trace() -> dict[str, Tensor]:
        import nnsight

        with traced.trace(ids):
            kept = nnsight.save({})
            for i, block in enumerate(traced.transformer.h):
                kept[f"blocks.{i}.attn_out"] = block.attn.output[0]
                kept[f"blocks.{i}.mlp_out"] = block.mlp.output
                kept[f"blocks.{i}.resid_post"] = block.output
        return kept

    jobs: dict[str, Job] = {
        "Cutaway": lambda: ours.run(ids, capture=list(KINDS), logits=None),
        "transformers, forward hooks": hooked,
        "TransformerBridge.run_with_cache": lambda: bridge.run_with_cache(ids, names_filter=names)[1],
        "nnsight trace": trace,
    }
    results = {name: job() for name, job in jobs.items()}
    for i in range(ours.config.n_layers):
        for kind, hook in KINDS.items():
            site, in_bridge = f"blocks.{i}.{kind}", f"blocks.{i}.{hook}"
            models.check(site, {n: kept[in_bridge if "Bridge" in n else site] for n, kept in results.items()})
    del results

    what, times = "capture 3 sites in every layer, 1 x 1024", interleaved(jobs, rounds)
    _, hooks, cache, nnsight_trace = jobs
    yield faster(what, times, "Cutaway", hooks, goal=1.3)
    yield faster(what, times, "Cutaway", cache, goal=1.8)
    yield faster(what, times, "Cutaway", nnsight_trace)


def capture_cost(ours: Any, rounds: int) -> Iterator[Row]:
    """A run with captures, the same run without, and the matrix products alone that any such run must do."""
    for batch, positions, goal in ((1, 1024, 1.35), (8, 128, 1.15)):
        ids = models.ids(batch, positions)
        jobs: dict[str, Job] = {
            "with capture": lambda ids=ids: ours.run(ids, capture=list(KINDS), logits=None),
            "without capture": lambda ids=ids: ours.run(ids, capture=LAST, logits=None),
            "its matrix products alone": matrix_products(ours, batch, positions, linear),
            "the same products, torch.addmm": matrix_products(ours, batch, positions, addmm),
        }
        capturing, plain, *products = jobs
        times, shape = interleaved(jobs, rounds), f"{batch} x {positions}"
        yield cost(f"capture 3 sites in every layer, {shape}", times, capturing, plain, goal=1.1)
        for alone in products:
            yield cost(f"all blocks, nothing captured, {shape}", times, plain, alone, goal=goal)


def matrix_products(ours: Any, batch: int, positions: int, linear: Linear) -> Job:
    """The products of the blocks with the model's weights, queries by keys and pattern by values included."""
    c = ours.config
    x, hidden = torch.randn(batch * positions, c.d_model), torch.randn(batch * positions, c.d_mlp)
    heads = torch.randn(batch, c.n_heads, positions, c.d_head)
    pattern = torch.randn(batch, c.n_heads, positions, positions)

    def products() -> None:
        for block in ours.weights.blocks:
            linear(x, block.W_QKV, block.b_QKV)
            torch.matmul(heads, heads.mT)
            torch.matmul(pattern, heads)
            linear(x, block.W_O, block.b_O)
            linear(x, block.W_in, block.b_in)
            linear(hidden, block.W_out, block.b_out)

    return products


def addmm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x, weight)


def logits(ours: Any, theirs: Any, rounds: int) -> Iterator[Row]:
    """Logits at every position, alone and followed by what most analyses do with them first."""
    for batch, positions in ((1, 128), (8, 128), (1, 1024)):
        ids, shape = models.ids(batch, positions), f"{batch} x {positions}"
        models.check(f"logits, {shape}", {"Cutaway": ours.run(ids).logits, "transformers": theirs(ids).logits})
        jobs: dict[str, Job] = {
            "Cutaway": lambda ids=ids: ours.run(ids).logits,
            "transformers": lambda ids=ids: theirs(ids).logits,
        }
        yield faster(f"logits, {shape}", interleaved(jobs, rounds), *jobs, goal=1.1)
        if batch == 1:
            jobs = {
                "Cutaway": lambda ids=ids: ours.run(ids).logits.log_softmax(-1),
                "transformers": lambda ids=ids: theirs(ids).logits.log_softmax(-1),
            }
            yield faster(f"logits, then log_softmax, {shape}", interleaved(jobs, rounds), *jobs)


def prediction(ours: Any, theirs: Any, rounds: int) -> Iterator[Row]:
    """The ten most likely tokens after a prompt of twenty."""
    ids = models.ids(1, 20)

    def top(logits: Tensor) -> Tensor:
        return logits[0, -1].softmax(-1).topk(10).values

    jobs: dict[str, Job] = {
        "Cutaway": lambda: top(ours.run(ids, logits="last").logits),
        "transformers": lambda: top(theirs(ids).logits),
        "transformers, logits_to_keep=1": lambda: top(theirs(ids, logits_to_keep=1).logits),
    }
    models.check("a prediction", {name: job() for name, job in jobs.items()})
    _, everything, last = jobs
    what, times = "the next token after 20", interleaved(jobs, rounds)
    yield faster(what, times, "Cutaway", everything, goal=1.4)
    yield faster(what, times, "Cutaway", last)
