"""Trace causally as ROME's authors do: one run for each cell, a clean row and corrupted rows, hooks on modules."""

import torch

MODULES = {"resid_post": lambda block: block, "mlp_out": lambda block: block.mlp, "attn_out": lambda block: block.attn}


@torch.no_grad()
def rome(model, ids, answer, noised, noise, kind, layers, position):
    """Return the log-probability of the answer [sample] with clean states restored, each token given those before."""
    body, hooks = model.transformer, []
    rows = torch.tensor([[*ids, *answer[:-1]]]).expand(1 + len(noise), -1)

    def corrupt(module, inputs, output):
        output = output.clone()
        output[1:, noised.start : noised.stop] += noise.to(output.dtype)
        return output

    def restore(module, inputs, output):
        states = output[0] if isinstance(output, tuple) else output
        states[1:, position] = states[0, position]
        return output

    hooks.append(body.wte.register_forward_hook(corrupt))
    hooks += [MODULES[kind](body.h[i]).register_forward_hook(restore) for i in layers]
    try:
        logits = model(rows, use_cache=False).logits[1:, -len(answer) :]
    finally:
        for hook in hooks:
            hook.remove()
    chosen = torch.tensor(answer)[None, :, None].expand(len(logits), -1, 1)
    return logits.double().log_softmax(-1).gather(2, chosen)[..., 0].sum(1)
