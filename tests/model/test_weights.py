"""Logits of any states, and models with other weights: against transformers."""

import copy

import pytest
import torch

import cutaway
from cutaway.errors import InputError
from tests.model.reference import ODD, padded, random_gpt2

IDS, _ = padded([7, 7], ODD["vocab_size"])
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.mark.parametrize("shape", [(2, 7, 60), (14, 60), (60,), (0, 60), (2, 1, 7, 60)])
def test_unembed_is_transformers_final_norm_and_head(odd, odd_gpt2, shape):
    states = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        normed = odd_gpt2.transformer.ln_f(states)
        want = odd_gpt2.lm_head(normed)
    torch.testing.assert_close(odd.unembed(states), want, **CLOSE)
    torch.testing.assert_close(odd.unembed(normed, normed=True), want, **CLOSE)


def test_unembed_gives_the_models_own_logits(odd):
    run = odd.run(IDS, capture=["blocks.-1.resid_post", "ln_final.out"])
    assert torch.equal(odd.unembed(run["resid_post"]), run.logits)
    assert torch.equal(odd.unembed(run["ln_final.out"], normed=True), run.logits)
    graph = odd.run(IDS, capture="resid_post", grad=True)
    assert not odd.unembed(graph["blocks.2.resid_post"]).requires_grad
    folded = odd.fold(layer_norm=True, center_unembed=True)
    got, want = (model.unembed(run["resid_post"]).log_softmax(-1) for model in (folded, odd))
    torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (torch.zeros(3, 59), r"states \[3, 59\] were given: a tensor \[\.\.\., 60\] was expected"),
        (torch.tensor(1.0), r"states \[\] were given: a tensor"),
        ([0.0] * 60, r"states list were given: a tensor \[\.\.\., 60\] was expected"),
        (torch.zeros(60).double(), r"states of torch\.float64 on cpu were given: torch\.float32 on cpu was expected"),
    ],
)
def test_states_that_cannot_be_unembedded(odd, states, message):
    with pytest.raises(InputError, match=f"^{message}"):
        odd.unembed(states)


# --- other weights ---


def theirs_with(odd_gpt2, change):
    changed = copy.deepcopy(odd_gpt2)
    with torch.no_grad():
        change(changed)
        return changed(IDS).logits


def test_a_model_with_other_weights_is_transformers_with_the_same(odd, odd_gpt2):
    before, fingerprint = odd.run(IDS).logits, odd.fingerprint
    W, b = odd.weights.blocks[1].W_out * 2, odd.weights.ln_final.b + 1
    edited = odd.with_weights({"blocks.1.W_out": W, "ln_final.b": b})

    def change(model):
        model.transformer.h[1].mlp.c_proj.weight.mul_(2)
        model.transformer.ln_f.bias.add_(1)

    torch.testing.assert_close(edited.run(IDS).logits, theirs_with(odd_gpt2, change), **CLOSE)
    assert torch.equal(odd.run(IDS).logits, before)
    assert odd.fingerprint == fingerprint != edited.fingerprint
    assert edited.tied
    assert (edited.name, edited.ends) == (f"{odd.name} (edited)", odd.ends)
    assert edited.origin == f"{odd.origin}.with_weights({{'blocks.1.W_out': ..., 'ln_final.b': ...}})"
    shared = set(odd.parameters()) - {"blocks.1.W_out", "ln_final.b"}
    for name in shared:
        assert edited.parameters()[name] is odd.parameters()[name]
    assert not edited.bundled


def test_the_same_weights_are_the_same_model(odd):
    again = odd.with_weights(odd.parameters(), name="again", origin="mine")
    assert (again.fingerprint, again.name, again.origin) == (odd.fingerprint, "again", "mine")


@pytest.mark.parametrize("given", [("W_E",), ("W_U",), ("W_E", "W_U")])
def test_a_tied_head(odd, odd_gpt2, given):
    """It follows a new embedding, unless it is given one of its own."""
    new = {name: odd.weights.W_E + 0.1 * (1 + i) for i, name in enumerate(given)}
    edited = odd.with_weights(new)
    assert edited.tied == edited.config.tied == (given == ("W_E",))

    def change(model):
        model.lm_head.weight = torch.nn.Parameter(new.get("W_U", new.get("W_E")))
        model.transformer.wte.weight = torch.nn.Parameter(new.get("W_E", odd.weights.W_E))

    torch.testing.assert_close(edited.run(IDS).logits, theirs_with(odd_gpt2, change), **CLOSE)
    assert ("W_U" in edited.parameters()) == (not edited.tied)


def test_an_untied_head_and_a_bias_that_is_absent():
    theirs = random_gpt2(**ODD, tie_word_embeddings=False)
    ours = cutaway.load(theirs, device="cpu")
    assert not ours.with_weights({"W_E": ours.weights.W_E * 2}).tied
    b = torch.arange(101.0)
    torch.testing.assert_close(ours.with_weights({"b_U": b}).run(IDS).logits, ours.run(IDS).logits + b, **CLOSE)
    folded = ours.fold(layer_norm=True)
    moved = folded.with_weights({"ln_final.b": torch.ones(60)}).run(IDS).logits
    torch.testing.assert_close(moved, folded.run(IDS).logits + folded.weights.W_U.sum(1), atol=1e-3, rtol=1e-4)


def test_weights_given_in_any_layout_are_the_models_own(odd):
    W_O = odd.weights.blocks[0].W_O
    for given in (W_O.T.contiguous().T, W_O.clone().requires_grad_()):
        edited = odd.with_weights({"blocks.0.W_O": given})
        run = edited.run(IDS, capture="attn.result")
        assert torch.equal(run["blocks.0.attn.result"], odd.run(IDS, capture="attn.result")["blocks.0.attn.result"])
        assert not run.logits.requires_grad


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, r"^\{\} was given as weights: names and tensors were expected, \{'ln_final\.b': b\}$"),
        ([1], r"^\[1\] was given as weights: names and tensors were expected, \{'ln_final\.b': b\}$"),
        ({"W_V": torch.zeros(3)}, r"'W_V' is not a weight of this model: model\.parameters\(\) lists their names"),
        ({"blocks.3.W_O": torch.zeros(60, 60)}, r"'blocks\.3\.W_O' is not a weight"),
        ({"b_U": torch.zeros(60)}, r"the weight 'b_U' is \[60\]: a tensor \[101\] was expected"),
        ({"W_pos": 0.0}, r"the weight 'W_pos' is float: a tensor \[37, 60\] was expected"),
        (
            {"ln_final.b": torch.zeros(60).half()},
            r"the weight 'ln_final\.b' is torch\.float16 on cpu: torch\.float32 on",
        ),
    ],
)
def test_weights_that_cannot_be(odd, weights, message):
    with pytest.raises(InputError, match=f"^{message}"):
        odd.with_weights(weights)
