"""Patching at GPT-2 small's shape, 20 tokens that differ at the second: beside a plain loop with forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import cutaway
from benchmarks import models
from benchmarks.timing import Row, faster, interleaved
from cutaway import patching

LENGTH, DIFFERENT = 20, 1
ANSWER, VERSUS = 11, 13
Change = Callable[[Any, Tensor], Tensor | None]


def rows(rounds: int) -> Iterator[Row]:
    with TemporaryDirectory() as temporary, torch.no_grad():
        folder = models.write(Path(temporary))
        ours, theirs = cutaway.load(folder), models.in_transformers(folder)
        clean = models.ids(1, LENGTH)
        corrupted = clean.clone()
        corrupted[0, DIFFERENT] += 1
        for what, sites, plain in (
            ("residual stream, 12 layers x 20 positions", "resid_pre", streams),
            ("every head's z, 12 x 12", "attn.z", heads),
        ):

            def run(sites: str = sites) -> Tensor:
                return patching.run(ours, clean, corrupted, sites, answer=ANSWER, versus=VERSUS).values

            def loop(last: bool, plain: Any = plain) -> Tensor:
                return plain(theirs, clean, corrupted, {"logits_to_keep": 1} if last else {})

            jobs = {
                "ours": run,
                "transformers, hooks": lambda loop=loop: loop(False),
                "transformers, hooks, logits_to_keep=1": lambda loop=loop: loop(True),
            }
            models.check(what, {"ours": run().float(), "transformers": loop(True)})
            times = interleaved(jobs, rounds)
            for peer in list(jobs)[1:]:
                yield faster(f"patch the {what}" if sites == "resid_pre" else f"patch {what}", times, "ours", peer)


def difference(model: Any, ids: Tensor, options: dict[str, int]) -> Tensor:
    logits = model(ids, use_cache=False, **options).logits[0, -1]
    return logits[ANSWER] - logits[VERSUS]


def streams(model: Any, clean: Tensor, corrupted: Tensor, options: dict[str, int]) -> Tensor:
    """One clean vector that enters a block put into the corrupted run: [layers x positions]."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Any, Any], None]:
        return lambda _module, inputs: kept.update({layer: inputs[0].clone()})

    blocks = model.transformer.h
    hooks = [block.register_forward_pre_hook(keep(i)) for i, block in enumerate(blocks)]
    difference(model, clean, options)
    for hook in hooks:
        hook.remove()
    found = []
    for layer, block in enumerate(blocks):
        for position in range(LENGTH):

            def put(_module: Any, inputs: Any, layer: int = layer, position: int = position) -> tuple[Any, ...]:
                x = inputs[0].clone()
                x[:, position] = kept[layer][:, position]
                return (x, *inputs[1:])

            hook = block.register_forward_pre_hook(put)
            found.append(difference(model, corrupted, options))
            hook.remove()
    return torch.stack(found)


def heads(model: Any, clean: Tensor, corrupted: Tensor, options: dict[str, int]) -> Tensor:
    """One head's clean output, before the output projection, at all positions: [layers x heads]."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Any, Any], None]:
        return lambda _module, inputs: kept.update({layer: inputs[0].clone()})

    blocks, n = model.transformer.h, model.config.n_head
    hooks = [block.attn.c_proj.register_forward_pre_hook(keep(i)) for i, block in enumerate(blocks)]
    difference(model, clean, options)
    for hook in hooks:
        hook.remove()
    width = model.config.n_embd // n
    found = []
    for layer, block in enumerate(blocks):
        for head in range(n):

            def put(_module: Any, inputs: Any, layer: int = layer, head: int = head) -> tuple[Tensor, ...]:
                z = inputs[0].clone()
                here = slice(head * width, (head + 1) * width)
                z[..., here] = kept[layer][..., here]
                return (z,)

            hook = block.attn.c_proj.register_forward_pre_hook(put)
            found.append(difference(model, corrupted, options))
            hook.remove()
    return torch.stack(found)
