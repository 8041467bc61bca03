"""Run GPT-2, from token ids to logits.

The model keeps a residual stream: one vector of width D for each position. Attention moves information between
positions and the MLP works on each position for itself; both read the stream through a LayerNorm and add to it what
they compute. After the last block one more LayerNorm and the unembedding turn each vector into a score for every token
that might come next:

    x = embed(ids)
    for each block: x = x + attention(x); x = x + mlp(x)
    logits = head(x)

Each line with `tap(...)` is a site: a place where a tensor can be captured or edited (gpt2_tables.py draws them). What
is costly and rarely wanted (attention scores, what each head writes) is computed only if somebody asks for it.

Letters: B batch, P position, H heads, D d_model, K d_head, M d_mlp, V d_vocab.

Radford et al. 2019, Language Models are Unsupervised Multitask Learners; section 2.3. Vaswani et al. 2017, Attention
Is All You Need; section 3.2.1, equation 1. Ba et al. 2016, Layer Normalization; equation 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.model.architectures.activations import ACTIVATION
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.architectures.gpt2_tables import NAME, PARTS, READS, SITES, TENSORS, TITLE, VALUE_BIASES, WRITES
from cutaway.model.architectures.head_inputs import head_inputs, project_heads
from cutaway.model.cache import Past
from cutaway.model.products import activate, linear, unembedding
from cutaway.model.taps.tap import Tap

# What every family has (architecture.py says what each is): tables, weights, and the functions below.
__all__ = ["NAME", "PARTS", "READS", "SITES", "TENSORS", "TITLE", "VALUE_BIASES", "WRITES"]
__all__ += ["Block", "Config", "LayerNorm", "Norm", "Weights", "after_attention", "attend", "attention", "block"]
__all__ += ["embed", "final_norm", "head", "layer_norm", "mlp", "project_qkv", "unembed"]


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """A LayerNorm's gain and bias; None for one that was folded into what reads the output."""

    w: Tensor | None  # D
    b: Tensor | None  # D


Norm = LayerNorm  # by the name that every family has


@dataclass(frozen=True, slots=True)
class Block:
    """One block's weights as the checkpoint stores them: [in, out], with q, k and v side by side."""

    ln1: LayerNorm
    W_QKV: Tensor  # D 3HK
    b_QKV: Tensor  # 3HK
    W_O: Tensor  # HK D
    b_O: Tensor  # D
    ln2: LayerNorm
    W_in: Tensor  # D M
    b_in: Tensor  # M
    W_out: Tensor  # M D
    b_out: Tensor  # D


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a GPT-2."""

    W_E: Tensor  # V D
    W_pos: Tensor  # context D
    blocks: list[Block]
    ln_final: LayerNorm
    W_U: Tensor  # V D; the very tensor W_E if the head is tied
    b_U: Tensor | None = None  # V; only folding makes one


def embed(w: Weights, ids: Tensor, tap: Tap) -> Tensor:
    """Return the stream that enters the first block: ids B P -> B P D."""
    embed = tap("embed", w.W_E[ids])  # B P D
    pos_embed = tap("pos_embed", w.W_pos[tap.positions])  # B P D
    return embed + pos_embed


def block(w: Block, config: Config, i: int, x: Tensor, tap: Tap, past: Past | None = None) -> Tensor:
    """Return the stream that leaves block i, given the one that enters it: B P D -> B P D."""
    resid_pre = tap(f"blocks.{i}.resid_pre", x)  # B P D
    attn_out = tap(f"blocks.{i}.attn_out", attention(w, config, i, resid_pre, tap, past))  # B P D
    return after_attention(w, config, i, resid_pre, attn_out, tap)


def after_attention(w: Block, config: Config, i: int, resid_pre: Tensor, attn_out: Tensor, tap: Tap) -> Tensor:
    """Return the stream that leaves block i, given what enters it and what attention adds: B P D -> B P D."""
    at = f"blocks.{i}"
    resid_mid = tap(f"{at}.resid_mid", resid_pre + attn_out)  # B P D
    mlp_in = tap(f"{at}.mlp_in", resid_mid)  # B P D
    mlp_out = tap(f"{at}.mlp_out", mlp(w, config, i, mlp_in, tap))  # B P D
    return tap(f"{at}.resid_post", resid_mid + mlp_out)  # B P D


def attention(w: Block, config: Config, i: int, x: Tensor, tap: Tap, past: Past | None = None) -> Tensor:
    """Return what attention adds to the stream: B P D -> B P D."""
    at = f"blocks.{i}.attn"
    q, k, v = project_qkv(w, config, i, x, tap)
    q = tap(f"{at}.q", q)  # B P H K
    k = tap(f"{at}.k", k)  # B P H K
    v = tap(f"{at}.v", v)  # B P H K
    visible = None  # which keys each query may see; None: its own and all before it
    if past is not None:
        q, k, v, visible = past.join(i, q, k, v)
    z = tap(f"{at}.z", attend(config, i, q, k, v, visible, tap))  # B P H K
    if tap.wants(f"{at}.result"):
        W_O = w.W_O.view(config.n_heads, config.d_head, config.d_model)
        result = tap(f"{at}.result", torch.einsum("bphk,hkd->bphd", z, W_O))  # B P H D
        return result.sum(2) + w.b_O
    return linear(z.flatten(2), w.W_O, w.b_O)


def project_qkv(w: Block, config: Config, i: int, x: Tensor, tap: Tap) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values: B P D -> three of B P H K."""
    (B, P, D), H, K = x.shape, config.n_heads, config.d_head
    inputs = head_inputs(i, x, H, tap)  # if somebody steers what single heads read: 3 of B P H D
    if inputs is None or tap.wants(*(f"blocks.{i}.ln1.{part}" for part in ("scale", "normalized", "out"))):
        out = layer_norm(w.ln1, config.eps, x, tap, f"blocks.{i}.ln1")  # B P D
    if inputs is None:
        q, k, v = linear(out, w.W_QKV, w.b_QKV).view(B, P, 3, H, K).unbind(2)
        return q, k, v
    normed = [F.layer_norm(t, (D,), w.ln1.w, w.ln1.b, config.eps) for t in inputs]  # 3 of B P H D
    return project_heads(normed, w.W_QKV.view(D, 3, H, K), w.b_QKV.view(3, H, K))


def attend(config: Config, i: int, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, tap: Tap) -> Tensor:
    """Return each head's values, averaged under its attention pattern: B P H K."""
    at, scale = f"blocks.{i}.attn", config.attn_scale(i)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # B H P K
    if not (tap.wants(f"{at}.scores", f"{at}.pattern") or config.upcast_attn):  # the same, P P never written out
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None, scale=scale)
        return z.transpose(1, 2)
    if config.upcast_attn:
        q, k = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k))
    if visible is None:
        visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()  # P P
    scores = tap(f"{at}.scores", ((q * scale) @ k.mT).masked_fill_(~visible, -torch.inf))  # B H P P
    pattern = tap(f"{at}.pattern", scores.softmax(-1).to(v.dtype))  # B H P P
    return (pattern @ v).transpose(1, 2)


def mlp(w: Block, config: Config, i: int, x: Tensor, tap: Tap) -> Tensor:
    """Return what the MLP adds to the stream: B P D -> B P D."""
    at = f"blocks.{i}"
    out = layer_norm(w.ln2, config.eps, x, tap, f"{at}.ln2")  # B P D
    pre = tap(f"{at}.mlp.pre", linear(out, w.W_in, w.b_in))  # B P M
    spent = not tap.wants(f"{at}.mlp.pre")
    post = tap(f"{at}.mlp.post", activate(ACTIVATION[config.activation], pre, spent))  # B P M
    return linear(post, w.W_out, w.b_out)


def layer_norm(w: LayerNorm, eps: float, x: Tensor, tap: Tap, at: str) -> Tensor:
    """Return the LayerNorm of each position, whose sites are called `at`: B P D -> B P D."""
    if not tap.wants(f"{at}.scale", f"{at}.normalized"):
        return tap(f"{at}.out", F.layer_norm(x, x.shape[-1:], w.w, w.b, eps))  # B P D
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(-1, keepdim=True)
    scale = tap(f"{at}.scale", (centred.square().mean(-1, keepdim=True) + eps).sqrt().to(x.dtype))  # B P 1
    normalized = tap(f"{at}.normalized", (centred / scale).to(x.dtype))  # B P D
    out = normalized if w.w is None else normalized * w.w
    return tap(f"{at}.out", out if w.b is None else out + w.b)  # B P D


def head(w: Weights, config: Config, x: Tensor, tap: Tap) -> Tensor:
    """Return the logits, given the stream that leaves the last block: B P D -> B P V."""
    return tap("logits", unembed(w, final_norm(w, config, x, tap)))  # B P V


def final_norm(w: Weights, config: Config, x: Tensor, tap: Tap) -> Tensor:
    """Return what the unembedding reads: B P D -> B P D."""
    return layer_norm(w.ln_final, config.eps, x, tap, "ln_final")  # B P D


def unembed(w: Weights, x: Tensor) -> Tensor:
    """Return each token's score: B P D -> B P V."""
    return unembedding(x, w.W_U, w.b_U)  # B P V
