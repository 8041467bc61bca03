"""Count the parameters of each part of a model, and show its sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cutaway.model.architectures import Architecture, architecture_of
from cutaway.model.architectures.families import Config, Weights
from cutaway.model.weights.parameters import named
from cutaway.text.tokens import Tokenizer


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model, for its anatomy."""

    name: str
    parameters: int
    of: str  # the tensors it consists of


def parts(architecture: Architecture, parameters: Mapping[str, Tensor]) -> list[Part]:
    """Return the number of parameters in each part of a model, in forward order."""
    sizes = {name: tensor.numel() for name, tensor in parameters.items()}
    found = []
    for part, pattern, names in architecture.PARTS:
        size = sum(n for name, n in sizes.items() if re.fullmatch(pattern, name))
        tied = part == "unembedding" and "W_U" not in parameters
        found.append(Part(part, size, "W_U is W_E (tied)" if tied else names))
    return found


def show(name: str, config: Config, weights: Weights, tokenizer: Tokenizer | None, fingerprint: str) -> str:
    """Return the text that a model prints as: its sizes, and the parameters of each part."""
    c, family, parameters = config, architecture_of(config), named(weights)
    found = parts(family, parameters)
    total = sum(part.parameters for part in found)
    tied = weights.W_U is weights.W_E
    dtype = str(weights.W_E.dtype).removeprefix("torch.")
    lines = [
        f"{name}: {family.TITLE}, {total:,} parameters",
        "",
        f"  layers {c.n_layers}   heads {c.n_heads}   d_model {c.d_model}   d_head {c.d_head}   d_mlp {c.d_mlp}",
        f"  d_vocab {c.d_vocab:,}   context {c.n_ctx:,} tokens   activation {c.activation}   eps {c.eps:g}",
        "",
        *(f"  {p.name:<20}{p.parameters:>13,}  {p.parameters / total:6.1%}   {p.of}" for p in found),
        "",
        f"  unembedding   {'the embedding itself (tied)' if tied else 'a matrix of its own (untied)'}",
        f"  tokenizer     {'none: runs on token ids only' if tokenizer is None else f'{len(tokenizer):,} entries'}",
        f"  weights       {dtype} on {weights.W_E.device}, fingerprint {fingerprint}",
    ]
    return "\n".join(lines)
