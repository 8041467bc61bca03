"""Every number equals transformers' GPT2LMHeadModel with eager attention."""

import pytest
import torch

import cutaway
from cutaway.text.tokens import Tokens
from tests.model.reference import ODD, attended, padded, random_gpt2, states

TOLERANCE = {"atol": 2e-5, "rtol": 0}
CONFIGS = {
    "odd": ODD,
    "untied": ODD | {"tie_word_embeddings": False},
    "scaled by layer": ODD | {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
    "unscaled": ODD | {"scale_attn_weights": False, "n_head": 30},
    "upcast": ODD | {"reorder_and_upcast_attn": True},
    "one head, one layer": ODD | {"n_head": 1, "n_layer": 1},
}
LENGTHS = [7, 1, 12, 5]


@pytest.fixture(scope="session", params=CONFIGS.values(), ids=CONFIGS.keys())
def pair(request, saved):
    model = random_gpt2(seed=2, **request.param)
    return model, cutaway.load(saved(model), device="cpu")


def assert_all_equal(reference, model, lengths):
    """Logits and every site, in one run that captures all and in runs that capture each alone."""
    ids, mask = padded(lengths, model.config.d_vocab)
    want = states(reference, ids, mask)
    assert want.keys() == {site.name for site in model.sites()}
    assert 1 < want["logits"][mask.bool()].std() < 10
    tokens = Tokens(ids, mask)
    every = model.run(tokens, capture=["blocks.*.*", "blocks.*.*.*", "*", "ln_final.*"])
    assert set(every) == want.keys()
    for name, value in [*every.items(), ("logits", every.logits), ("logits", model.run(tokens).logits)]:
        got, expected = (attended(name, t, mask) for t in (value, want[name]))
        torch.testing.assert_close(got, expected, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")
    return ids, mask, want


@pytest.mark.slow
def test_gpt2_small(small):
    reference, model = small
    assert model.n_parameters == 124_439_808
    assert_all_equal(reference, model, [5, 9, 1])


def test_gpt2_small_rows_alone(small):
    reference, model = small
    ids, mask = padded([3, 8], model.config.d_vocab, seed=3)
    together = model.run(Tokens(ids, mask)).logits
    for row, n in zip(ids, [3, 8], strict=True):
        with torch.no_grad():
            want = reference(row[None, :n]).logits[0]
        torch.testing.assert_close(model.run(row[None, :n]).logits[0], want, **TOLERANCE)
        torch.testing.assert_close(together[0 if n == 3 else 1, :n], want, **TOLERANCE)


def test_every_site(pair):
    assert_all_equal(*pair, LENGTHS)


def test_every_site_captured_alone(odd_gpt2, odd):
    ids, mask = padded(LENGTHS, odd.config.d_vocab)
    want = states(odd_gpt2, ids, mask)
    for site in odd.sites():
        run = odd.run(Tokens(ids, mask), capture=site.name, logits=None)
        assert list(run) == [site.name]
        got, expected = (attended(site.name, t, mask) for t in (run[site.name], want[site.name]))
        torch.testing.assert_close(got, expected, **TOLERANCE, msg=lambda m, name=site.name: f"{name}: {m}")


def test_rows_of_a_batch_equal_each_alone(pair):
    reference, model = pair
    ids, mask = padded(LENGTHS, model.config.d_vocab, seed=4)
    kinds = ["resid_post", "attn.pattern", "attn.result", "ln_final.out"]
    together = model.run(Tokens(ids, mask), capture=kinds)
    for i, n in enumerate(LENGTHS):
        alone = states(reference, ids[i : i + 1, :n], mask[i : i + 1, :n])
        for name, value in [*together.items(), ("logits", together.logits)]:
            row = value[i, :, :n, :n] if name.endswith("pattern") else value[i, :n]
            torch.testing.assert_close(row, alone[name][0], **TOLERANCE)


def test_the_whole_context(odd_gpt2, odd):
    assert_all_equal(odd_gpt2, odd, [odd.config.n_ctx])


@pytest.mark.parametrize(
    "activation", ["gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh"]
)
def test_activations(activation, saved):
    reference = random_gpt2(**ODD | {"n_layer": 1, "activation_function": activation})
    model = cutaway.load(saved(reference), device="cpu")
    ids, mask = padded([9], model.config.d_vocab)
    want = states(reference, ids, mask)
    run = model.run(ids, capture="mlp.post")
    torch.testing.assert_close(run["mlp.post"], want["blocks.0.mlp.post"], **TOLERANCE)
    torch.testing.assert_close(run.logits, want["logits"], **TOLERANCE)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("bfloat16", 0.05)])
def test_other_precisions(dtype, tolerance, odd_gpt2, odd_folder):
    """In float64 to rounding; in bfloat16 the whole pass runs and stays near its float64 values."""
    ids, mask = padded([9], ODD["vocab_size"])
    model = cutaway.load(odd_folder, device="cpu", dtype=dtype)
    want = states(random_gpt2(**ODD).double(), ids, mask)
    run = model.run(ids, capture=["resid_post", "ln1.scale", "attn.pattern"])
    for name, value in [*run.items(), ("logits", run.logits)]:
        assert value.dtype == model.dtype
        difference = (value.double() - want[name]).abs().max() / want[name].abs().max()
        assert difference < tolerance, name
