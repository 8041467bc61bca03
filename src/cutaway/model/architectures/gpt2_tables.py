"""Name the sites of a GPT-2, its tensors in a checkpoint, and its parts.

One block, with its sites (names after `blocks.i.`):

    resid_pre ─┬─ attn_in ─ q_input, k_input, v_input (one stream a head)
               │
               ├─ ln1.scale ─ ln1.normalized ─ ln1.out ─┬─ attn.q ─┬─ attn.scores ─ attn.pattern ─┐
               │                                        ├─ attn.k ─┘                              ├─ attn.z
               │                                        └─ attn.v ────────────────────────────────┘    │
               + ◄─────────────────────────────────────────────────────── attn_out ◄── attn.result ◄───┘
               │
    resid_mid ─┼─ mlp_in ─ ln2.scale ─ ln2.normalized ─ ln2.out ─ mlp.pre ─ mlp.post ─┐
               │                                                                      │
               + ◄─────────────────────────────────────────────────────── mlp_out ◄───┘
               │
    resid_post ┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutaway.model.architectures.architecture import TensorTable
from cutaway.model.taps.sites import Role, Row, SiteTable

NAME = "gpt2"  # config.json's model_type
TITLE = "GPT-2"

STREAM, ATTENDED = Role.STREAM, Role.ATTENDED
SITES = SiteTable(
    before=[
        Row("embed", "B P D", "hook_embed", "transformer.wte", "token embedding"),
        Row("pos_embed", "B P D", "hook_pos_embed", "transformer.wpe", "position embedding"),
    ],
    block=[
        Row("resid_pre", "B P D", "hook_resid_pre", None, "residual stream that enters the block", STREAM | ATTENDED),
        Row("attn_in", "B P H D", "hook_attn_in", None, "resid_pre once for each head, before ln1", ATTENDED),
        Row("q_input", "B P H D", "hook_q_input", None, "what each head's queries read, before ln1"),
        Row("k_input", "B P H D", "hook_k_input", None, "what each head's keys read, before ln1", ATTENDED),
        Row("v_input", "B P H D", "hook_v_input", None, "what each head's values read, before ln1", ATTENDED),
        Row("ln1.scale", "B P 1", "ln1.hook_scale", None, "standard deviation that ln1 divides by", ATTENDED),
        Row("ln1.normalized", "B P D", "ln1.hook_normalized", None, "ln1 before its weight and bias", ATTENDED),
        Row("ln1.out", "B P D", "ln1.hook_out", "ln_1", "what attention reads", ATTENDED),
        Row("attn.q", "B P H K", "attn.hook_q", None, "queries"),
        Row("attn.k", "B P H K", "attn.hook_k", None, "keys", ATTENDED),
        Row("attn.v", "B P H K", "attn.hook_v", None, "values", ATTENDED),
        Row("attn.scores", "B H P P", "attn.hook_attn_scores", None, "attention scores; masked ones are -inf"),
        Row("attn.pattern", "B H P P", "attn.hook_pattern", None, "attention probabilities, query by key"),
        Row("attn.z", "B P H K", "attn.hook_z", None, "values averaged under the pattern"),
        Row("attn.result", "B P H D", "attn.hook_result", None, "what each head writes (sum + b_O = attn_out)"),
        Row("attn_out", "B P D", "hook_attn_out", "attn", "what attention adds to the stream"),
        Row("resid_mid", "B P D", "hook_resid_mid", None, "residual stream between attention and MLP", STREAM),
        Row("mlp_in", "B P D", "hook_mlp_in", None, "resid_mid as the MLP reads it, before ln2"),
        Row("ln2.scale", "B P 1", "ln2.hook_scale", None, "standard deviation that ln2 divides by"),
        Row("ln2.normalized", "B P D", "ln2.hook_normalized", None, "ln2 before its weight and bias"),
        Row("ln2.out", "B P D", "ln2.hook_out", "ln_2", "what the MLP's first matrix reads"),
        Row("mlp.pre", "B P M", "mlp.hook_pre", None, "neurons before the activation function"),
        Row("mlp.post", "B P M", "mlp.hook_post", None, "neurons after the activation function"),
        Row("mlp_out", "B P D", "hook_mlp_out", "mlp", "what the MLP adds to the stream"),
        Row("resid_post", "B P D", "hook_resid_post", "", "residual stream that leaves the block", STREAM),
    ],
    after=[
        Row("ln_final.scale", "B P 1", "ln_final.hook_scale", None, "standard deviation that ln_final divides by"),
        Row("ln_final.normalized", "B P D", "ln_final.hook_normalized", None, "ln_final before its weight and bias"),
        Row("ln_final.out", "B P D", "ln_final.hook_out", "transformer.ln_f", "what the unembedding reads"),
        Row("logits", "B P V", None, "lm_head", "unnormalized log-probabilities of the next token"),
    ],
    hugging_face_blocks="transformer.h",
)

TENSORS = TensorTable(
    before={"wte.weight": ("W_E", "V D"), "wpe.weight": ("W_pos", "C D")},
    block={
        "ln_1.weight": ("ln1.w", "D"),
        "ln_1.bias": ("ln1.b", "D"),
        "attn.c_attn.weight": ("W_QKV", "D 3D"),
        "attn.c_attn.bias": ("b_QKV", "3D"),
        "attn.c_proj.weight": ("W_O", "D D"),
        "attn.c_proj.bias": ("b_O", "D"),
        "ln_2.weight": ("ln2.w", "D"),
        "ln_2.bias": ("ln2.b", "D"),
        "mlp.c_fc.weight": ("W_in", "D M"),
        "mlp.c_fc.bias": ("b_in", "M"),
        "mlp.c_proj.weight": ("W_out", "M D"),
        "mlp.c_proj.bias": ("b_out", "D"),
    },
    after={"ln_f.weight": ("ln_final.w", "D"), "ln_f.bias": ("ln_final.b", "D")},
    blocks="h",
    embedding="wte.weight",
    head="lm_head.weight",
)

PARTS: Sequence[tuple[str, str, str]] = [  # name, which parameters (a regular expression), how they are called
    ("token embedding", r"W_E", "W_E"),
    ("position embedding", r"W_pos", "W_pos"),
    ("attention", r"blocks\..*_(QKV|O)", "W_Q, W_K, W_V, W_O, biases"),
    ("MLP", r"blocks\..*_(in|out)", "W_in, W_out, biases"),
    ("LayerNorms", r".*ln(1|2|_final)\..", "ln1, ln2, ln_final"),
    ("unembedding", r"[Wb]_U", "W_U, b_U"),
]

READS: Mapping[str, Sequence[tuple[str, str]]] = {"ln1": [("W_QKV", "b_QKV")], "ln2": [("W_in", "b_in")]}
WRITES: Sequence[str] = ["W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"]
VALUE_BIASES = "b_QKV"
