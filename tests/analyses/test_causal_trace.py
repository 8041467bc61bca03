"""Causal tracing against ROME's loop, written plainly with transformers' modules and hooks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from cutaway import causal_trace
from cutaway.analyses.causal_trace.average import role_positions
from cutaway.analyses.causal_trace.engine import Tracer
from cutaway.analyses.causal_trace.noise import draw_noise, noise_level
from cutaway.analyses.causal_trace.prompt import read_prompt
from cutaway.analyses.causal_trace.restorations import restorations
from cutaway.analyses.causal_trace.result import percent
from cutaway.errors import InputError, Interrupted, TokenizerError
from cutaway.model.architectures import gpt2
from tests.model.reference import ODD, random_gpt2
from tests.tracing import rome

KINDS = causal_trace.KINDS
TEXT = "The people of the United"
N = 9  # tokens of the odd model's prompt
IDS = torch.randint(0, ODD["vocab_size"], (1, N), generator=torch.Generator().manual_seed(5))
NO_ENDS = {"bos_token_id": None, "eos_token_id": None}
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Return an odd model of five layers: ours and transformers'."""
    theirs = random_gpt2(**ODD | {"n_layer": 5}).eval()
    folder = tmp_path_factory.mktemp("odd")
    theirs.save_pretrained(folder)
    return cutaway.load(folder, device="cpu"), theirs


def plain(theirs, found, noise):
    """Return the scores of every cell of a trace, [kind, position, layer, sample], by ROME's loop."""
    kinds, n, layers, samples = found.log_probabilities.shape
    scores = torch.empty(kinds, n, layers, samples, dtype=torch.float64)
    for k, kind in enumerate(found.kinds):
        for p in range(n):
            for layer in range(layers):
                w = found.windows[k]
                window = range(max(0, layer - w // 2), min(layers, layer - (-w // 2)))
                scores[k, p, layer] = rome(theirs, found.ids, found.answer, found.subject, noise, kind, window, p)
    return scores


def noise_of(found, seed=0, distribution="gaussian"):
    samples, width = found.log_probabilities.shape[3], ODD["n_embd"]
    return found.sigma * draw_noise(distribution, seed, samples, found.subject, width)


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("subject", [range(2), range(3, 5), range(7, 9)])
@pytest.mark.parametrize("answer", [None, [7, 50, 3]])
def test_scores_are_romes(odd, window, subject, answer):
    ours, theirs = odd
    found = causal_trace.trace(ours, IDS, subject, answer, window=window, samples=3, noise=1.0)
    expected = plain(theirs, found, noise_of(found))
    torch.testing.assert_close(found.log_probabilities, expected, **CLOSE)
    torch.testing.assert_close(found.probability, expected.exp().mean(-1), **CLOSE)
    clean = rome(theirs, found.ids, found.answer, subject, 0 * noise_of(found), "resid_post", [], 0)
    assert found.clean_log_probability == pytest.approx(clean[0].item(), abs=1e-5)
    hidden = rome(theirs, found.ids, found.answer, subject, noise_of(found), "resid_post", [], 0)
    torch.testing.assert_close(found.corrupted_log_probabilities, hidden, **CLOSE)
    assert found.corrupted_log_probabilities.std() > 0.1  # there is something to restore
    assert found.computed < found.plain / 2


def test_scores_are_romes_on_real_text(bundled, hf):
    found = causal_trace.trace(bundled, TEXT, "people", " States", window=2, samples=2, distribution="uniform", seed=4)
    noise = found.sigma * draw_noise("uniform", 4, 2, found.subject, 256)
    torch.testing.assert_close(found.log_probabilities, plain(hf(), found, noise), **CLOSE)
    assert found.tokens == ["The", " people", " of", " the", " United"]
    assert (found.subject, found.answer_text, found.display_answer) == (range(1, 2), " States", "·States")


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, unique=True),
    window=st.integers(1, 5),
    start=st.integers(0, 7),
    samples=st.integers(1, 4),
    budget=st.sampled_from([1, 40_000, 300_000, 1 << 28]),
    answer=st.sampled_from([None, [3, 5]]),
)
def test_batches_and_kinds_change_nothing(odd, kinds, window, start, samples, budget, answer):
    """Whatever is traced together, in parts of any size, noise and scores are the same, and the cost is known."""
    ours, _ = odd
    subject = range(start, start + 2)
    whole = causal_trace.trace(ours, IDS, subject, answer, window=window, samples=4, noise=1.0)
    part = causal_trace.trace(
        ours, IDS, subject, answer, kinds, window=window, samples=samples, noise=1.0, budget=budget
    )
    chosen = whole.log_probabilities[[KINDS.index(kind) for kind in kinds]][..., :samples]
    torch.testing.assert_close(part.log_probabilities, chosen, **CLOSE)
    noise = noise_of(whole)
    tracer = Tracer(ours, [*IDS[0].tolist(), *part.answer[:-1]], part.answer, subject, noise[:samples])
    of = [cell for kind, w in zip(part.kinds, part.windows, strict=True) for cell in restorations(kind, 5, w)]
    assert tracer.computed + sum(tracer.cost(p, of) for p in range(N)) == part.computed


def test_only_a_budgets_worth_runs_at_once(odd, monkeypatch):
    ours, _ = odd
    rows = []
    inner = Tracer._run_rows
    monkeypatch.setattr(
        Tracer,
        "_run_rows",
        lambda self, layer, p, x, *rest: rows.append(len(x)) or inner(self, layer, p, x, *rest),
    )
    for budget, most in ((1, 1), (1 << 28, 1000)):
        rows.clear()
        causal_trace.trace(ours, IDS, range(5, 7), samples=6, budget=budget)
        assert max(rows) <= most
    assert max(rows) > 50  # all rows there are


def test_in_a_clean_run_nothing_changes(bundled):
    found = causal_trace.trace(bundled, TEXT, "people", noise=0.0, samples=2, window=3)
    expected = torch.full_like(found.log_probabilities, found.clean_log_probability)
    torch.testing.assert_close(found.log_probabilities, expected, **CLOSE)
    assert found.total_effect == pytest.approx(0, abs=1e-6)


def test_everything_restored_gives_the_clean_answer(bundled, tmp_path):
    """What leaves the last block at the end is all that the answer is read from, and what attention writes there in
    all layers is all that it learns of others. Where only the last token is hidden, its state at any layer is all that
    is wrong; and where nobody looks at the subject in the first layer, its state behind that layer is."""
    found = causal_trace.trace(bundled, "We ask the Congress to", "Congress", samples=3)
    assert found.corrupted < 0.9 * found.clean
    torch.testing.assert_close(found.log_probabilities[0, -1, -1], clean(found)[0], **CLOSE)

    every = causal_trace.trace(bundled, "We ask the Congress to", "Congress", samples=3, window=4)
    cells = [restorations(kind, 4, 4)[2] for kind in every.kinds]
    assert [(cell.first, cell.end) for cell in cells] == [(0, 4)] * 3
    torch.testing.assert_close(every.log_probabilities[2, -1, 2], clean(every)[0], **CLOSE)

    last = causal_trace.trace(bundled, TEXT, "United", samples=3, noise=6.0)
    assert last.corrupted < 0.5 * last.clean
    torch.testing.assert_close(last.log_probabilities[0, -1], clean(last), **CLOSE)

    theirs = random_gpt2(**ODD)
    with torch.no_grad():
        theirs.transformer.h[0].attn.c_proj.weight.zero_()
    theirs.save_pretrained(tmp_path)
    for answer in (None, [7, 50, 3]):
        blind = causal_trace.trace(cutaway.load(tmp_path, device="cpu"), IDS, range(3, 4), answer, samples=3)
        assert abs(blind.corrupted_log_probabilities - blind.clean_log_probability).min() > 0.01
        torch.testing.assert_close(blind.log_probabilities[0, 3, 0], clean(blind)[0], **CLOSE)


def clean(found):
    """Return the clean run's score, [layer, sample]."""
    return torch.full(found.log_probabilities.shape[2:], found.clean_log_probability, dtype=torch.float64)


def test_cells_that_nothing_reaches_have_the_corrupted_score(bundled):
    found = causal_trace.trace(bundled, TEXT, "of", samples=2)
    for cells in (found.log_probabilities[:, :2], found.log_probabilities[:, :-1, -1]):
        assert (cells == found.corrupted_log_probabilities).all()


@pytest.mark.slow
def test_edits_hold(bundled, hf):
    """Beside ROME's loop on a transformers model with the same changes."""
    theirs, layer = hf(), 1

    def later(value, ctx):  # which looks at what comes behind it
        return value + 0.2 * value.flip(1)

    hooks = [
        theirs.transformer.h[layer].mlp.register_forward_hook(lambda m, i, o: 0.5 * o),
        theirs.transformer.h[2].register_forward_hook(lambda m, i, o: o + 0.2 * o.flip(1)),
    ]
    halved = {"blocks.1.mlp_out": lambda value, ctx: 0.5 * value}
    try:
        with bundled.edited(halved), bundled.edited({"blocks.2.resid_post": later}):
            found = causal_trace.trace(bundled, TEXT, "people", " States of", window=2, samples=2)
            expected = plain(theirs, found, found.sigma * draw_noise("gaussian", 0, 2, range(1, 2), 256))
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(found.log_probabilities, expected, **CLOSE)
    assert "model.edited" in found.meta["call"]


# --- a model whose fact is known ---


def planted(folder, at_layer=2):
    """Return a model whose tokens are unit vectors and whose fact is in one MLP.

    At the position of token 5 only, that MLP writes a vector of its own; the last layer's head, which attends evenly,
    turns this vector into the one that is unembedded as token 9.
    """
    model = random_gpt2(n_embd=32, n_head=1, n_inner=4, n_layer=4, vocab_size=12, n_positions=16, **NO_ENDS)
    w = model.transformer
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (w.ln_f, *(n for block in w.h for n in (block.ln_1, block.ln_2))):
            norm.weight.fill_(1.0)
        w.wte.weight[:, :12] = 4 * torch.eye(12)
        block = w.h[at_layer]
        block.mlp.c_fc.weight[5, 0] = 10.0  # the neuron reads the subject's own direction
        block.mlp.c_fc.bias[0] = -40.0
        block.mlp.c_proj.weight[0, 20] = 20.0  # and writes one that no token has
        after = w.h[3]  # whose only head attends evenly and moves that direction to the answer's
        after.attn.c_attn.weight[20, 64 + 20] = 1.0
        after.attn.c_proj.weight[20, 9] = 30.0
    model.save_pretrained(folder)
    return cutaway.load(folder, device="cpu")


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_planted_fact_lights_its_cell(tmp_path, layer):
    model = planted(tmp_path, layer)
    ids = torch.tensor([[1, 5, 2, 3]])
    found = causal_trace.trace(model, ids, range(1, 2), [9], samples=5, noise=10.0, window=1)
    assert found.clean > 0.9
    assert found.corrupted < 0.21
    mlp = found.effect[KINDS.index("mlp_out")]
    assert found.strongest("mlp_out")[:2] == (1, layer)
    lit = mlp[1, layer].item()
    assert lit > 0.7
    mlp[1, layer] = 0
    assert mlp.abs().max() < 0.05 * lit  # and no other
    attention = found.effect[KINDS.index("attn_out")]
    assert found.strongest("attn_out")[:2] == (3, 3)  # it is read at the end, in the last layer
    attention[3, 3] = 0
    assert attention.abs().max() < 0.05
    stream = found.effect[0] > 0.5 * found.total_effect
    assert stream[1, :3].all()  # at the subject up to there
    assert stream[3].tolist() == [False] * 3 + [True]
    assert stream.sum() == 4


# --- noise ---


def test_noise_depends_on_seed_sample_and_position_alone():
    many = draw_noise("gaussian", 3, 6, range(2, 5), 40)
    torch.testing.assert_close(draw_noise("gaussian", 3, 2, range(3, 5), 40), many[:2, 1:])
    assert len(many.flatten().unique()) == many.numel()
    assert not torch.equal(draw_noise("gaussian", 4, 6, range(2, 5), 40), many)
    large = draw_noise("gaussian", 0, 50, range(4), 500)
    assert abs(large.mean()) < 0.02
    assert large.std() == pytest.approx(1, abs=0.01)
    uniform = draw_noise("uniform", 0, 50, range(4), 500)
    assert 0.99 < uniform.abs().max() < 1
    assert uniform.std() == pytest.approx(1 / math.sqrt(3), abs=0.01)


def test_the_level_is_the_spread_of_the_subjects_embeddings(bundled):
    table = bundled.weights.W_E.double().numpy()
    prompt = read_prompt(bundled, TEXT, "people of", None)
    own = bundled.tokenizer.encode([" people of"])[0][0]
    assert noise_level(bundled, prompt, 3.0, None) == pytest.approx(3 * table[own].std(ddof=1))
    others = ["Congress", "the war in Cuba"]
    rows = np.concatenate([table[ids] for ids in bundled.tokenizer.encode(others)[0]])
    assert noise_level(bundled, prompt, 2.0, others) == pytest.approx(2 * rows.std(ddof=1))
    found = causal_trace.trace(bundled, TEXT, "people", noise=2.0, noise_from=others, samples=1)
    assert found.sigma == pytest.approx(2 * rows.std(ddof=1))
    assert found.probability_sd.isnan().all()


def test_the_level_of_an_untied_model_is_that_of_what_it_reads():
    theirs = random_gpt2(**ODD, tie_word_embeddings=False)
    with torch.no_grad():
        theirs.lm_head.weight.mul_(5)
    found = causal_trace.trace(cutaway.load(theirs, device="cpu"), IDS, range(2, 5), noise=2.0, samples=1)
    read = theirs.transformer.wte.weight[IDS[0, 2:5]].detach().double().numpy()
    assert found.sigma == pytest.approx(2 * read.std(ddof=1), rel=1e-6)


def test_small_probabilities_are_told_apart(odd):
    ours, _ = odd
    found = causal_trace.trace(ours, IDS, range(2), [7, 50, 3, 9], samples=2)
    assert 0 < found.clean < 1e-3
    assert percent(found.clean) == f"{100 * found.clean:.2g}%" in found.summary()
    assert percent(found.clean) in found.caption()
    assert [percent(p) for p in (0.6836, 0.00104, 0.000104, 2.1e-5, 0.0)] == [
        "68.4%", "0.1%", "0.01%", "0.0021%", "0.0%",
    ]  # fmt: skip


# --- subjects ---

HARD = "Café 東京タワー, the tower; the 東京 of the party"


@pytest.mark.parametrize(
    ("subject", "occurrence", "words"),
    [
        ("Café", None, "Café"),
        ("東京", 0, "東京"),
        ("東京", 1, "東京"),
        ("タワー", None, "タワー"),
        (" tower ", None, "tower"),
        ("the", -1, "the"),
        ("art", None, "art"),
        ((5, 10), None, "東京タワー"),
        ((11, 20), None, " the towe"),
    ],
)
def test_a_subject_is_every_token_that_has_a_character_of_it(bundled, subject, occurrence, words):
    prompt = read_prompt(bundled, HARD, subject, None, occurrence)
    if isinstance(subject, tuple):
        start, end = subject
    else:
        places = [i for i in range(len(HARD)) if HARD.startswith(words, i)]
        start = places[occurrence or 0]
        end = start + len(words)
    assert HARD[start:end] == words
    offsets = bundled.tokenizer.encode([HARD])[1][0]
    touching = [i for i, (a, b) in enumerate(offsets) if any(start <= c < end for c in range(a, b))]
    assert list(prompt.subject) == touching
    raw = b"".join(bundled.tokenizer.bytes(prompt.ids[i]) for i in prompt.subject)
    assert words.encode() in raw


def test_whole_words_come_before_parts_of_others(bundled):
    text = "The party of art and arts"
    offsets = bundled.tokenizer.encode([text])[1][0]
    [place] = [i for i, (a, b) in enumerate(offsets) if a <= text.index(" art ") + 1 < b]
    assert read_prompt(bundled, text, "art", None).subject == range(place, place + 1)
    assert read_prompt(bundled, text, "art", None, 0).subject == range(place, place + 1)
    assert read_prompt(bundled, text, "part", None).subject == range(1, 2)


def test_a_prompt_may_be_tokens_that_are_not_all_of_their_text(bundled):
    tokens = bundled.tokens(f"{TEXT} States of America").first(5)
    found = causal_trace.trace(bundled, tokens, "people", samples=1)
    assert found.meta["input"] == TEXT
    torch.testing.assert_close(
        found.log_probabilities, causal_trace.trace(bundled, TEXT, "people", samples=1).log_probabilities
    )
    with pytest.raises(InputError, match="the subject at characters 25 to 31 is not among the prompt's tokens"):
        causal_trace.trace(bundled, tokens, "States")


def test_bos_moves_the_subject(bundled):
    plainly, moved = (causal_trace.trace(bundled, TEXT, "people", samples=1, bos=bos) for bos in (False, True))
    assert (plainly.subject, moved.subject) == (range(1, 2), range(2, 3))
    assert moved.tokens[0] == "<|endoftext|>"
    begun = causal_trace.trace(bundled, TEXT, range(5), samples=1, bos=True)  # all but the last is no whole prompt
    assert begun.log_probabilities.isfinite().all()


def test_a_prompt_of_ids_is_spelled_as_such(odd, bundled):
    """Also one that no text has: it ends inside a character."""
    ours, _ = odd
    found = causal_trace.trace(ours, IDS, range(1, 3), np.int64(7), samples=1)
    assert found.display == found.tokens == [f"[{i}]" for i in IDS[0].tolist()]
    assert found.display_answer == "[7]"
    assert f"[7] after …{''.join(found.display[-8:])}: " in found.summary()
    cut = bundled.tokens("The people saw a 東京").first(6)
    assert "\ufffd" in bundled.tokenizer.decode(cut.rows()[0])
    part = causal_trace.trace(bundled, cut, "people", torch.tensor([5, 6]), samples=1)
    assert part.answer == [5, 6]
    for trace, model in ((found, ours), (part, bundled)):
        names = {"cutaway": cutaway, "torch": torch, "model": model}
        again = eval(trace.meta["call"].split("\n")[1], names)
        torch.testing.assert_close(again.log_probabilities, trace.log_probabilities)
        assert again.to_dict() == trace.to_dict()


def test_only_what_is_asked_is_unembedded(odd, monkeypatch):
    """Of the corrupted runs, too: whole logits of a long prompt would fill the memory."""
    ours, _ = odd
    seen, inner = [], gpt2.unembed
    monkeypatch.setattr(gpt2, "unembed", lambda w, x: seen.append(x.shape) or inner(w, x))
    causal_trace.trace(ours, IDS, range(1, 3), [7, 50, 3], samples=4)
    assert {shape[0] for shape in seen[1:]} >= {4}
    assert {shape[1] for shape in seen[1:]} == {3}  # the first is the clean run


def test_windows_are_romes_share_of_the_layers():
    deep = cutaway.load(random_gpt2(**ODD | {"n_layer": 10, "n_embd": 10}), device="cpu")
    found = causal_trace.trace(deep, IDS[:, :2], range(1), samples=1)
    assert found.windows == [1, 2, 2]
    assert [found.layers_of("mlp_out", layer) for layer in (0, 1, 9)] == [(0, 0), (0, 1), (8, 9)]


LONG = "the state of the Union " * 200


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"subject": "Senate"}, InputError, "the subject 'Senate' is not in the prompt 'The people of the United'"),
        ({"subject": "  "}, InputError, "the subject is empty"),
        ({"subject": TEXT}, InputError, r"the subject is the whole prompt \(5 tokens\)"),
        ({"subject": TEXT, "bos": True}, InputError, r"the subject is the whole prompt \(5 tokens\)"),
        ({"subject": "e"}, InputError, "the subject 'e' is 5 times in the prompt .at characters 2, 5, 9, 16, 22.: say"),
        (
            {"subject": "e", "occurrence": 5},
            InputError,
            "occurrence=5: the subject 'e' is 5 times in the prompt, 0 to 4",
        ),
        ({"subject": (4, 99)}, InputError, r"subject=\(4, 99\): characters \(start, end\) within 0 to 24"),
        ({"subject": (4, 4)}, InputError, r"subject=\(4, 4\)"),
        ({"subject": range(3, 9)}, InputError, r"subject=range\(3, 9\): positions of tokens within range\(0, 5\)"),
        ({"subject": 3}, InputError, "subject=3: words, characters"),
        ({"answer": ""}, InputError, "the answer is empty: a text such as ' Paris'"),
        ({"answer": [1, 10**6]}, InputError, "token id 1000000 of the answer is outside the vocabulary"),
        ({"answer": LONG}, InputError, "the model's context is 512"),
        ({"window": 0}, InputError, "window=0: 1 to 4 layers were expected"),
        ({"window": 5}, InputError, "window=5: 1 to 4 layers were expected"),
        ({"kinds": ["attn_out", "mlp"]}, InputError, r"kinds=\['attn_out', 'mlp'\]: some of resid_post, mlp_out, attn"),
        ({"kinds": []}, InputError, r"kinds=\[\]"),
        ({"noise": -1.0}, InputError, "noise=-1.0: a number of standard deviations, 0 or more"),
        ({"noise_from": []}, InputError, "noise_from holds no token"),
        ({"samples": 0}, InputError, "samples=0: a whole number of at least 1"),
        ({"seed": -1}, InputError, "seed=-1: a whole number from 0"),
        ({"distribution": "even"}, InputError, "distribution='even' is unknown: 'gaussian' or 'uniform'"),
    ],
)
def test_mistakes_are_named(bundled, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        causal_trace.trace(bundled, **{"prompt": TEXT, "subject": "people"} | arguments)
    assert "\n" not in str(caught.value)


def test_mistakes_without_text(odd, bundled):
    ours, _ = odd
    with pytest.raises(InputError, match="the prompt was given as token ids: give the subject's positions"):
        causal_trace.trace(ours, IDS, (0, 3))
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        causal_trace.trace(ours, IDS, range(1, 3), " Paris")
    with pytest.raises(InputError, match="2 prompts were given: trace them one by one, then average"):
        causal_trace.trace(bundled, [TEXT, TEXT], "people")


# --- results ---


@pytest.fixture(scope="module")
def several(bundled):
    prompts = [(TEXT, "people"), ("We ask the Congress to", "the Congress"), ("The war in the island of Cuba", "Cuba")]
    return [causal_trace.trace(bundled, text, subject, samples=2) for text, subject in prompts]


def test_the_table_holds_the_scores(several):
    found = several[1]
    table = found.table()
    assert len(table) == 3 * 5 * 4
    row = table[(table["kind"] == "mlp_out") & (table["position"] == 3) & (table["layer"] == 2)].iloc[0]
    values = found.log_probabilities[1, 3, 2].numpy()
    assert (row["token"], row["subject"], row["first_layer"], row["last_layer"]) == (" Congress", True, 2, 2)
    assert row["probability"] == pytest.approx(np.exp(values).mean())
    assert row["probability_sd"] == pytest.approx(np.exp(values).std(ddof=1))
    assert row["log_probability"] == pytest.approx(values.mean())
    assert row["log_probability_sd"] == pytest.approx(values.std(ddof=1))
    assert row["indirect_effect"] == pytest.approx(np.exp(values).mean() - found.corrupted)
    assert found.plain == (3 * 5 * 4) * (2 + 1) * 5 * 4  # cells, rows, positions, layers
    assert f"{found.plain:,}" in found.summary()
    hidden = found.corrupted_log_probabilities.exp().numpy()
    assert (found.corrupted, found.corrupted_sd) == pytest.approx((hidden.mean(), hidden.std(ddof=1)))
    assert found.total_effect == pytest.approx(np.exp(found.clean_log_probability) - hidden.mean())
    again = eval(found.meta["call"].split("\n")[1], {"cutaway": cutaway, "model": cutaway.load(device="cpu")})
    torch.testing.assert_close(again.log_probabilities, found.log_probabilities)


def test_averages_are_means_over_prompts_by_role(several):
    found = causal_trace.average(several, resamples=500)
    assert found.prompts == [3, 0, 3, 2, 1, 3]  # "Cuba" is the last token: nothing comes after it
    table = found.table()

    def expect(role, positions):
        for q, name in enumerate(("probability", "effect", "log_probability")):
            each = [
                getattr(trace, name)[:, places].mean(1)
                for trace, places in zip(several, positions, strict=True)
                if places
            ]
            want = torch.stack(each).mean(0)
            torch.testing.assert_close(found.means[:, found.roles.index(role), :, q], want, rtol=1e-9, atol=1e-12)

    expect("first subject token", [[1], [2], [6]])
    expect("last subject token", [[1], [3], [6]])
    expect("first token after", [[2], [4], []])
    expect("further tokens", [[3], [], []])
    expect("last token", [[4], [4], [6]])
    assert len(table) == 3 * 6 * 4 * 3
    assert found.means[:, 1].isnan().all()

    for k, i, q in ((0, 1, 1), (2, 3, 0)):  # every prompt has a first token: intervals of a plain bootstrap
        name = ("probability", "effect")[q]
        each = np.array([getattr(t, name)[k, t.subject.start, i] for t in several])
        draws = np.random.default_rng(0).integers(3, size=(20000, 3))
        low, high = np.percentile(each[draws].mean(1), [2.5, 97.5])
        spread = 0.15 * (high - low) + 1e-9
        assert found.low[k, 0, i, q].item() == pytest.approx(low, abs=spread)
        assert found.high[k, 0, i, q].item() == pytest.approx(high, abs=spread)
    assert found.clean == pytest.approx(np.mean([t.clean for t in several]))
    assert found.corrupted == pytest.approx(np.mean([t.corrupted for t in several]))
    assert "under 30 prompts the bands are rough" in found.summary()


def test_traces_that_cannot_be_averaged_are_named(bundled, several):
    with pytest.raises(InputError, match="1 trace was given: two or more"):
        causal_trace.average(several[:1])
    with pytest.raises(InputError, match="no traces were given"):
        causal_trace.average([])
    other = causal_trace.trace(bundled, TEXT, "people", samples=1, window=2)
    with pytest.raises(InputError, match="trace 2 and trace 1 differ in model, kinds or windows"):
        causal_trace.average([several[0], other])
    partial = []
    causal_trace.trace(bundled, TEXT, "people", samples=1, each=partial.append)
    with pytest.raises(InputError, match="trace 2 is not finished: 2 of 5 positions"):
        causal_trace.average([several[0], partial[0]])


def test_roles_are_romes():
    def of(n, b, e):
        return [list(place) for place in role_positions(n, range(b, e)).values()]

    assert of(10, 2, 6) == [[2], [3, 4], [5], [6], [7, 8], [9]]
    assert of(6, 0, 1) == [[0], [], [0], [1], [2, 3, 4], [5]]
    assert of(4, 1, 3) == [[1], [], [2], [3], [], [3]]
    assert of(4, 2, 4) == [[2], [], [3], [], [], [3]]


# --- as it goes, and when it stops ---


def test_each_shows_what_is_done(bundled):
    seen = []
    whole = causal_trace.trace(bundled, TEXT, "people", samples=2, each=seen.append)
    assert [found.done for found in seen] == [2, 3, 4, 5]
    for found in seen:
        scores = found.log_probabilities
        torch.testing.assert_close(scores[:, : found.done], whole.log_probabilities[:, : found.done])
        assert scores[:, found.done :].isnan().all()
    assert "not finished: 2 of 5 positions" in seen[0].summary()
    assert ["x fewer" in found.summary() for found in seen] == [False, False, False, True]
    assert seen[0].strongest("mlp_out") is not None
    assert [found.computed for found in seen] == sorted({found.computed for found in seen})
    assert seen[0].table()["probability"].isna().sum() == 3 * 3 * 4


def test_ctrl_c_keeps_what_is_done(bundled):
    def stop(found):
        if found.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted: 3 of 5 positions are done") as stopped:
        causal_trace.trace(bundled, TEXT, "people", samples=2, each=stop)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert stopped.value.result.done == 3
