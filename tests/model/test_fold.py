"""Folding: other weights, the same log-probabilities."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from cutaway.errors import InputError
from tests.model.reference import ALL, ODD, TOKENS, random_gpt2
from tests.model.test_config import configurations

FLAGS = ["layer_norm", "center_unembed", "center_writing", "value_biases"]
EVERY = [flags for n in range(1, 5) for flags in itertools.combinations(FLAGS, n)]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def wide(request, saved):
    folder = saved(random_gpt2(seed=3, **ODD | {"tie_word_embeddings": request.param}))
    return cutaway.load(folder, device="cpu", dtype="float64")


def log_probabilities(model):
    return model.run(TOKENS).logits.log_softmax(-1)


@pytest.mark.parametrize("flags", EVERY, ids=["+".join(flags) for flags in EVERY])
def test_the_same_log_probabilities(wide, flags):
    fingerprint = wide.fingerprint
    folded = wide.fold(**dict.fromkeys(flags, True))
    torch.testing.assert_close(log_probabilities(folded), log_probabilities(wide), atol=1e-10, rtol=0)
    assert folded.fingerprint != fingerprint
    assert folded.config.tied == folded.tied == (wide.tied and flags == ("value_biases",))
    assert wide.fresh_fingerprint() == fingerprint


def test_in_float32(odd):
    folded = odd.fold(**dict.fromkeys(FLAGS, True))
    assert {w.dtype for w in folded.parameters().values()} == {torch.float32}
    torch.testing.assert_close(log_probabilities(folded), log_probabilities(odd), atol=1e-4, rtol=0)


def test_what_each_step_does(wide):
    folded = wide.fold(**dict.fromkeys(FLAGS, True))
    w = folded.weights
    assert not folded.tied
    zero = torch.zeros((), dtype=torch.float64)
    for tensor in (w.W_E, w.W_pos, *(t for b in w.blocks for t in (b.W_O, b.b_O, b.W_out, b.b_out))):
        torch.testing.assert_close(tensor.mean(-1), zero.expand(tensor.shape[:-1]), atol=1e-12, rtol=0)
    torch.testing.assert_close(w.W_U.mean(0), zero.expand(60), atol=1e-12, rtol=0)
    torch.testing.assert_close(w.b_U.mean(), zero, atol=1e-12, rtol=0)
    assert all((b.b_QKV[120:] == 0).all() for b in w.blocks)
    sites = ["attn.pattern", "ln1.normalized", "ln1.out", "ln_final.*", "mlp.post", "resid_post"]
    before, after = (model.run(TOKENS, capture=sites) for model in (wide, folded))
    for name in before:
        want = before[name] - before[name].mean(-1, keepdim=True) if name.endswith("resid_post") else before[name]
        if name.endswith(".out"):
            want = before[name.replace(".out", ".normalized")]
        torch.testing.assert_close(after[name], want, atol=1e-10, rtol=0)


@pytest.mark.slow
def test_gpt2_small_s_parameters_after_folding(small):
    _, model = small
    folded = model.fold(layer_norm=True)
    assert folded.n_parameters == sum(part.parameters for part in folded.parts()) == 163_049_041
    matrices = [t for name, t in folded.parameters().items() if name.startswith("blocks") and t.dim() == 2]
    assert sum(t.numel() for t in matrices) == 84_934_656


def test_a_folded_model_is_a_model(odd):
    folded = odd.fold(layer_norm=True)
    with folded.edited({"blocks.1.mlp_out": 0.0}):
        run = folded.run(TOKENS, capture=["mlp_out", "q_input", "ln1.scale"])
    assert (run["blocks.1.mlp_out"] == 0).all()
    again = folded.fold(center_unembed=True)
    torch.testing.assert_close(log_probabilities(again), log_probabilities(odd), atol=1e-4, rtol=0)


def test_nothing_asked_for(odd):
    with pytest.raises(InputError, match="layer_norm"):
        odd.fold()


@settings(max_examples=25, deadline=None)
@given(configurations(), st.sets(st.sampled_from(FLAGS), min_size=1), st.integers(0, 99))
def test_any_configuration(config, flags, seed):
    """Also twice over, where the second time finds nothing left to do."""
    model = cutaway.load(random_gpt2(seed, **config), device="cpu", dtype="float64")
    ids = torch.arange(config["n_positions"])[None] * 7 % config["vocab_size"]
    want = model.run(ids).logits.log_softmax(-1)
    folded = model.fold(**dict.fromkeys(flags, True))
    again = folded.fold(**dict.fromkeys(flags, True))
    for other in (folded, again):
        torch.testing.assert_close(other.run(ids).logits.log_softmax(-1), want, atol=1e-10, rtol=0)
    for name, weight in folded.parameters().items():
        torch.testing.assert_close(again.parameters()[name], weight, atol=1e-12, rtol=0)


def test_the_bundled_model_says_the_same(bundled):
    before = {name: weight.clone() for name, weight in bundled.parameters().items()}
    text = "The people of the United States are"
    want = bundled.run(text, bos=True).logits.log_softmax(-1)
    for flags in ([flag] for flag in FLAGS):
        folded = bundled.fold(**dict.fromkeys(flags, True))
        torch.testing.assert_close(folded.run(text, bos=True).logits.log_softmax(-1), want, atol=1e-4, rtol=0)
    folded = bundled.fold(**dict.fromkeys(FLAGS, True))
    torch.testing.assert_close(folded.run(text, bos=True).logits.log_softmax(-1), want, atol=1e-4, rtol=0)
    assert folded.generate(text, 20, temperature=0).texts == bundled.generate(text, 20, temperature=0).texts
    assert bundled.tied
    assert all(torch.equal(weight, before[name]) for name, weight in bundled.parameters().items())
    assert (
        folded.origin
        == "cutaway.load().fold(layer_norm=True, center_unembed=True, center_writing=True, value_biases=True)"
    )


@pytest.mark.parametrize("flags", [["center_unembed"], ["value_biases"]])
def test_what_a_step_leaves_alone_is_what_it_was(wide, flags):
    """Neither step touches the stream: every state but values, what is averaged from them, and logits is the same."""
    folded = wide.fold(**dict.fromkeys(flags, True))
    before, after = (model.run(TOKENS, capture=ALL) for model in (wide, folded))
    moved = {"center_unembed": ("logits",), "value_biases": ("attn.v", "attn.z", "attn.result")}[flags[0]]
    for name in before:
        same = (before[name] - after[name]).nan_to_num().abs().max() < 1e-10
        assert same != name.endswith(moved), name
