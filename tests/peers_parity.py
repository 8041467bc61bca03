"""Our numbers beside TransformerBridge's, under TransformerLens's names; run with the peers' Python, prints JSON.

    .venv-peers/bin/python -m tests.peers_parity

For each configuration {"plain": {site: difference}, "edited": {site: difference}}: of every site's value in an
unedited run, and of the logits when noise is added at that site alone.
"""

import json
import logging
import sys
import tempfile
import warnings

import torch
from transformer_lens.model_bridge import TransformerBridge

import cutaway
from tests.model.reference import ODD, random_gpt2

CONFIGS = {
    "tied": ODD | {"n_layer": 2},
    "untied": ODD | {"n_layer": 2, "n_head": 1, "activation_function": "relu", "tie_word_embeddings": False},
}
SPLIT = ("q_input", "k_input", "v_input")


def noise(value):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(value.shape, generator=generator)


def add_noise(value, *_, hook=None):
    """As an edit of ours and as a hook of theirs."""
    return value + 0.3 * noise(value)


def difference(ours, theirs):
    """The largest; where scores are masked, both must be: minus infinity with us, float32's lowest with them."""
    if ours.shape != theirs.shape:
        return f"shapes {list(ours.shape)} and {list(theirs.shape)}"
    masked = theirs <= torch.finfo(torch.float32).min
    if not torch.equal(masked, ours == -torch.inf):
        return "not masked alike"
    return (ours - theirs)[~masked].abs().max().item()


def choose_streams(bridge, site):
    """One stream for all heads, one for each head, or one for each head's q, k and v: what the site needs."""
    bridge.set_use_split_qkv_input(False)
    bridge.set_use_attn_in(site.kind == "attn_in")
    bridge.set_use_split_qkv_input(site.kind in SPLIT)


@torch.no_grad()
def compare(config):
    theirs = random_gpt2(seed=5, **config)
    ids = torch.randint(config["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = cutaway.load(folder, device="cpu")
        bridge = TransformerBridge.boot_transformers(folder, device="cpu", hf_model=theirs)
        bridge.set_use_attn_result(True)
        bridge.set_use_hook_mlp_in(True)
        sites = [site for site in ours.sites() if site.transformer_lens]
        run = ours.run(ids, capture=[site.transformer_lens for site in sites])
        found = {"plain": {"logits": difference(run.logits, bridge(ids))}, "edited": {}}
        for site in sites:
            name = site.transformer_lens
            choose_streams(bridge, site)
            _, cache = bridge.run_with_cache(ids, names_filter=name)
            found["plain"][name] = difference(run[name], cache[name]) if name in cache else "not in their cache"
            logits = bridge.run_with_hooks(ids, fwd_hooks=[(name, add_noise)])
            # Their hook_resid_mid is what ln2 alone reads; ours, as it was in HookedTransformer, is the stream itself.
            same = name.replace("hook_resid_mid", "hook_mlp_in")
            found["edited"][name] = difference(ours.run(ids, edits={same: add_noise}).logits, logits)
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    json.dump({name: compare(config) for name, config in CONFIGS.items()}, sys.stdout)
