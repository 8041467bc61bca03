"""Continuing texts: greedily as transformers does, and sampling as its filters say."""

import re

import pytest
import torch
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

import cutaway
from cutaway.errors import InputError
from cutaway.model import gpt2
from cutaway.model.generate import choose
from cutaway.tokens import Tokens
from tests.model.reference import ODD, padded, random_gpt2

LENGTHS = [4, 1, 9]
IDS, MASK = padded(LENGTHS, ODD["vocab_size"], seed=8)


@pytest.mark.parametrize("config", [{}, {"reorder_and_upcast_attn": True}, {"tie_word_embeddings": False}])
def test_greedy_equals_transformers(config, saved):
    theirs = random_gpt2(**ODD | config)
    model = cutaway.load(saved(theirs), device="cpu")
    ours = model.generate(Tokens(IDS, MASK), 12, temperature=0)
    assert ours.prompt_lengths == LENGTHS
    for row, prompt, n in zip(ours.tokens.rows(), IDS, LENGTHS, strict=True):
        ids = prompt[None, :n]
        options = {
            "do_sample": False,
            "max_new_tokens": 12,
            "pad_token_id": 0,
            "eos_token_id": None,
            "bos_token_id": None,
        }
        assert row == theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].tolist()


def test_with_and_without_the_cache(odd):
    """An identity edit makes every step read the whole text again."""
    for seed in range(3):
        cached = odd.generate(Tokens(IDS, MASK), 20, seed=seed)
        whole = odd.generate(Tokens(IDS, MASK), 20, seed=seed, edits={"embed": lambda value, ctx: None})
        assert cached.tokens.rows() == whole.tokens.rows()
        assert cached.tokens.rows() != odd.generate(Tokens(IDS, MASK), 20, seed=seed + 1).tokens.rows()


def test_a_step_reads_one_position(odd, monkeypatch):
    read, real = [], gpt2.forward
    monkeypatch.setattr(gpt2, "forward", lambda w, c, ids, *rest: read.append(ids.shape[1]) or real(w, c, ids, *rest))
    odd.generate(IDS[2:], 5)
    assert read == [9, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(None, None), (5, None), (None, 0.7), (20, 0.5), (1, None), (None, 1e-9), (999, 1.0)]
)
def test_sampling_follows_the_filtered_distribution(top_k, top_p):
    generator = torch.Generator().manual_seed(9)
    logits, temperature, n = 3 * torch.randn(1, 101, generator=generator), 1.5, 40_000
    filters = [TopKLogitsWarper(top_k)] if top_k else []
    filters += [TopPLogitsWarper(top_p)] if top_p and top_p < 1 else []
    want = LogitsProcessorList(filters)(None, logits.double() / temperature).softmax(-1)[0]
    got = choose(logits.expand(n, -1), temperature, top_k, top_p, generator).bincount(minlength=101) / n
    assert got[want == 0].sum() == 0
    assert (got - want).abs().max() < 5 * (0.25 / n) ** 0.5


def test_edits_hold_at_every_step(odd):
    """With the last block's output fixed, every step chooses by the same logits."""
    state = odd.run(IDS[:1], capture="blocks.2.resid_post")["resid_post"][:, -1:]
    favourite = odd.run(IDS[:1], logits="last").logits.argmax().item()
    edits = {"blocks.2.resid_post": state}
    assert odd.generate(IDS[2:], 5, temperature=0, edits=edits).tokens.rows()[0][9:] == [favourite] * 5
    with odd.edited(edits):
        assert odd.generate(IDS[2:], 5, temperature=0).tokens.rows()[0][9:] == [favourite] * 5


def test_captures_are_of_the_finished_texts(odd):
    generated = odd.generate(IDS[2:], 5, capture=["attn_out", "logits"])
    run = odd.run(generated.tokens, capture="attn_out")
    assert torch.equal(generated.run["blocks.1.attn_out"], run["blocks.1.attn_out"])
    assert generated.run["logits"].shape == (1, 14, 101)
    assert odd.generate(IDS[2:], 5).run is None


def test_texts_of_the_bundled_model(bundled):
    prompts = ["The people of the United", "We"]
    generated = bundled.generate(prompts, 8, temperature=0, bos=True)
    assert generated.texts[0].startswith("The people of the United States")
    assert [p + c for p, c in zip(prompts, generated.continuations, strict=True)] == generated.texts
    assert str(generated) == "\n\n".join(generated.texts)
    assert bundled.generate("We", 8, temperature=0, bos=True).texts == generated.texts[1:]


def test_it_stops_at_the_end_of_text(bundled):
    """A row that has ended stays as it was while the others go on."""

    def end_first(value, ctx):
        value[0, :, 8191] = 1e4
        return value

    texts = ["The people", "The people of"]
    with bundled.edited({"logits": end_first}):
        generated = bundled.generate(texts, 6, temperature=0)
        assert [row[-1] == 8191 for row in generated.tokens.rows()] == [True, False]
        assert (generated.tokens.lengths - torch.tensor(generated.prompt_lengths)).tolist() == [1, 6]
        assert generated.texts[0] == "The people"
        assert bundled.generate(texts, 6, temperature=0, stop=False).tokens.rows()[0][2:] == [8191] * 6
    assert generated.texts[1] == bundled.generate(texts[1], 6, temperature=0).texts[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0: a whole number of at least 1 was expected"),
        ({"max_new_tokens": 29}, "9 tokens and 29 new ones exceed the context of 37: at most 28 new tokens fit"),
        (
            {"temperature": -1.0},
            "temperature=-1.0: a number of at least 0 (0 takes the most likely token) was expected",
        ),
        ({"temperature": float("nan")}, "temperature=nan: a number of at least 0"),
        ({"top_k": 0}, "top_k=0: a whole number of at least 1 was expected"),
        ({"top_p": 0.0}, "top_p=0.0: a number above 0 and at most 1 was expected"),
        ({"top_p": 1.1}, "top_p=1.1: a number above 0 and at most 1 was expected"),
    ],
)
def test_arguments_out_of_range(odd, options, message):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        odd.generate(IDS[2:], **{"max_new_tokens": 5} | options)
    assert odd.generate(IDS[2:], 28).tokens.ids.shape == (1, 37)
