"""transformers' GPT-2 as the reference: random models, and every site's value by its own modules and weights."""

import math

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from cutaway.model.architectures import gpt2
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.taps.sites import Sites
from cutaway.text.tokens import Tokens

ODD = {"n_embd": 60, "n_head": 5, "n_inner": 70, "n_layer": 3, "vocab_size": 101, "n_positions": 37}


def random_gpt2(seed=0, **config):
    """A GPT2LMHeadModel whose weights are all random: no zero bias, no unit LayerNorm, logits of order 1 to 10."""
    model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager", **config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1:
                weight.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))
            elif "wte" in name or "lm_head" in name:
                weight.copy_(noise * 2 / math.sqrt(weight.shape[1]))
            else:
                weight.copy_(noise / math.sqrt(weight.shape[0] if "wpe" not in name else weight.shape[1]))
    return model


def padded(lengths, d_vocab, seed=0):
    """Random ids of these lengths, right-padded with id 0, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(1, d_vocab, mask.shape, generator=generator) * mask, mask


LENGTHS = [7, 1, 5]
TOKENS = Tokens(*padded(LENGTHS, ODD["vocab_size"]))  # a batch for the odd model
ALL = ["*", "ln_final.*", "blocks.*.*", "blocks.*.*.*"]
ODD_SITES = Sites(gpt2.SITES, Config(n_layers=3, n_heads=5, d_model=60, d_mlp=70, d_vocab=101, n_ctx=37))
KINDS = [site for site in ODD_SITES if site.layer in (None, 1)]  # each kind once, a block's in the middle one
SPLIT = {"attn_in", "q_input", "k_input", "v_input"}


def noise(value):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(value.shape, generator=generator, dtype=value.dtype)


def add_noise(value, ctx):
    """An edit that no LayerNorm or softmax undoes."""
    return value + noise(value)


def states(model, ids, mask):
    """Every site's value, by canonical name, and the logits, as transformers computes them."""
    seen, hooks = {}, []

    def watch(module, name, pick=lambda inputs, output: output):
        hooks.append(module.register_forward_hook(lambda m, i, o: seen.update({name: pick(i, o)})))

    def entry(inputs, output):
        return inputs[0]

    body = model.transformer
    watch(body.wte, "embed")
    watch(body.wpe, "pos_embed")
    for i, block in enumerate(body.h):
        at = f"blocks.{i}"
        watch(block.ln_1, f"{at}.resid_pre", entry)
        watch(block.ln_1, f"{at}.ln1.out")
        watch(block.attn.c_attn, f"{at}.qkv")
        watch(block.attn, f"{at}.attn.pattern", lambda inputs, output: output[1])
        watch(block.attn, f"{at}.attn_out", lambda inputs, output: output[0])
        watch(block.ln_2, f"{at}.resid_mid", entry)
        watch(block.ln_2, f"{at}.ln2.out")
        watch(block.mlp.c_fc, f"{at}.mlp.pre")
        watch(block.mlp.act, f"{at}.mlp.post")
        watch(block.mlp, f"{at}.mlp_out")
        watch(block, f"{at}.resid_post")
        watch(block.attn.c_proj, f"{at}.z_flat", entry)
    watch(body.ln_f, "ln_final.x", entry)
    watch(body.ln_f, "ln_final.out")
    with torch.no_grad():
        seen["logits"] = model(ids, attention_mask=mask, use_cache=False).logits
    for hook in hooks:
        hook.remove()

    for i, block in enumerate(body.h):
        _derive(seen, f"blocks.{i}", block, model.config)
    _norm_sites(seen, "ln_final", seen.pop("ln_final.x"), body.ln_f.eps)
    for name in ("embed", "pos_embed"):
        seen[name] = seen[name].expand(*ids.shape, -1)
    return seen


@torch.no_grad()
def _derive(seen, at, block, config):
    """The sites that no module holds, recomputed from transformers' weights."""
    B, P, D = seen[f"{at}.resid_pre"].shape
    H = config.n_head
    per_head = seen[f"{at}.resid_pre"][:, :, None].expand(B, P, H, D)
    seen |= {f"{at}.{name}": per_head for name in ("attn_in", "q_input", "k_input", "v_input")}
    q, k, v = (t.reshape(B, P, H, -1) for t in seen.pop(f"{at}.qkv").chunk(3, -1))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * block.attn.scaling
    scores = torch.where(torch.ones(P, P, dtype=torch.bool).tril(), scores, -torch.inf)
    z = seen.pop(f"{at}.z_flat").reshape(B, P, H, -1)
    W_O = block.attn.c_proj.weight.reshape(H, D // H, D)
    result = torch.stack([z[:, :, h] @ W_O[h] for h in range(H)], 2)
    seen |= {f"{at}.attn.q": q, f"{at}.attn.k": k, f"{at}.attn.v": v, f"{at}.attn.scores": scores}
    seen |= {f"{at}.attn.z": z, f"{at}.attn.result": result, f"{at}.mlp_in": seen[f"{at}.resid_mid"]}
    _norm_sites(seen, f"{at}.ln1", seen[f"{at}.resid_pre"], config.layer_norm_epsilon)
    _norm_sites(seen, f"{at}.ln2", seen[f"{at}.resid_mid"], config.layer_norm_epsilon)


def _norm_sites(seen, at, x, eps):
    seen[f"{at}.scale"] = (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    seen[f"{at}.normalized"] = F.layer_norm(x, x.shape[-1:], eps=eps)


def attended(site, value, mask):
    """A site's value at the attended positions alone: [n, ...]; queries, where it is a matrix of queries and keys."""
    if site.endswith((".scores", ".pattern")):
        value = value.transpose(1, 2)
    return value[mask.bool()]
