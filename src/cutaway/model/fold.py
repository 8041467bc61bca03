"""Weight processing that changes what the weights are, and not what the model says.

    folded = model.fold(layer_norm=True, center_unembed=True)      a new model; the old one is untouched

Each step moves constants that some later operation removes or adds anyway, so that log-probabilities stay the same
(1e-4 in float32, 1e-10 in float64). Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, section
"Transformer overview"; Nanda and Bloom 2022, TransformerLens, "Weight processing".

Arithmetic is in float64 and stored in the model's own dtype.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cutaway.model.architectures.config import Config
from cutaway.model.architectures.gpt2 import LayerNorm, Weights

NO_NORM = LayerNorm(None, None)


def fold_layer_norm(w: Weights, config: Config) -> tuple[Weights, Config]:
    """Each LayerNorm's weight and bias into the matrix that reads its output; the head is untied and gets a bias.

    W (g * n + b) + c = (W g) n + (W b + c), n the normalized stream.
    """
    blocks = []
    for block in w.blocks:
        W_QKV, b_QKV = _into(block.ln1, block.W_QKV, block.b_QKV)
        W_in, b_in = _into(block.ln2, block.W_in, block.b_in)
        blocks.append(replace(block, ln1=NO_NORM, W_QKV=W_QKV, b_QKV=b_QKV, ln2=NO_NORM, W_in=W_in, b_in=b_in))
    b_U = w.W_U.new_zeros(config.d_vocab) if w.b_U is None else w.b_U
    W_U, b_U = _into(w.ln_final, w.W_U.T, b_U)
    folded = replace(w, blocks=blocks, ln_final=NO_NORM, W_U=W_U.T.contiguous(), b_U=b_U)
    return folded, replace(config, tied=False)


def _into(norm: LayerNorm, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """W in out and its bias, with a LayerNorm's weight and bias folded in."""
    wide, bias = W.double(), b.double()
    bias = bias if norm.b is None else bias + norm.b.double() @ wide
    wide = wide if norm.w is None else norm.w.double()[:, None] * wide
    return wide.to(W.dtype), bias.to(W.dtype)


def center_unembed(w: Weights, config: Config) -> tuple[Weights, Config]:
    """The mean over the vocabulary out of the unembedding: all logits of a position move by one constant."""
    W_U = w.W_U.double()
    b_U = None if w.b_U is None else (w.b_U.double() - w.b_U.double().mean()).to(w.b_U.dtype)
    centred = replace(w, W_U=(W_U - W_U.mean(0)).to(w.W_U.dtype), b_U=b_U)
    return centred, replace(config, tied=False)


def center_writing(w: Weights, config: Config) -> tuple[Weights, Config]:
    """The mean over the stream's D coordinates out of everything that writes to it: every LayerNorm removes it anyway.

    A tied head keeps the embedding as it was, and so is untied.
    """
    blocks = [
        replace(b, W_O=_center(b.W_O), b_O=_center(b.b_O), W_out=_center(b.W_out), b_out=_center(b.b_out))
        for b in w.blocks
    ]
    return replace(w, W_E=_center(w.W_E), W_pos=_center(w.W_pos), blocks=blocks), replace(config, tied=False)


def _center(t: Tensor) -> Tensor:
    return (t.double() - t.double().mean(-1, keepdim=True)).to(t.dtype)


def fold_value_biases(w: Weights, config: Config) -> tuple[Weights, Config]:
    """Value biases into the output bias: a head's pattern sums to 1, so it always passes them on whole."""
    blocks = []
    for block in w.blocks:
        b_QK, b_V = block.b_QKV.tensor_split([2 * config.d_model])
        b_O = block.b_O.double() + b_V.double() @ block.W_O.double()
        b_QKV = torch.cat([b_QK, torch.zeros_like(b_V)])
        blocks.append(replace(block, b_QKV=b_QKV, b_O=b_O.to(block.b_O.dtype)))
    return replace(w, blocks=blocks), config


STEPS = {
    "layer_norm": fold_layer_norm,
    "center_unembed": center_unembed,
    "center_writing": center_writing,
    "value_biases": fold_value_biases,
}
