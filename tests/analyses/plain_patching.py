"""Patch in a plain loop over transformers' GPT-2 with forward hooks: one whole forward for each cell."""

import torch
from transformers.models.gpt2 import modeling_gpt2

# kind -> (the module of a block, which of its values, "heads" or the number of q, k or v)
PLACES = {
    "resid_pre": (lambda block: block.ln_1, "block input", None),
    "attn.q": (lambda block: block.attn.c_attn, "output", 0),
    "attn.k": (lambda block: block.attn.c_attn, "output", 1),
    "attn.v": (lambda block: block.attn.c_attn, "output", 2),
    "attn.pattern": (lambda block: block.attn, "weights", None),
    "attn.z": (lambda block: block.attn.c_proj, "input", "heads"),
    "attn_out": (lambda block: block.attn.resid_dropout, "output", None),
    "mlp.post": (lambda block: block.mlp.act, "output", None),
    "mlp_out": (lambda block: block.mlp, "output", None),
    "resid_post": (lambda block: block, "output", None),
}


def view(value, kind, heads):
    """Return a module's value as a view in the site's shape, which can be written into."""
    part = PLACES[kind][2]
    if part is None:
        return value
    B, P, _ = value.shape
    if part == "heads":
        return value.view(B, P, heads, -1)
    width = value.shape[-1] // 3
    return value[..., part * width : (part + 1) * width].view(B, P, heads, -1)


class Weights:
    """A hook on attention weights, which no module returns before their use: it replaces transformers' function."""

    def __init__(self, attention, change):
        self.before = modeling_gpt2.eager_attention_forward

        def forward(module, query, key, value, *args, **kwargs):
            out, weights = self.before(module, query, key, value, *args, **kwargs)
            if module is not attention:
                return out, weights
            weights = weights.clone()
            change(weights)
            return (weights @ value).transpose(1, 2), weights

        modeling_gpt2.eager_attention_forward = forward

    def remove(self):
        modeling_gpt2.eager_attention_forward = self.before


def hooked(model, kind, layer, change):
    """Register `change(view)`, which may write into the value, at a site; return the hook."""
    block, heads = model.transformer.h[layer], model.config.n_head
    of, where, _ = PLACES[kind]
    if where == "weights":
        return Weights(of(block), change)
    if where == "block input":

        def pre(module, args):
            value = args[0].clone()
            change(value)
            return (value, *args[1:])

        return block.register_forward_pre_hook(pre)
    if where == "input":

        def pre_view(module, args):
            value = view(args[0].clone(), kind, heads)
            change(value)
            return (value.view(args[0].shape), *args[1:])

        return of(block).register_forward_pre_hook(pre_view)

    def post(module, args, output):
        first = output[0] if isinstance(output, tuple) else output
        value = first.clone()
        change(view(value, kind, heads))
        return (value, *output[1:]) if isinstance(output, tuple) else value

    return of(block).register_forward_hook(post)


@torch.no_grad()
def values(model, ids, kind, layer):
    """Return a site's value in a plain run."""
    seen = []
    hook = hooked(model, kind, layer, lambda value: seen.append(value.clone()))
    model(ids, use_cache=False)
    hook.remove()
    return seen[0]


@torch.no_grad()
def patched(model, base, other, kind, layer, positions, index=None):
    """Return the last logits [V] of `base` with the value of `other` at a cell."""
    new, positions = values(model, other, kind, layer), list(positions)

    def change(value):
        if kind == "attn.pattern":
            value[:, index, positions] = new[:, index, positions]
        elif index is None:
            value[:, positions] = new[:, positions]
        else:
            value[:, positions, index] = new[:, positions, index]

    hook = hooked(model, kind, layer, change)
    logits = model(base, use_cache=False).logits[0, -1]
    hook.remove()
    return logits
