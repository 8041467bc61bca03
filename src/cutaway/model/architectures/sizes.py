"""Name the sizes that every family's configuration has, and give each a letter."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a model. A family's Config adds what else changes its computation."""

    n_layers: int  # L
    n_heads: int  # H
    d_model: int  # D
    d_mlp: int  # M
    d_vocab: int  # V
    n_ctx: int  # C; longest input, in tokens

    @property
    def d_head(self) -> int:
        """Return the width of one head, K."""
        return self.d_model // self.n_heads

    def letters(self) -> dict[str, int]:
        """Return each size by its letter."""
        return {
            "L": self.n_layers, "H": self.n_heads, "K": self.d_head, "D": self.d_model, "M": self.d_mlp,
            "V": self.d_vocab, "C": self.n_ctx,
        }  # fmt: skip

    def shape(self, letters: str) -> tuple[int, ...]:
        """Return a shape written in letters as numbers: "D 3HK" -> (768, 2304)."""
        sizes = self.letters()
        factors = (re.findall(r"\d+|[A-Z]", each) for each in letters.split())
        return tuple(math.prod(sizes[f] if f in sizes else int(f) for f in each) for each in factors)
