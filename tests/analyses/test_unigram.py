"""The final bias read out and compared, and the claim about it, against transformers, SciPy and plain loops."""

import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import linregress

import cutaway
from cutaway import unigram
from cutaway.analyses.unigram.claim import Intervention, Number, verdict
from cutaway.analyses.unigram.outcomes import Outcomes
from cutaway.analyses.unigram.texts import GROUPS, Predicted
from cutaway.errors import InputError, TokenizerError
from cutaway.model.architectures.gpt2 import Block, LayerNorm, Weights
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.model import Model
from cutaway.results.bootstrap import draw_weights
from cutaway.text.batches import batches
from cutaway.text.corpus import open_corpus
from tests.sinks import same_sinks

pytestmark = pytest.mark.slow

TEXTS = {
    "a": "The people of the United States are free and at peace.",
    "b": "We meet to-day, as the law requires, and the war in Cuba is over.",
    "c": "I have the honor to inform the Congress that the treaty was signed.",
    "d": "a",
    "e": "Our commerce with the nations of the world has grown, and the Treasury is full.",
}


@pytest.fixture(scope="module")
def texts(documents):
    """Openings of real documents."""
    return {name: text[:600] for name, text in list(documents.items())[:5]}


# --- the read-out ---


def test_it_reads_out_what_the_note_does(hf, bundled64):
    model = hf(torch.float64)
    with torch.no_grad():
        p = model.lm_head(model.transformer.ln_f.bias).softmax(-1)
    found = unigram.read(bundled64, also=[" war", 17])
    best = p.topk(10)
    assert found.ids == [*best.indices.tolist(), bundled64.tokenizer.single(" war"), 17]
    np.testing.assert_allclose(found.probabilities, p[found.ids], rtol=1e-12)
    assert found.ranks == [1 + int((p > p[i]).sum()) for i in found.ids]
    assert found.tokens[10] == " war"
    assert found.perplexity == pytest.approx(np.exp(-(p * p.log()).sum().item()))
    assert "rank" in found.summary()


@pytest.mark.parametrize(
    "steps", [{"layer_norm": True}, {"center_unembed": True}, {"layer_norm": True, "center_unembed": True}]
)
def test_folding_moves_the_bias_and_changes_nothing(bundled64, steps):
    found, expected = unigram.read(bundled64.fold(**steps)), unigram.read(bundled64)
    assert found.ids == expected.ids
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-9)


def test_an_untied_head_without_a_tokenizer(wordless):
    ours, theirs = wordless
    with torch.no_grad():
        p = (theirs.lm_head.weight.double() @ theirs.transformer.ln_f.bias.double()).softmax(-1)
    found = unigram.read(ours, 3, also=100)
    assert found.ids == [*p.topk(3).indices.tolist(), 100]
    np.testing.assert_allclose(found.probabilities, p[found.ids], rtol=1e-12)
    assert found.tokens[-1] == "[100]"


def changed(model, **norm):
    """A model with another final LayerNorm."""
    w = model.weights
    given = {"w": w.ln_final.w, "b": w.ln_final.b} | norm
    fields = {name: getattr(w, name) for name in w.__dataclass_fields__}
    return Model(model.config, Weights(**fields | {"ln_final": LayerNorm(**given)}), model.tokenizer, name="changed")


@pytest.mark.parametrize("b", [None, 0.0, float("inf")])
def test_a_model_without_a_final_bias_is_an_error(bundled, b):
    model = changed(bundled, b=None if b is None else torch.full((256,), b))
    message = "is not finite" if b == float("inf") else "changed has no final bias"
    for analysis in (unigram.read, lambda m: unigram.compare(m, unigram.training_counts())):
        with pytest.raises(InputError, match=message):
            analysis(model)


@pytest.mark.parametrize(
    ("also", "error", "message"),
    [
        ([" the people"], TokenizerError, r"' the people' is 2 tokens \(·the \| ·people\): exactly one was expected"),
        (["Congress"], TokenizerError, "did you mean ' Congress'"),
        ([""], TokenizerError, r"is 0 tokens \(nothing\)"),
        ([8192], InputError, "token 8192: a text or an id from 0 to 8191"),
        ([-1], InputError, "token -1"),
        ([1.5], InputError, r"token 1\.5"),
    ],
)
def test_what_is_no_token_is_named(bundled, also, error, message):
    with pytest.raises(error, match=message):
        unigram.read(bundled, also=also)


# --- the comparison ---


def windows(model, given, context=None):
    """Ids of each document's windows."""
    context = context or model.config.n_ctx
    for ids in model.tokenizer.encode(list(given.values()))[0]:
        yield [ids[i : i + context] for i in range(0, len(ids), context)]


def test_counts_are_of_predicted_tokens(bundled64, documents):
    given = dict(list(documents.items())[:2])
    counted = Counter(i for rows in windows(bundled64, given) for row in rows for i in row[1:])
    found = unigram.compare(bundled64, given)
    assert {i: n for i, n in enumerate(found.counts.tolist()) if n} == counted
    total = counted.total()
    np.testing.assert_allclose(found.p, [(counted[i] + 0.5) / (total + 0.5 * 8192) for i in range(8192)], rtol=1e-14)


def test_the_comparison_is_what_scipy_and_numpy_say(bundled64):
    counts = unigram.training_counts()
    found = unigram.compare(bundled64, counts)
    W, b = bundled64.weights.W_U.numpy(), bundled64.weights.ln_final.b.numpy()
    p, u, seen = (counts + 0.5) / (counts.sum() + 4096), W @ b, counts > 0
    np.testing.assert_allclose(found.u, u, atol=1e-12)

    def kl(z):
        return rel_entr(p, softmax(z)).sum()

    line = linregress(u[seen], np.log(p[seen]))
    assert (found.r, found.slope) == (pytest.approx(line.rvalue), pytest.approx(line.slope))
    design = np.column_stack([W[seen], np.ones(seen.sum())])
    fitted = np.linalg.lstsq(design, np.log(p[seen]), rcond=None)[0][:-1]
    assert found.kl["final bias"] == pytest.approx(kl(u), rel=1e-10)
    assert found.kl["uniform"] == pytest.approx(np.log(8192) + (p * np.log(p)).sum(), rel=1e-10)
    assert found.kl["least squares on log p"] == pytest.approx(kl(W @ fitted), rel=1e-8)
    assert found.kl["final bias, rescaled"] <= min(kl(u * s) for s in np.linspace(0, 8, 81))
    assert found.kl["best bias of this width"] < found.kl["least squares on log p"]
    assert found.explained["final bias"] == pytest.approx(1 - kl(u) / kl(0 * u))
    assert found.evaluations <= 60
    assert found.table()["count"].tolist() == counts.tolist()
    assert "training counts" in found.summary()
    assert found.meta["call"].endswith("cutaway.unigram.compare(model, against=cutaway.unigram.training_counts())")


def test_a_state_is_of_a_pass_over_a_corpus(bundled, tmp_path):
    counts = unigram.training_counts()
    np.save(tmp_path / "counts.npy", counts)
    for against in (counts, tmp_path / "counts.npy"):
        with pytest.raises(InputError, match=r"^state='.*' saves a pass over a corpus: counts were given"):
            unigram.compare(bundled, against, state=tmp_path / "state.npz")
    assert not (tmp_path / "state.npz").exists()


def test_counts_may_be_an_array_a_tensor_or_a_file(bundled, tmp_path):
    counts = unigram.training_counts()
    np.save(tmp_path / "counts.npy", counts)
    expected = unigram.compare(bundled, counts)
    for given in (
        torch.from_numpy(counts),
        counts.astype(float),
        tmp_path / "counts.npy",
        str(tmp_path / "counts.npy"),
    ):
        assert unigram.compare(bundled, given).kl == expected.kl


def test_counts_of_nonsense_are_named(bundled, tmp_path):
    counts = unigram.training_counts()
    bad = {
        r"counts are int64 \[8191\], and the vocabulary of sotu has 8,192": counts[1:],
        "negative numbers, infinities or nothing above 0": np.where(counts == 1, np.inf, counts),
        "negative numbers, infinities or": -counts,
        "nothing above 0": counts * 0,
        "cannot be read as counts": tmp_path / "none.npy",
        r"counts are bool": counts > 0,
    }
    for message, given in bad.items():
        with pytest.raises(InputError, match=message):
            unigram.compare(bundled, given)
    with pytest.raises(InputError, match="there is nothing to predict"):
        unigram.compare(bundled, ["a"])


def test_the_training_counts_need_the_bundled_vocabulary(bundled):
    other = SimpleNamespace(vocabulary=list("ab"))
    model = Model(bundled.config, bundled.weights, other, name="other")
    with pytest.raises(InputError, match="other has another vocabulary"):
        unigram.compare(model, unigram.training_counts())


# --- the claim ---


def losses_by_hand(model, given, constant_of):
    """Loss sums, numbers and mean predictions with another constant part of the logits, one document at a time."""
    W, b = model.weights.W_U.numpy(), model.weights.ln_final.b.numpy()
    total, count, mean = 0.0, 0, 0.0
    for number, text in enumerate(given.values()):
        run = model.run(text, capture="ln_final.out", logits=None)
        h, ids = run["ln_final.out"][0, :-1].numpy(), run.tokens.rows()[0][1:]
        log_q = log_softmax((h - b) @ W.T + constant_of(number % 2), axis=1)
        total -= log_q[np.arange(len(ids)), ids].sum()
        count += len(ids)
        mean = mean + np.exp(log_q).sum(0)
    return total / count, mean / count


def test_interventions_are_those_of_a_plain_loop(bundled64, texts):
    found = unigram.claim(bundled64, texts, resamples=20)
    W, b = bundled64.weights.W_U.numpy(), bundled64.weights.ln_final.b.numpy()
    mean, p = {}, {}
    for fold in (0, 1):
        others = [text for i, text in enumerate(texts.values()) if i % 2 != fold]
        runs = [bundled64.run(text, capture="ln_final.out", logits=None) for text in others]
        mean[fold] = W @ (np.concatenate([run["ln_final.out"][0, :-1].numpy() for run in runs]).mean(0) - b)
        counts = Counter(i for run in runs for i in run.tokens.rows()[0][1:])
        p[fold] = np.array([(counts[i] + 0.5) / (counts.total() + 4096) for i in range(8192)])
    constants = {
        "as it is": lambda fold: W @ b,
        "without the bias": lambda fold: 0,
        "without the mean residual": lambda fold: W @ b - mean[fold],
        "without both": lambda fold: -mean[fold],
    }
    everything = Counter(i for rows in windows(bundled64, texts) for row in rows for i in row[1:])
    whole = np.array([(everything[i] + 0.5) / (everything.total() + 4096) for i in range(8192)])
    for name, constant in constants.items():
        loss, predicted = losses_by_hand(bundled64, texts, constant)
        assert found.interventions[name].loss.value == pytest.approx(loss, rel=1e-10), name
        assert found.interventions[name].kl == pytest.approx(rel_entr(whole, predicted).sum(), rel=1e-8), name
    assert list(found.interventions)[:4] == list(constants)
    assert found.interventions["as it is"].loss.value == pytest.approx(
        cutaway.predictions.losses(bundled64, texts).mean
    )
    bare = changed(bundled64, b=torch.zeros(256, dtype=torch.float64))
    without = cutaway.predictions.losses(bare, texts).mean
    assert found.interventions["without the bias"].loss.value == pytest.approx(without, rel=1e-10)


def test_explained_shares_are_those_of_a_plain_loop(bundled64, texts):
    counts = unigram.training_counts()
    found = unigram.claim(bundled64, texts, counts, states=0, resamples=20)
    W, b = bundled64.weights.W_U.numpy(), bundled64.weights.ln_final.b.numpy()
    runs = [bundled64.run(text, capture="ln_final.out", logits=None)["ln_final.out"][0, :-1] for text in texts.values()]
    u, v = W @ b, W @ (torch.cat(runs).mean(0).numpy() - b)
    p = (counts + 0.5) / (counts.sum() + 4096)

    def explained(z):
        return 1 - rel_entr(p, softmax(z)).sum() / rel_entr(p, softmax(0 * u)).sum()

    parts = {name: number.value for name, number in found.parts.items()}
    assert parts["bias"] == pytest.approx(explained(u), rel=1e-9)
    assert parts["mean_residual"] == pytest.approx(explained(v), rel=1e-9)
    assert parts["both"] == pytest.approx(explained(u + v), rel=1e-9)
    assert parts["bias_on_top"] == pytest.approx(explained(u + v) - explained(v), rel=1e-8)
    seen, log_p = counts > 0, np.log(p)
    for name, z in (("bias_share", u), ("mean_residual_share", v)):
        covariance = np.cov(z[seen], log_p[seen], bias=True)
        assert parts[name] == pytest.approx(covariance[0, 1] / covariance[1, 1], rel=1e-9)
    assert parts["bias_share"] + parts["mean_residual_share"] + parts["remainder_share"] == pytest.approx(1)
    assert found.parts["bias"].low == found.parts["bias"].high  # neither u nor these counts depend on the documents
    assert "bias fitted to the loss" not in found.interventions


def test_folding_changes_no_claim(bundled64):
    found, expected = (unigram.claim(m, TEXTS, resamples=20) for m in (bundled64.fold(layer_norm=True), bundled64))
    for name, number in expected.parts.items():
        assert found.parts[name].value == pytest.approx(number.value, abs=1e-7), name
    for name, one in expected.interventions.items():
        assert found.interventions[name].loss.value == pytest.approx(one.loss.value, abs=1e-7), name


def built(bundled, log_p, where):
    """A model of width 4 whose logits are log p at all times: by its bias, or by its mean residual."""
    D, generator = 4, torch.Generator().manual_seed(0)
    double = {"dtype": torch.float64}
    W_U = torch.randn(8192, D, generator=generator, **double)
    W_U[:, 0] = log_p
    zeros = [
        torch.zeros(*shape, **double) for shape in ((D, 3 * D), (3 * D,), (D, D), (D,), (D, D), (D,), (D, D), (D,))
    ]
    norm = LayerNorm(torch.ones(D, **double), torch.zeros(D, **double))
    W_QKV, b_QKV, W_O, b_O, W_in, b_in, W_out, b_out = zeros
    block = Block(norm, W_QKV, b_QKV, W_O, b_O, norm, W_in, b_in, W_out, b_out)
    e = torch.eye(D, **double)[0]
    state = torch.tensor([1.0, -1.0, 2.0, -2.0], **double)
    n = (state / (state.square().mean() + 1e-5).sqrt())[0]
    final = LayerNorm(0 * e, e) if where == "bias" else LayerNorm(e / n, 0 * e)
    config = Config(n_layers=1, n_heads=1, d_model=D, d_mlp=D, d_vocab=8192, n_ctx=64, tied=False)
    weights = Weights(state.repeat(8192, 1), torch.zeros(64, D, **double), [block], final, W_U)
    return Model(config, weights, bundled.tokenizer, name=where)


@pytest.mark.parametrize("where", ["bias", "mean residual"])
def test_on_models_built_to_hold_exact_unigram_statistics_the_claim_is_right(bundled, where):
    counts = unigram.training_counts()
    p = (counts + 0.5) / (counts.sum() + 4096)
    model = built(bundled, torch.from_numpy(np.log(p)), where)
    found = unigram.claim(model, TEXTS, counts, resamples=50)
    here, there = ("bias", "mean_residual") if where == "bias" else ("mean_residual", "bias")
    values = {name: number.value for name, number in found.parts.items()}
    assert values[here] == pytest.approx(1, abs=1e-9)
    assert values[there] == pytest.approx(0, abs=1e-9)
    assert values["both"] == pytest.approx(1, abs=1e-9)
    assert values[f"{here}_on_top"] == pytest.approx(1, abs=1e-9)
    assert values[f"{there}_on_top"] == pytest.approx(0, abs=1e-9)
    assert values[f"{here}_share"] == pytest.approx(1, abs=1e-9)
    assert values["remainder_share"] == pytest.approx(0, abs=1e-9)
    ids = [i for rows in windows(model, TEXTS, 64) for row in rows for i in row[1:]]
    own, even = -np.log(p[ids]).mean(), np.log(8192)
    losses = {name: one.loss.value for name, one in found.interventions.items()}
    assert losses["as it is"] == pytest.approx(own, abs=1e-9)
    assert losses["without both"] == pytest.approx(even, abs=1e-9)
    assert losses[f"without the {where}"] == pytest.approx(even, abs=1e-9)
    assert losses["best bias beside the mean residual"] == pytest.approx(own, abs=1e-8)
    assert found.interventions["as it is"].kl == pytest.approx(0, abs=1e-12)
    expected = "yes: the mean residual adds nothing" if where == "bias" else "No: the mean residual holds unigram"
    assert expected in found.verdict
    if where == "bias":
        found = unigram.compare(model, counts)
        assert found.kl["final bias"] == pytest.approx(0, abs=1e-12)
        assert (found.r, found.slope, found.scale) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_a_bias_is_fitted_to_the_loss_of_the_other_half(bundled, monkeypatch):
    """SciPy's, where the width is small."""
    log_p = torch.linspace(-9.5, -8.5, 8192, dtype=torch.float64)
    model = built(bundled, log_p, "mean residual")
    found = unigram.claim(model, TEXTS, resamples=10)
    W, e = model.weights.W_U.numpy(), np.eye(4)[0]
    halves = [
        [i for rows in list(windows(model, TEXTS, 64))[fold::2] for row in rows for i in row[1:]] for fold in (0, 1)
    ]

    def loss(b, ids):
        return -log_softmax(W @ (e + b))[ids].mean()

    total = 0.0
    for fold in (0, 1):
        fitted = minimize(loss, np.zeros(4), args=(halves[1 - fold],), method="BFGS", options={"gtol": 1e-9}).x
        total += loss(fitted, halves[fold]) * len(halves[fold])
    expected = total / sum(map(len, halves))
    assert found.interventions["bias fitted to the loss"].loss.value == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(sys.modules["cutaway.analyses.unigram.claim"], "ENOUGH", 100)
    assert "bias fitted to the loss" not in unigram.claim(model, TEXTS, resamples=10).interventions


@pytest.mark.parametrize("given", [["The people of the United"], ["a", "The people"], ["a", "b"]])
def test_a_claim_needs_text_on_both_sides(bundled, given):
    with pytest.raises(InputError, match=r"two documents of two tokens|nothing to predict"):
        unigram.claim(bundled, given)


def number(value, spread=0.0):
    return Number(value, value - spread, value + spread)


@pytest.mark.parametrize(
    ("bias", "rest", "both", "words"),
    [
        (number(0.9), number(0.0, 0.01), number(0.9), "yes: the mean residual adds nothing to the bias"),
        (number(0.2), number(0.7, 0.1), number(0.9), "No: the mean residual adds to what the bias holds"),
        (number(0.0), number(0.9, 0.1), number(0.9), "No: the mean residual holds unigram statistics"),
        (number(0.0), number(0.0), number(0.01), "Neither the bias nor the mean residual"),
        (number(0.5), number(0.1, 0.3), number(0.6), "do not tell whether"),
    ],
)
def test_the_verdict_says_what_the_intervals_allow(bias, rest, both, words):
    parts = {"bias": bias, "mean_residual": number(0.5), "both": both, "mean_residual_on_top": rest}
    moves = {
        "without the bias": Intervention(number(4), number(0.2, 0.1), 0.1),
        "best bias beside the mean residual": Intervention(number(4), number(0.0, 0.1), 0.1),
    }
    said = verdict(parts, moves)
    assert words in said
    assert "rises by 0.200 nats a token (0.100 to 0.300)" in said
    assert "does not clearly change (-0.100 to +0.100 nats)" in said


def test_intervals_are_a_plain_bootstraps(bundled64, texts):
    """Percentiles of the loss over drawn documents; for shares, where drawing shifts p, reflected."""
    found = unigram.claim(bundled64, texts, states=0, resamples=4000, seed=1)
    one = cutaway.predictions.losses(bundled64, texts)
    sums, counts = np.array(one.loss) * one.predicted, np.array(one.predicted)
    draws = np.random.default_rng(0).integers(len(sums), size=(20000, len(sums)))
    low, high = np.percentile(sums[draws].sum(1) / counts[draws].sum(1), [2.5, 97.5])
    got = found.interventions["as it is"].loss
    np.testing.assert_allclose([got.low, got.high], [low, high], atol=0.1 * (high - low))
    assert found.parts["both"].low < found.parts["both"].value < found.parts["both"].high


def test_intervals_of_shares_are_reflected_around_the_estimate(bundled64, texts):
    """Against a loop over the same drawn documents; the basic bootstrap's interval is the percentiles' mirror image."""
    found = unigram.claim(bundled64, texts, states=0, resamples=60, seed=1)
    W, b = bundled64.weights.W_U.numpy(), bundled64.weights.ln_final.b.numpy()
    counts, sums = [], []
    for text in texts.values():
        run = bundled64.run(text, capture="ln_final.out", logits=None)
        counts.append(np.bincount(run.tokens.rows()[0][1:], minlength=8192))
        sums.append(run["ln_final.out"][0, :-1].numpy().sum(0))
    u, shares = W @ b, []
    for times in [np.ones(5), *draw_weights(5, 60, 1).numpy()]:
        of = sum(times * [count.sum() for count in counts])
        p = (times @ np.array(counts) + 0.5) / (of + 4096)
        v = W @ (times @ np.array(sums) / of - b)
        even = rel_entr(p, np.full(8192, 1 / 8192)).sum()
        alone, both = (1 - rel_entr(p, softmax(z)).sum() / even for z in (u, u + v))
        shares.append((alone, both))
    for name, (estimate, *drawn) in zip(("bias", "both"), zip(*shares, strict=True), strict=True):
        low, high = np.percentile(drawn, [2.5, 97.5])
        part = found.parts[name]
        np.testing.assert_allclose([part.low, part.high], [2 * estimate - high, 2 * estimate - low], rtol=1e-8)
        assert abs(part.low - low) > (high - low) / 10  # so that the other interval would be another


def test_sinks_merge_as_if_one_had_seen_all(bundled64, texts):
    packed = list(batches(open_corpus(texts), bundled64.tokenizer, 150, 60))
    assert len(packed) > 4
    constants = torch.linspace(-1, 1, 2 * 3 * 8192, dtype=torch.float64).view(2, 3, 8192)
    from cutaway.surveys.survey import feed

    for make in (lambda: Predicted(8192, 256, 2, 40, 3), lambda: Outcomes(constants)):
        whole, first, second = make(), make(), make()
        for i, batch in enumerate(packed):
            feed(bundled64, batch, [whole, first if i % 2 else second])
        first.merge(second)
        same_sinks({"it": first}, {"it": whole})
        again = first.empty()
        again.load_state(first.state())
        same_sinks({"it": again}, {"it": whole})
    with pytest.raises(InputError, match="settings must be the same"):
        Predicted(8192).merge(Predicted(8192, 256))


def test_many_documents_are_dealt_into_groups(bundled):
    given = [f"The people of {i}" for i in range(GROUPS + 6)]
    found = unigram.claim(bundled, given, states=0, resamples=20)
    assert found.documents == GROUPS + 6
    assert "rough" not in found.summary()
