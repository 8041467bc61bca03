"""verify: its claims hold of a sound model, fail of an unsound one, and its differences are transformers' own."""

import copy

import pytest
import torch

import cutaway
from cutaway.errors import InputError


def claims(result):
    return {row.claim: row for row in result.table().itertuples()}


def test_all_holds_of_the_bundled_model(bundled, hf):
    result = cutaway.verify(bundled, hf())
    assert result.holds
    assert len(result.items) == 6
    assert result.summary().count("\n") == 5
    assert all(line.startswith("yes ") for line in result.summary().splitlines())


def test_differences_are_measured_against_the_reference(bundled64, hf):
    text = "The people of the United States"
    ids = torch.tensor(bundled64.tokenizer.encode([text])[0])
    other = copy.deepcopy(hf(torch.float64))
    with torch.no_grad():
        other.transformer.ln_f.bias += 0.01
        ours, theirs = hf(torch.float64)(ids).logits, other(ids).logits
    found = claims(cutaway.verify(bundled64, other, text=text))
    assert found["logits equal the reference's"].measured == pytest.approx((ours - theirs).abs().max().item(), rel=1e-6)
    moved = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max().item()
    assert found["log-probabilities equal the reference's"].measured == pytest.approx(moved, rel=1e-6)
    assert not found["logits equal the reference's"].holds


def test_an_output_that_sees_the_future_is_found(bundled):
    def look_ahead(value, ctx):
        return value + value.mean(1, keepdim=True)

    with bundled.edited({"blocks.0.resid_post": look_ahead}):
        result = cutaway.verify(bundled)
    assert not result.holds
    assert not claims(result)["changing later tokens changes no earlier output"].holds
    assert "NO  changing later tokens changes no earlier output" in result.summary()


def test_an_output_that_ignores_its_token_is_found(bundled):
    with bundled.edited({"embed": 0.0}):
        found = claims(cutaway.verify(bundled))
    assert found["changing a token changes the output at it"].measured == 0
    assert not found["changing a token changes the output at it"].holds


@pytest.mark.parametrize("n", [2, 3, 4, 5, 512])
def test_texts_of_any_length(bundled, n):
    result = cutaway.verify(bundled, text=torch.arange(n)[None])
    assert result.holds, result.summary()


def test_a_head_of_its_own_is_said_to_be_one(wordless):
    result = cutaway.verify(wordless[0])
    assert result.holds
    assert claims(result)["the head is a matrix of its own (untied)"].measured > 0


def test_mistakes_are_named(bundled, wordless):
    with pytest.raises(InputError, match="verify needs a text of at least two tokens"):
        cutaway.verify(bundled, text="a")
    with pytest.raises(InputError, match="the reference has 101 vocabulary entries, this model has 8,192"):
        cutaway.verify(bundled, wordless[1])


def test_the_call_says_what_it_was_given(bundled, hf):
    assert cutaway.verify(bundled).meta["call"].endswith("cutaway.verify(model, seed=0)")
    result = cutaway.verify(bundled, hf(), text="The people of", seed=3)
    assert result.meta["call"].endswith("cutaway.verify(model, hf_model, text='The people of', seed=3)")
    assert result.meta["input"] == "The people of"
