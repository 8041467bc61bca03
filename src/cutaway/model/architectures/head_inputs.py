"""Give each head an input stream of its own, for edits and gradients of what single heads read.

Every head reads the same stream, so the sites attn_in, q_input, k_input and v_input show it once for each head. Only if
one of them is edited, or a gradient is asked for there, do the heads have to be computed from streams of their own,
which takes H times the memory and arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.taps.tap import Tap


def head_inputs(i: int, x: Tensor, n_heads: int, tap: Tap) -> list[Tensor] | None:
    """Return what each head's queries, keys and values read in block i: B P D -> three of B P H D.

    Returns None if nobody steers them: all heads then read x itself.

    Raises EditError if ln1, which normalizes the one stream x, is steered too.
    """
    at, (B, P, D) = f"blocks.{i}", x.shape
    split = [f"{at}.attn_in", f"{at}.q_input", f"{at}.k_input", f"{at}.v_input"]
    if not tap.wants(*split):
        return None
    stream = tap(split[0], x.unsqueeze(2).expand(B, P, n_heads, D))  # B P H D
    inputs = [tap(site, stream) for site in split[1:]]  # 3 of B P H D
    if not tap.steers(*split):
        return None
    if tap.steers(f"{at}.ln1.scale", f"{at}.ln1.normalized", f"{at}.ln1.out"):
        raise EditError(
            f"block {i} is steered at both ln1 (the unsplit stream) and a split input (normalized on its own): "
            "edit, or ask gradients of, one of the two"
        )
    return inputs


def project_heads(inputs: Sequence[Tensor], W: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of inputs 3 x [B, P, H, D], W [D, 3, H, K], b [3, H, K]: three of B P H K."""
    q, k, v = (
        torch.einsum("bphd,dhk->bphk", x, each) + bias for x, each, bias in zip(inputs, W.unbind(1), b, strict=True)
    )
    return q, k, v
