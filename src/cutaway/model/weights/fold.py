"""Process weights so that they change and what the model says does not.

    folded = model.fold(layer_norm=True, center_unembed=True)      a new model; the old one is untouched

Each step moves constants that some later operation removes or adds anyway, so that log-probabilities stay the same
(1e-4 in float32, 1e-10 in float64). Which matrices read a norm and which write to the stream is in the family's tables.
Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, section "Transformer overview"; Nanda and Bloom
2022, TransformerLens, "Weight processing".

Arithmetic is in float64 and stored in the model's own dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cutaway.model.architectures import architecture_of
from cutaway.model.architectures.families import Config, Weights
from cutaway.model.weights.parameters import named, replaced


def fold_layer_norm(w: Weights, config: Config) -> Weights:
    """Fold each norm's gain and bias into the matrices that read it; this unties the head and gives it a bias.

    W (g * n + b) + c = (W g) n + (W b + c), n the normalized stream.
    """
    architecture = architecture_of(config)
    none = architecture.Norm(None, None)
    blocks = []
    for block in w.blocks:
        new: dict[str, Any] = dict.fromkeys(architecture.READS, none)
        for norm, readers in architecture.READS.items():
            for W, b in readers:
                new[W], new[b] = _into(getattr(block, norm), getattr(block, W), getattr(block, b))
        blocks.append(replace(block, **new))
    b_U = w.W_U.new_zeros(config.d_vocab) if w.b_U is None else w.b_U
    W_U, b_U = _into(w.ln_final, w.W_U.T, b_U)
    return replace(w, blocks=blocks, ln_final=none, W_U=W_U.T.contiguous(), b_U=b_U)


def _into(norm: Any, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix [in, out] and its bias with a norm's gain and bias folded in."""
    wide, bias = W.double(), b.double()
    bias = bias if norm.b is None else bias + norm.b.double() @ wide
    wide = wide if norm.w is None else norm.w.double()[:, None] * wide
    return wide.to(W.dtype), bias.to(W.dtype)


def center_unembed(w: Weights, _: Config) -> Weights:
    """Take the mean over the vocabulary out of the unembedding: all logits of a position move by one constant."""
    W_U = w.W_U.double()
    b_U = None if w.b_U is None else (w.b_U.double() - w.b_U.double().mean()).to(w.b_U.dtype)
    return replace(w, W_U=(W_U - W_U.mean(0)).to(w.W_U.dtype), b_U=b_U)


def center_writing(w: Weights, config: Config) -> Weights:
    """Take the mean over d_model out of everything that writes to the stream: every LayerNorm removes it anyway.

    A tied head keeps the embedding as it was, and so is untied.
    """
    writes = architecture_of(config).WRITES
    centred = {name: _center(t) for name, t in named(w).items() if name.rpartition(".")[2] in writes}
    return replaced(w, {"W_U": w.W_U, **centred})


def _center(t: Tensor) -> Tensor:
    """Return a tensor whose last axis has mean 0."""
    return (t.double() - t.double().mean(-1, keepdim=True)).to(t.dtype)


def fold_value_biases(w: Weights, config: Config) -> Weights:
    """Fold value biases into the output bias: a head's pattern sums to 1, so it always passes them on whole."""
    field, size = architecture_of(config).VALUE_BIASES, config.n_heads * config.d_head
    blocks = []
    for block in w.blocks:
        biases: Tensor = getattr(block, field)
        others, b_V = biases[:-size], biases[-size:]
        b_O = block.b_O.double() + b_V.double() @ block.W_O.double()
        b = torch.cat([others, torch.zeros_like(b_V)])
        new: dict[str, Any] = {"b_O": b_O.to(block.b_O.dtype), field: b}
        blocks.append(replace(block, **new))
    return replace(w, blocks=blocks)


STEPS: dict[str, Callable[[Weights, Config], Weights]] = {
    "layer_norm": fold_layer_norm,
    "center_unembed": center_unembed,
    "center_writing": center_writing,
    "value_biases": fold_value_biases,
}
