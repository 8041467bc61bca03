"""Continuing texts: greedily as transformers does, and sampling as its filters say."""

import copy
import json
import re

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

import cutaway
from cutaway.errors import InputError, SiteError
from cutaway.model.architectures import gpt2
from cutaway.model.generate import choose, steps
from cutaway.text.tokens import Tokens
from tests.model.reference import ODD, padded, random_gpt2
from tests.model.test_config import configurations
from tests.test_tokens import copy_vocabulary

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
    read, real = [], gpt2.embed
    monkeypatch.setattr(gpt2, "embed", lambda w, ids, tap: read.append(ids.shape[1]) or real(w, ids, tap))
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


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, {0}), (0.5, {0, 1}), (0.75, {0, 1, 2}), (0.51, {0, 1, 2})])
def test_top_p_stops_at_the_token_with_which_it_is_reached(top_p, kept):
    """Four equal tokens, whose probabilities add up without rounding: to exactly top_p is enough."""
    drawn = choose(torch.zeros(200, 4), 1.0, None, top_p, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == kept


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


@pytest.fixture(scope="module")
def lively():
    """A model whose greedy continuation of IDS[2:] does not repeat itself at once."""
    return random_gpt2(7, **ODD | {"tie_word_embeddings": False})


def theirs_until_the_end(model, n=6):
    """What transformers continues with, by its own generation config."""
    ids = IDS[2:]
    found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n, pad_token_id=0)
    return found[0].tolist()[9:]


@pytest.mark.parametrize("where", ["config.json", "generation_config.json", "both", "live"])
@pytest.mark.parametrize("several", [False, True])
def test_the_end_that_the_checkpoint_declares(lively, saved, where, several):
    """As transformers ends: by generation_config.json where it is there, else by config.json."""
    unended = theirs_until_the_end(lively)
    end, other = unended[3], unended[1]
    assert len(set(unended[:4])) == 4
    declared, theirs = [100, end] if several else end, copy.deepcopy(lively)
    theirs.generation_config.eos_token_id = declared
    if where == "live":
        ours = cutaway.load(theirs, device="cpu")
    else:
        folder = saved(theirs)
        config = json.loads((folder / "config.json").read_text())
        config["eos_token_id"] = declared if where == "config.json" else other
        (folder / "config.json").write_text(json.dumps(config))
        if where == "config.json":
            (folder / "generation_config.json").unlink()
        theirs = type(theirs).from_pretrained(folder).eval()
        ours = cutaway.load(folder, device="cpu")
    want = theirs_until_the_end(theirs)
    assert want == unended[:4]
    assert ours.generate(IDS[2:], 6, temperature=0).tokens.rows()[0][9:] == want
    folded = ours.fold(center_unembed=True)
    assert folded.ends == ours.ends == ((100, end) if several else (end,))
    assert ours.generate(IDS[2:], 6, temperature=0, stop=False).tokens.rows()[0][9:] == unended


def test_an_end_outside_the_vocabulary_ends_nothing(odd, odd_folder):
    assert json.loads((odd_folder / "config.json").read_text())["eos_token_id"] == 50256
    assert odd.ends == ()


@pytest.fixture
def padded_model(tmp_path):
    """GPT-2's vocabulary padded to 50,304, and a head that likes the padding best."""
    copy_vocabulary(tmp_path)
    theirs = random_gpt2(n_embd=8, n_head=2, n_layer=1, n_positions=32, vocab_size=50304)
    with torch.no_grad():
        theirs.transformer.ln_f.bias.fill_(1.0)
        theirs.transformer.ln_f.weight.fill_(0.0)
        theirs.transformer.wte.weight[50300] = 9.0
    theirs.save_pretrained(tmp_path)
    return cutaway.load(tmp_path, device="cpu")


def test_the_padding_of_a_vocabulary(padded_model):
    model = padded_model
    generated = model.generate("Hello world", 3, temperature=0)
    assert generated.tokens.rows() == [[15496, 995, 50300, 50300, 50300]]
    assert str(generated) == "Hello world[50300][50300][50300]"
    assert generated.tokens.strings[0] == generated.tokens.display[0][:1] + [" world"] + ["[50300]"] * 3
    [step, *_] = list(steps(model, "Hello world", 3, temperature=0))
    assert step.ids == [50300]
    assert "[50300]" in model.predict("Hello world", top=1).summary()
    made = cutaway.attribution.direct(model, "Hello world", 50300)
    assert "[50300]" in made.summary()
    tokens = model.tokens(torch.tensor([[15496, 50300, 50303]]))
    assert (tokens.strings, tokens.display) == ([["Hello", "[50300]", "[50303]"]],) * 2
    assert "[50303]" in cutaway.predictions.along(model, tokens).table().to_json()
    assert cutaway.logit_lens.read(model, tokens).summary()


def test_bos_is_the_checkpoints_own(tmp_path):
    """tokenizer_config.json names it, else generation_config.json or config.json does, else it is <|endoftext|>."""
    from transformers import AutoTokenizer

    copy_vocabulary(tmp_path)
    theirs = random_gpt2(n_embd=8, n_head=2, n_layer=1, n_positions=32, vocab_size=50260)
    theirs.save_pretrained(tmp_path)

    def front():
        model = cutaway.load(tmp_path, device="cpu")
        [row] = model.tokens("Hello", bos=True).rows()
        assert model.generate("Hello", 2, temperature=0, bos=True, stop=False).texts[0].startswith("Hello")
        return row

    assert front() == [50256, 15496]
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"bos_token_id": 50255}))
    assert front() == [50255, 15496]
    (tmp_path / "generation_config.json").write_text(json.dumps({"bos_token_id": 50254}))
    assert front() == [50254, 15496]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    assert front() == [AutoTokenizer.from_pretrained(tmp_path).bos_token_id, 15496] == [50257, 15496]


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
        ({"max_new_tokens": 2.0}, "max_new_tokens=2.0: a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens=True: a whole number"),
        ({"temperature": None}, "temperature=None: a number of at least 0"),
        ({"temperature": float("inf")}, "temperature=inf: a number of at least 0"),
        ({"top_k": 2.5}, "top_k=2.5: a whole number of at least 1"),
        ({"top_k": True}, "top_k=True: a whole number of at least 1"),
        ({"top_p": "0.9"}, "top_p='0.9': a number above 0 and at most 1"),
        ({"top_p": float("nan")}, "top_p=nan: a number above 0 and at most 1"),
        ({"seed": -1}, "seed=-1: a whole number from 0 to 2**64 - 1 was expected"),
        ({"seed": 2**64}, "seed=18446744073709551616: a whole number from 0 to 2**64 - 1"),
        ({"seed": None}, "seed=None: a whole number from 0 to 2**64 - 1"),
    ],
)
def test_arguments_out_of_range(odd, options, message):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        odd.generate(IDS[2:], **{"max_new_tokens": 5} | options)
    assert odd.generate(IDS[2:], 28).tokens.ids.shape == (1, 37)


def greedy(model, ids, steps, **edits):
    """One token at a time, each from a pass over the whole text, by nothing but run()."""
    for _ in range(steps):
        following = model.run(ids, **edits).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], 1)
    return ids[0].tolist()


@settings(max_examples=20, deadline=None)
@given(configurations(), st.integers(0, 99), st.data())
def test_any_configuration_continues_as_its_forward_says(config, seed, data):
    """In float64, where no two logits are near enough to trade places; prompts of mixed lengths as each alone."""
    config |= {"n_positions": 12}
    model = cutaway.load(random_gpt2(seed, **config), device="cpu", dtype="float64")
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    ids, mask = padded(lengths, config["vocab_size"], seed)
    rows = model.generate(Tokens(ids, mask), 6, temperature=0).tokens.rows()
    assert rows == [greedy(model, row[None, :n], 6) for row, n in zip(ids, lengths, strict=True)]


def test_the_bundled_model_in_either_precision(bundled):
    wide = cutaway.load(device="cpu", dtype="float64")
    for model in (bundled, wide):
        ids = model.tokens("My fellow citizens", bos=True).ids
        assert model.generate(ids, 16, temperature=0, stop=False).tokens.rows() == [greedy(model, ids, 16)]


def test_the_narrowest_choice_is_the_greedy_one(bundled):
    want = bundled.generate("The people", 12, temperature=0).texts
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-300}, {"top_k": 1, "temperature": 50.0}):
        assert bundled.generate("The people", 12, seed=5, **options).texts == want


def test_a_seed_is_a_text(bundled):
    def texts(seed):
        return bundled.generate(["The people", "We"], 12, seed=seed).texts

    assert texts(1) == texts(1)
    assert len({tuple(texts(seed)) for seed in range(5)}) == 5
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    texts(2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, None, None), (0.7, 6, None), (1.3, None, 0.8), (1.0, 8, 0.9)]
)
def test_counts_agree_with_the_probabilities(temperature, top_k, top_p):
    """Pearson's chi-square of 20,000 choices against probabilities computed here by hand."""
    generator = torch.Generator().manual_seed(11)
    logits, n = 1.5 * torch.randn(12, generator=generator, dtype=torch.float64), 20_000
    p = np.exp(logits.numpy() / temperature)
    order = np.argsort(-p)
    p[order[top_k or 12 :]] = 0
    p /= p.sum()
    reached = np.cumsum(p[order])
    p[order[1:][reached[:-1] >= (top_p or 2)]] = 0
    p /= p.sum()
    counts = choose(logits.expand(n, -1), temperature, top_k, top_p, generator).bincount(minlength=12).numpy()
    assert counts[p == 0].sum() == 0
    assert scipy.stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 0.01
    wrong = np.roll(p[p > 0], 1)
    assert scipy.stats.chisquare(counts[p > 0], n * wrong).pvalue < 1e-6


def test_rows_of_a_batch_choose_on_their_own():
    """Each by its own probabilities, and not all by the same chance."""
    generator = torch.Generator().manual_seed(12)
    logits = torch.zeros(4000, 2)
    logits[2000:, 0] = 2.0
    chosen = choose(logits, 1.0, None, None, generator).double()
    assert chosen[:2000].mean().item() == pytest.approx(0.5, abs=0.05)
    assert chosen[2000:].mean().item() == pytest.approx(1 / (1 + np.exp(2)), abs=0.03)


def test_equal_logits_give_the_lowest_id():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    assert choose(logits, 0, None, None, torch.Generator()).tolist() == [1, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_none(odd, value):
    for temperature in (0, 1.0):
        with pytest.raises(InputError, match=r"^the logits hold NaN or infinity, so no token can be chosen"):
            odd.generate(IDS[2:], 3, temperature=temperature, edits={"blocks.2.resid_post": value})


def test_a_token_that_an_edit_forbids_is_never_chosen(odd):
    def forbid(value, ctx):
        value[..., ::2] = -torch.inf
        return value

    with odd.edited({"logits": forbid}):
        rows = [
            odd.generate(IDS[2:], 20, **options).tokens.rows()[0][9:] for options in ({"temperature": 0}, {"seed": 1})
        ]
    assert all(token % 2 for row in rows for token in row)


def test_edits_reach_what_was_read_before(odd):
    """An edit of the prompt's own positions holds at every step, as in a pass over the whole text."""

    def first_two(value, ctx):
        value[:, :2] = 0.7
        return value

    edits = {"blocks.0.resid_post": first_two}
    rows = odd.generate(IDS[2:], 10, temperature=0, edits=edits).tokens.rows()
    assert rows == [greedy(odd, IDS[2:], 10, edits=edits)]
    assert rows != odd.generate(IDS[2:], 10, temperature=0).tokens.rows()


def test_a_wrong_site_fails_before_anything_runs(odd, monkeypatch):
    monkeypatch.setattr(gpt2, "embed", None)
    with pytest.raises(SiteError, match=r"^no site matches 'attn_uot'"):
        odd.generate(IDS[2:], 3, capture="attn_uot")


def test_step_by_step_is_the_same(bundled):
    """Texts of several lengths, one of which ends early."""
    prompts = ["The people of the United", "I", "Amen"]
    end = bundled.tokenizer.end_of_text

    def ending(logits, ctx):
        logits[1, :, end] = 1e4  # at its first step
        return logits

    for sampling in ({"temperature": 0.0}, {"top_k": 30, "seed": 5}):
        with bundled.edited({"logits": ending}):
            made = bundled.generate(prompts, 6, **sampling)
            found = list(steps(bundled, prompts, 6, **sampling))
        ids = [[step.ids[i] for step in found if step.ids[i] is not None] for i in range(3)]
        assert [row[n:] for row, n in zip(made.tokens.rows(), made.prompt_lengths, strict=True)] == ids
        assert [step.ids[1] for step in found] == [end, None, None, None, None, None]
        for step in found:
            for i, (token, p) in enumerate(zip(step.ids, step.probabilities(), strict=True)):
                assert (token is None) == (p is None)
                assert p is None or p == pytest.approx(step.logits[i].double().softmax(-1)[token].item())


def test_steps_check_before_the_first(bundled):
    for wrong in ({"temperature": -1}, {"top_k": 0}, {"seed": -1}):
        with pytest.raises(InputError):
            steps(bundled, "a", 3, **wrong)
    with pytest.raises(InputError, match="exceed the context"):
        steps(bundled, "a", 512)
