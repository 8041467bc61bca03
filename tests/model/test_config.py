"""Configurations: whatever GPT2Config can say that changes the computation computes what transformers computes."""

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config
from transformers.activations import ACT2FN

import cutaway
from cutaway.errors import CheckpointError
from cutaway.model.architectures.activations import ACTIVATION
from cutaway.model.architectures.gpt2_config import Config
from cutaway.text.tokens import Tokens
from tests.model.reference import padded, random_gpt2


@st.composite
def configurations(draw):
    heads, d_head = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    return {
        "n_head": heads,
        "n_embd": heads * d_head,
        "n_layer": draw(st.integers(1, 3)),
        "n_inner": draw(st.none() | st.integers(1, 40)),
        "vocab_size": draw(st.integers(2, 60)),
        "n_positions": draw(st.integers(1, 12)),
        "activation_function": draw(st.sampled_from(sorted(ACTIVATION))),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-12, 1e-2, 0.5])),
        "scale_attn_weights": draw(st.booleans()),
        "scale_attn_by_inverse_layer_idx": draw(st.booleans()),
        "reorder_and_upcast_attn": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
    }


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configurations(), st.integers(0, 99), st.data())
def test_any_configuration_gives_transformers_logits(config, seed, data):
    """In float64, where only rounding is forgiven; transformers' upcast attention knows no float64."""
    dtype, tolerance = (torch.float32, 2e-4) if config["reorder_and_upcast_attn"] else (torch.float64, 1e-9)
    theirs = random_gpt2(seed, **config).to(dtype)
    model = cutaway.load(theirs, device="cpu", dtype=dtype)
    lengths = data.draw(st.lists(st.integers(1, config["n_positions"]), min_size=1, max_size=3))
    ids, mask = padded(lengths, config["vocab_size"], seed)
    with torch.no_grad():
        want = theirs(ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
    for capture in ((), ["attn.scores", "mlp.pre", "ln1.scale"]):  # by the short way and by the one that shows all
        got = model.run(Tokens(ids, mask), capture=capture).logits[mask.bool()]
        torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ACTIVATION)
def test_activations_everywhere(name):
    x = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATION[name](x), ACT2FN[name](x), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(ACTIVATION[name](x.float()), ACT2FN[name](x.float()), atol=1e-6, rtol=1e-5)


def test_every_activation_that_a_name_alone_can_mean():
    """Those that are left over have weights of their own."""
    left = set(ACT2FN) - set(ACTIVATION)
    assert left == {name for name in ACT2FN if list(ACT2FN[name].parameters())} == {"prelu", "xielu"}


def test_the_linear_activation_is_a_tensor_of_its_own():
    model = cutaway.load(random_gpt2(n_embd=12, n_head=3, n_layer=2, vocab_size=11, activation_function="linear"))
    run = model.run(
        torch.arange(8)[None], capture=["mlp.pre", "mlp.post"], edits={"mlp.post": lambda v, ctx: v.mul_(0)}
    )
    assert run["blocks.1.mlp.pre"].abs().max() > 0.1
    assert run["blocks.1.mlp.post"].abs().max() == 0


def test_switches_change_the_logits():
    """None of the configuration's switches is read and then forgotten."""
    base = {"n_embd": 12, "n_head": 3, "n_layer": 2, "vocab_size": 11, "n_positions": 8}
    ids = torch.arange(8)[None] % 11
    plain = cutaway.load(random_gpt2(**base), device="cpu").run(ids).logits
    for change in (
        {"activation_function": "relu"},
        {"activation_function": "quick_gelu"},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"layer_norm_epsilon": 0.1},
    ):
        changed = cutaway.load(random_gpt2(**base | change), device="cpu").run(ids).logits
        assert (changed - plain).abs().max() > 1e-3, change


# --- reading config.json ---


def test_left_out_fields_are_transformers_defaults():
    c, theirs = Config.from_hf({"model_type": "gpt2"}), GPT2Config()
    assert (c.n_layers, c.n_heads, c.d_model, c.d_vocab, c.n_ctx) == (
        theirs.n_layer,
        theirs.n_head,
        theirs.n_embd,
        theirs.vocab_size,
        theirs.n_positions,
    )
    assert (c.activation, c.eps, c.tied) == (
        theirs.activation_function,
        theirs.layer_norm_epsilon,
        theirs.tie_word_embeddings,
    )
    assert (c.scale_attn, c.scale_attn_by_layer, c.upcast_attn) == (True, False, False)
    assert (c.d_mlp, c.d_head) == (3072, 64)
    assert Config.from_hf(theirs.to_dict()) == c


@pytest.mark.parametrize(
    "raw",
    [
        {"hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 3, "max_position_embeddings": 37},
        {"n_embd": 60, "n_head": 5, "n_layer": 3, "n_positions": 37, "n_ctx": 99},
        {"n_embd": 1, "n_head": 1, "n_layer": 1, "n_positions": 1, "hidden_size": 60, "num_attention_heads": 5}
        | {"num_hidden_layers": 3, "max_position_embeddings": 37},
    ],
)
def test_the_names_that_all_of_transformers_models_share(raw):
    c, theirs = Config.from_hf({"model_type": "gpt2"} | raw), GPT2Config(**raw)
    assert (c.d_model, c.n_heads, c.n_layers, c.n_ctx) == (60, 5, 3, 37)
    assert (c.d_model, c.n_heads, c.n_layers, c.n_ctx) == (
        theirs.n_embd,
        theirs.n_head,
        theirs.n_layer,
        theirs.n_positions,
    )


@pytest.mark.parametrize(
    "key",
    [
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
        "tie_word_embeddings",
        "add_cross_attention",
    ],
)
@pytest.mark.parametrize("value", ["false", 1, None, []])
def test_a_switch_that_is_neither_true_nor_false(key, value):
    message = f"^mine gives {key} = {re.escape(repr(value))}: true or false was expected$"
    with pytest.raises(CheckpointError, match=message):
        Config.from_hf({"model_type": "gpt2", key: value}, "mine")


@pytest.mark.parametrize("value", [0, -1, 2.0, "12", True, None, [12], float("nan")])
@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "hidden_size", "n_inner"])
def test_a_size_that_is_none(key, value):
    if (key, value) == ("n_inner", None):
        return  # four times the width
    name = "n_embd" if key == "hidden_size" else key
    message = f"^mine gives {name} = {re.escape(repr(value))}: a whole number of at least 1 was expected$"
    with pytest.raises(CheckpointError, match=message):
        Config.from_hf({"model_type": "gpt2", key: value}, "mine")


def test_cross_attention_is_refused_by_name_from_transformers_too():
    theirs = random_gpt2(n_embd=8, n_head=2, n_layer=1, vocab_size=11, n_positions=4, add_cross_attention=True)
    message = "^the GPT2LMHeadModel's configuration asks for cross-attention .* which Cutaway does not run$"
    with pytest.raises(CheckpointError, match=message):
        cutaway.load(theirs, device="cpu")
