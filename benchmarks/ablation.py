"""Every head of every layer replaced by its mean, beside a whole forward pass for each head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cutaway
from benchmarks import models
from benchmarks.timing import Job, Row, faster, interleaved


def rows(rounds: int) -> Iterator[Row]:
    with TemporaryDirectory() as temporary, torch.no_grad():
        folder = models.write(Path(temporary))
        ours, theirs, ids = cutaway.load(folder), models.in_transformers(folder), models.ids(1, 128)
        jobs: dict[str, Job] = {
            "ours": lambda: cutaway.ablation.run(ours, ids, "heads", "mean").of("heads"),
            "transformers, hooks": lambda: hooked(theirs, ids),
            "Cutaway's whole runs with edits": lambda: edited(ours, ids),
        }
        models.check("the change of loss", {name: job() for name, job in jobs.items()})
        times = interleaved(jobs, rounds)
        what = "ablate each of 144 heads, 1 x 128"
        yield faster(what, times, "ours", "transformers, hooks", goal=1.6)
        yield faster(what, times, "ours", "Cutaway's whole runs with edits")


def loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[0, :-1], ids[0, 1:]).double()


def mean(z: Tensor) -> Tensor:
    """1 P ... -> 1 P ...: position 0 as it is, all others their mean."""
    return torch.cat([z[:, :1], z[:, 1:].mean(1, keepdim=True).expand_as(z[:, 1:])], 1)


def hooked(model: Any, ids: Tensor) -> Tensor:
    """Changes of the loss [layer, head], by a hook at what the output projection reads."""
    blocks, heads = model.transformer.h, model.config.n_head
    size = model.config.n_embd // heads
    seen: dict[int, Tensor] = {}

    def watch(i: int) -> Callable[[Any, Any], None]:
        return lambda _, inputs: seen.update({i: mean(inputs[0])})

    handles = [block.attn.c_proj.register_forward_pre_hook(watch(i)) for i, block in enumerate(blocks)]
    whole = loss(model(ids, use_cache=False).logits, ids)
    for handle in handles:
        handle.remove()

    def replace(i: int, head: int) -> Callable[[Any, Any], tuple[Tensor]]:
        part = slice(head * size, (head + 1) * size)

        def hook(_: Any, inputs: Any) -> tuple[Tensor]:
            z = inputs[0].clone()
            z[..., part] = seen[i][..., part]
            return (z,)

        return hook

    changes = torch.zeros(len(blocks), heads, dtype=torch.float64)
    for i, block in enumerate(blocks):
        for head in range(heads):
            handle = block.attn.c_proj.register_forward_pre_hook(replace(i, head))
            changes[i, head] = loss(model(ids, use_cache=False).logits, ids) - whole
            handle.remove()
    return changes


def edited(model: Any, ids: Tensor) -> Tensor:
    """The same by one whole run of ours for each head."""
    run = model.run(ids, capture="attn.z")
    whole = loss(run.logits, ids)
    changes = torch.zeros(model.config.n_layers, model.config.n_heads, dtype=torch.float64)
    for i in range(model.config.n_layers):
        means = mean(run[f"blocks.{i}.attn.z"])
        for head in range(model.config.n_heads):

            def replace(value: Tensor, _: Any, means: Tensor = means, head: int = head) -> Tensor:
                value[:, :, head] = means[:, :, head]
                return value

            logits = model.run(ids, edits={f"blocks.{i}.attn.z": replace}).logits
            changes[i, head] = loss(logits, ids) - whole
    return changes
