"""GPT-2, from token ids to logits, in one file.

The model keeps a residual stream: one vector of width D for each position. Attention moves information between
positions and the MLP works on each alone; both read the stream through a LayerNorm and add what they have to say.
After the last block one more LayerNorm and the unembedding turn each vector into a score for every token that might
come next.

Each line with `tap(...)` is a site: a place where a tensor can be captured or edited (sites.py draws them). What is
costly and rarely wanted (attention scores, what each head writes, one input stream a head) is computed only when
somebody asks for it.

Letters: B batch, P position, H heads, D d_model, K d_head, M d_mlp, V d_vocab.

Radford et al. 2019, Language Models are Unsupervised Multitask Learners; section 2.3. Vaswani et al. 2017, Attention
Is All You Need; section 3.2.1, equation 1. Ba et al. 2016, Layer Normalization; equation 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.errors import EditError
from cutaway.model.architectures.activations import ACTIVATION, GELU
from cutaway.model.architectures.config import Config
from cutaway.model.taps.tap import Tap


@dataclass(frozen=True, slots=True)
class LayerNorm:
    w: Tensor | None  # D; None: folded into what reads the output
    b: Tensor | None  # D


@dataclass(frozen=True, slots=True)
class Block:
    """One block's weights as the checkpoint stores them: [in, out], q, k and v side by side."""

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
    W_E: Tensor  # V D
    W_pos: Tensor  # context D
    blocks: list[Block]
    ln_final: LayerNorm
    W_U: Tensor  # V D; the very tensor W_E where the head is tied
    b_U: Tensor | None = None  # V; only folding makes one


def forward(
    w: Weights,
    config: Config,
    ids: Tensor,
    positions: Tensor,
    tap: Tap,
    last: Tensor | None = None,
    cache: Past | None = None,
) -> Tensor:
    """ids B P -> logits B P V. With `last` B, each row's final position: logits B 1 V of that one alone; with `last`
    B A, logits B A V of so many."""
    embed = tap("embed", w.W_E[ids])  # B P D
    pos_embed = tap("pos_embed", w.W_pos[positions])  # B P D
    x = embed + pos_embed  # B P D
    return run_from(w, config, 0, x, tap, last, cache)


def run_from(
    w: Weights, config: Config, first: int, x: Tensor, tap: Tap, last: Tensor | None = None, cache: Past | None = None
) -> Tensor:
    """The residual stream that enters block `first` (or leaves the last one), B P D -> logits, as forward's."""
    for i in range(first, config.n_layers):
        # In the last block a row's final position needs the others' keys and values alone.
        alone = last is not None and i == config.n_layers - 1 and not tap.wants_after(f"blocks.{i}.resid_pre")
        x = run_block(w.blocks[i], config, i, x, tap, cache, last if alone else None)  # B P D
        last = None if alone else last

    if last is not None and not tap.wants("ln_final.scale", "ln_final.normalized", "ln_final.out", "logits"):
        x, last = take(x, last), None  # B 1 D
    x = layer_norm(w.ln_final, config.eps, x, tap, "ln_final")  # B P D
    if last is not None and not tap.wants("logits"):
        x, last = take(x, last), None  # B 1 D
    logits = tap("logits", unembed(w, x))  # B P V
    return logits if last is None else take(logits, last)


def run_block(
    w: Block, config: Config, i: int, x: Tensor, tap: Tap, cache: Past | None = None, last: Tensor | None = None
) -> Tensor:
    """B P D -> B P D; with `last`, B 1 D (or B A D): what leaves the block at each row's final position alone."""
    at = f"blocks.{i}"
    resid_pre = tap(f"{at}.resid_pre", x)  # B P D
    attn_out = tap(f"{at}.attn_out", attention(w, config, i, resid_pre, tap, cache, last))  # B P D
    resid_pre = resid_pre if last is None else take(resid_pre, last)
    return run_mlp(w, config, i, resid_pre + attn_out, tap)


def run_mlp(w: Block, config: Config, i: int, x: Tensor, tap: Tap) -> Tensor:
    """A block's second half: the stream after its attention, B P D -> B P D."""
    at = f"blocks.{i}"
    resid_mid = tap(f"{at}.resid_mid", x)  # B P D
    mlp_in = tap(f"{at}.mlp_in", resid_mid)  # B P D
    mlp_out = tap(f"{at}.mlp_out", mlp(w, config, i, mlp_in, tap))  # B P D
    return tap(f"{at}.resid_post", resid_mid + mlp_out)  # B P D


def attention(
    w: Block, config: Config, i: int, x: Tensor, tap: Tap, cache: Past | None = None, last: Tensor | None = None
) -> Tensor:
    at, (B, P, _) = f"blocks.{i}.attn", x.shape
    q, k, v = project_qkv(w, config, i, x, tap)
    q = tap(f"{at}.q", q)  # B P H K
    k = tap(f"{at}.k", k)  # B P H K
    v = tap(f"{at}.v", v)  # B P H K

    visible = None  # which keys each query may see; None: its own and all before it
    if cache is not None:
        k, v, visible = cache.extend(i, k, v)
    if last is not None:
        q, visible = take(q, last), rows_of(visible, last, k.shape[1])
        P = q.shape[1]
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # B H P K
    scale = config.attn_scale(i)
    if tap.wants(f"{at}.scores", f"{at}.pattern") or config.upcast_attn:
        if config.upcast_attn:
            q, k = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k))
        if visible is None:
            visible = torch.ones(P, P, dtype=torch.bool, device=x.device).tril()  # P P
        scores = ((q * scale) @ k.mT).masked_fill_(~visible, -torch.inf)
        scores = tap(f"{at}.scores", scores)  # B H P P
        pattern = tap(f"{at}.pattern", scores.softmax(-1).to(v.dtype))  # B H P P
        z = pattern @ v
    else:
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None, scale=scale)
    z = tap(f"{at}.z", z.transpose(1, 2))  # B P H K

    if tap.wants(f"{at}.result"):
        W_O = w.W_O.view(config.n_heads, config.d_head, config.d_model)
        result = tap(f"{at}.result", torch.einsum("bphk,hkd->bphd", z, W_O))  # B P H D
        return result.sum(2) + w.b_O
    return linear(z.reshape(B, P, -1), w.W_O, w.b_O)


def project_qkv(w: Block, config: Config, i: int, x: Tensor, tap: Tap) -> tuple[Tensor, Tensor, Tensor]:
    """The residual stream -> queries, keys, values, each B P H K, through one stream or through one for each head."""
    at, (B, P, D) = f"blocks.{i}", x.shape
    H, K = config.n_heads, config.d_head
    split = [f"{at}.attn_in", f"{at}.q_input", f"{at}.k_input", f"{at}.v_input"]
    if tap.wants(*split):
        stream = tap(split[0], x.unsqueeze(2).expand(B, P, H, D))  # B P H D
        inputs = [tap(site, stream) for site in split[1:]]  # 3 of B P H D
    if not tap.steers(*split):
        out = layer_norm(w.ln1, config.eps, x, tap, f"{at}.ln1")  # B P D
        q, k, v = linear(out, w.W_QKV, w.b_QKV).view(B, P, 3, H, K).unbind(2)
        return q, k, v

    whole = [f"{at}.ln1.scale", f"{at}.ln1.normalized", f"{at}.ln1.out"]
    if tap.steers(*whole):
        raise EditError(
            f"block {i} is steered at both ln1 (the unsplit stream) and a split input (normalized on its own): "
            "edit, or ask gradients of, one of the two"
        )
    if tap.wants(*whole):
        layer_norm(w.ln1, config.eps, x, tap, f"{at}.ln1")
    weights = w.W_QKV.view(D, 3, H, K).unbind(1)  # 3 of D H K
    biases = w.b_QKV.view(3, H, K)
    normed = [F.layer_norm(t, (D,), w.ln1.w, w.ln1.b, config.eps) for t in inputs]
    heads = [torch.einsum("bphd,dhk->bphk", t, W) + b for t, W, b in zip(normed, weights, biases, strict=True)]
    return heads[0], heads[1], heads[2]


def mlp(w: Block, config: Config, i: int, x: Tensor, tap: Tap) -> Tensor:
    at = f"blocks.{i}"
    out = layer_norm(w.ln2, config.eps, x, tap, f"{at}.ln2")  # B P D
    pre = tap(f"{at}.mlp.pre", linear(out, w.W_in, w.b_in))  # B P M
    post = tap(f"{at}.mlp.post", activation(config, pre, spent=not tap.wants(f"{at}.mlp.pre")))  # B P M
    return linear(post, w.W_out, w.b_out)


def layer_norm(w: LayerNorm, eps: float, x: Tensor, tap: Tap, at: str) -> Tensor:
    if not tap.wants(f"{at}.scale", f"{at}.normalized"):
        return tap(f"{at}.out", F.layer_norm(x, x.shape[-1:], w.w, w.b, eps))  # B P D
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(-1, keepdim=True)
    scale = tap(f"{at}.scale", (centred.square().mean(-1, keepdim=True) + eps).sqrt().to(x.dtype))  # B P 1
    normalized = tap(f"{at}.normalized", (centred / scale).to(x.dtype))  # B P D
    out = normalized if w.w is None else normalized * w.w
    return tap(f"{at}.out", out if w.b is None else out + w.b)  # B P D


def activation(config: Config, pre: Tensor, spent: bool) -> Tensor:
    """`spent`: nobody reads `pre` again, so GELU may write over it; fresh memory costs more than the arithmetic."""
    function = ACTIVATION[config.activation]
    if spent and function is GELU and not torch.is_grad_enabled():
        return torch.ops.aten.gelu_(pre, approximate="tanh")  # type: ignore[no-any-return]
    return function(pre)


def onednn_works() -> bool:
    """Whether oneDNN's float32 product is here, worth taking, and right.

    torch's own float32 products on a CPU are MKL's, which keeps AVX-512 to Intel's processors. oneDNN, the other
    library inside torch, uses it on all: more than 2 x faster on AMD's. torch reaches it through an operator of its
    compiler, which a future version may change; then this says no and everything works as before.
    """
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    numbers = torch.arange(12, dtype=torch.float32)
    x, W = numbers[:6].view(2, 3), numbers.view(3, 4)
    try:
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, W.T, None, "none", [], ""), x @ W)
    except (AttributeError, RuntimeError, TypeError):
        return False


ONEDNN = onednn_works()


def takes_onednn(x: Tensor) -> bool:
    """It has float32 on a CPU only, and no gradients."""
    return ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


def linear(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    """x B P in, W in out -> B P out."""
    rows = x.reshape(-1, x.shape[-1])
    if takes_onednn(rows):
        out = torch.ops.mkldnn._linear_pointwise(rows, W.T, b, "none", [], "")
    else:
        out = F.linear(rows, W.T, b)
    return out.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


def unembed(w: Weights, x: Tensor) -> Tensor:
    """B P D -> B P V. Without oneDNN the product runs vocabulary-major, where it is faster, and is seen as a view."""
    if takes_onednn(x):
        return linear(x, w.W_U.T, w.b_U)
    logits = (w.W_U @ x.reshape(-1, x.shape[-1]).T).T.view(*x.shape[:-1], -1)
    return logits if w.b_U is None else logits + w.b_U


def take(x: Tensor, last: Tensor) -> Tensor:
    """B P D, B or B A -> B 1 D or B A D: each row at its own final position, or positions."""
    return x[torch.arange(len(x), device=x.device)[:, None], last.view(len(x), -1)]


def rows_of(visible: Tensor | None, last: Tensor, keys: int) -> Tensor:
    """Which of the keys each row's final positions may see: B 1 A keys."""
    last = last.view(len(last), -1)
    seen = torch.arange(keys, device=last.device) <= last[..., None] if visible is None else visible[last]
    return seen[:, None]


class Past(Protocol):
    """What was computed before and is looked at again."""

    def extend(self, i: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Block i's new keys and values, B P H K -> all T of them, and which each query may see: P T or B 1 1 T; None
        for its own and all before it."""


class Cache:
    """Keys and values of what a batch has read, so that the next position can be computed alone.

    The first pass reads the right-padded prompts, each later one a single position of every row; call `advance`
    after each.
    """

    def __init__(self, config: Config, batch: int, width: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (batch, width, config.n_heads, config.d_head)
        self._kept = [torch.zeros(2, *shape, device=device, dtype=dtype) for _ in range(config.n_layers)]
        self.lengths: Tensor | None = None  # B; None before the first pass

    def extend(self, i: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keep a block's new keys and values, B P H K; return all of them and which are visible, B 1 1 T."""
        kept = self._kept[i]
        if self.lengths is None:
            kept[0, :, : k.shape[1]], kept[1, :, : v.shape[1]] = k, v
            return k, v, None
        rows, T = torch.arange(len(k), device=k.device), int(self.lengths.max()) + 1
        kept[0, rows, self.lengths], kept[1, rows, self.lengths] = k[:, 0], v[:, 0]
        visible = torch.arange(T, device=k.device) <= self.lengths[:, None]  # B T
        return kept[0, :, :T], kept[1, :, :T], visible[:, None, None]

    def advance(self, prompt_lengths: Tensor) -> None:
        self.lengths = prompt_lengths.clone() if self.lengths is None else self.lengths + 1
