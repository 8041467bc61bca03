"""Count the parameters of each part of a model, and show its sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cutaway.model.architectures import Architecture
from cutaway.model.architectures.families import Config


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


def sizes(config: Config, parts: Sequence[Part]) -> list[str]:
    """Return lines with the sizes of a model and the parameters of each part."""
    c, total = config, sum(part.parameters for part in parts)
    return [
        f"  layers {c.n_layers}   heads {c.n_heads}   d_model {c.d_model}   d_head {c.d_head}   d_mlp {c.d_mlp}",
        f"  d_vocab {c.d_vocab:,}   context {c.n_ctx:,} tokens   activation {c.activation}   eps {c.eps:g}",
        "",
        *(f"  {p.name:<20}{p.parameters:>13,}  {p.parameters / total:6.1%}   {p.of}" for p in parts),
    ]
