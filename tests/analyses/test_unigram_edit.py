"""Edits of the final bias, measured by running the edited models themselves."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

import cutaway
from cutaway import unigram
from cutaway.analyses.unigram.contexts import draw_contexts
from cutaway.analyses.unigram.edit import METHODS
from cutaway.analyses.unigram.effects import distinct, repetition
from cutaway.errors import InputError, TokenizerError

pytestmark = pytest.mark.slow

TEXTS = [
    "The people of the United States are free and at peace.",
    "We meet to-day, as the law requires.",
    "war in Cuba",
]


def log_q(model):
    """Log-probabilities at every predicted position, [n, V]."""
    return np.concatenate([log_softmax(model.run(text).logits[0, :-1].double().numpy(), axis=1) for text in TEXTS])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("folded", [False, True])
def test_an_edit_does_what_it_reports(bundled64, method, folded):
    model = bundled64.fold(layer_norm=True) if folded else bundled64
    found = unigram.edit(model, {" the": 0.8, " war": -0.5}, TEXTS, method)
    before, after = log_q(model), log_q(found.model)
    moved = (after - before).mean(0)
    assert found.contexts == len(before)
    np.testing.assert_allclose(found.achieved, moved[found.ids], atol=1e-9)
    assert found.collateral == pytest.approx(rel_entr(np.exp(before), np.exp(after)).sum(1).mean(), rel=1e-7)
    np.testing.assert_allclose(found.before, np.exp(before).mean(0)[found.ids], rtol=1e-9)
    np.testing.assert_allclose(found.after, np.exp(after).mean(0)[found.ids], rtol=1e-9)
    others = np.abs(moved)
    others[found.ids[:2]] = -1
    assert found.ids[2:] == np.argsort(-others)[:10].tolist()
    if method == "exact":
        np.testing.assert_allclose(found.achieved[:2], [0.8, -0.5], atol=1e-6)
    if method == "least-squares":
        assert all(0 < h < 1 for h in found.leverage)
        assert "leverage" in found.summary()


@pytest.mark.parametrize("method", METHODS)
def test_folding_changes_no_edit(bundled64, method):
    found, expected = (unigram.edit(m, {".": 0.5}, TEXTS, method) for m in (bundled64.fold(layer_norm=True), bundled64))
    assert found.achieved[0] == pytest.approx(expected.achieved[0], abs=1e-7)
    assert found.collateral == pytest.approx(expected.collateral, rel=1e-6)


def test_all_other_weights_are_shared_and_the_old_model_is_untouched(bundled):
    fingerprint, print_ = cutaway.load(device="cpu").fingerprint, bundled.weights.ln_final.b.clone()
    found = unigram.edit(bundled, {" the": 1.0}, TEXTS)
    old, new = bundled.parameters(), found.model.parameters()
    assert [name for name in old if old[name] is not new[name]] == ["ln_final.b"]
    assert found.model.tied
    assert torch.equal(bundled.weights.ln_final.b, print_)
    assert found.model.dtype == torch.float32
    assert found.model.fingerprint != fingerprint


def test_the_models_origin_makes_it_again(bundled):
    found = unigram.edit(bundled, {" the": 1.0, 5: -0.25}, TEXTS, "exact")
    again = eval(found.model.origin, {"cutaway": cutaway})
    assert again.fingerprint == found.model.fingerprint
    twice = unigram.edit(found.model, {".": 0.5}, False).model
    assert eval(twice.origin, {"cutaway": cutaway}).fingerprint == twice.fingerprint
    call = cutaway.predictions.next_tokens(twice, "The").meta["call"]
    assert call.startswith("model = cutaway.unigram.edit(cutaway.unigram.edit(cutaway.load()")


def test_a_model_in_float32_reports_the_bias_it_stores(bundled):
    found = unigram.edit(bundled, {" the": 1.0}, TEXTS, "exact")
    assert found.achieved[0] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose((log_q(found.model) - log_q(bundled)).mean(0)[found.ids], found.achieved, atol=1e-5)


def test_without_text_the_metric_is_that_of_the_bias_alone(bundled64, wordless):
    ours, _ = wordless
    for model, token in ((bundled64, " the"), (ours, 7)):
        found = unigram.edit(model, {token: 0.5}, False, "exact")
        w, new = model.weights, found.model.weights
        change = (new.W_U @ new.ln_final.b).double().log_softmax(0) - (w.W_U @ w.ln_final.b).double().log_softmax(0)
        assert found.contexts == 1
        np.testing.assert_allclose(found.achieved, change[found.ids], atol=1e-5)
        assert found.achieved[0] == pytest.approx(0.5, abs=1e-6)


def test_contexts_of_the_bundled_documents_are_kept_and_others_are_not(bundled, monkeypatch):
    calls = []
    real = draw_contexts.__globals__["read_texts"]
    monkeypatch.setitem(draw_contexts.__globals__, "read_texts", lambda *a: (calls.append(1), real(*a))[1])
    monkeypatch.setattr("cutaway.text.corpus.opening.bundled", lambda: [cutaway.text.corpus.Document("a", TEXTS[0])])
    settings = {"contexts": 7, "seed": 99}
    first = unigram.edit(bundled, {" the": 1.0}, **settings)
    assert unigram.edit(bundled, {" the": 1.0}, **settings).achieved == first.achieved
    assert len(calls) == 1
    with bundled.edited({"blocks.3.mlp_out": 0.0}):
        assert unigram.edit(bundled, {" the": 1.0}, **settings).achieved != first.achieved
    assert len(calls) == 2
    unigram.edit(bundled, {" the": 1.0}, TEXTS)
    unigram.edit(bundled, {" the": 1.0}, TEXTS)
    assert len(calls) == 4


# --- effects ---


@pytest.fixture(scope="module")
def effects(bundled):
    return unigram.edit_effects(bundled, " the", (1.0, 0.5), TEXTS, prompts=["The", "We"], samples=2, max_new_tokens=12)


def test_ways_are_compared_at_equal_achieved_change(effects):
    assert effects.methods == ["unedited", *(m for m in METHODS for _ in range(2))]
    np.testing.assert_allclose(effects.achieved, [0, *[0.5, 1] * 3], atol=1e-7)
    cost = dict(zip(zip(effects.methods, np.round(effects.achieved, 6), strict=True), effects.collateral, strict=True))
    for at in (0.5, 1.0):
        assert cost["exact", at] <= cost["fisher", at] <= cost["least-squares", at]
    assert effects.wrong == []
    assert effects.meta["parameters"]["strengths"] == (0.5, 1.0)  # by size, in whatever order they were given
    for method in METHODS:
        curve = [(got, cost) for name, got, cost in effects.curves if name == method]
        assert curve[0] == (0, 0)
        assert curve == sorted(curve)


def test_texts_are_generated_and_measured(bundled, effects):
    made = bundled.generate(["The", "We"] * 2, 12, seed=0, stop=False)
    assert effects.texts[0] == made.texts
    losses = []
    for text, row in zip(made.texts, made.tokens.rows(), strict=True):
        logits = bundled.run(torch.tensor([row])).logits[0].double()
        losses += (-logits.log_softmax(-1)[:-1].gather(1, torch.tensor(row[1:])[:, None])).flatten().tolist()
        assert text.startswith(("The", "We"))
    assert effects.perplexity[0] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    the = bundled.tokenizer.single(" the")
    assert effects.share[0] == pytest.approx(np.mean([i == the for row in made.tokens.rows() for i in row[1:]]))


def test_repetition_and_distinct_by_hand():
    rows = [[1, 2, 3, 4, 1, 2, 3, 4, 9], [5, 5]]
    assert repetition(rows) == pytest.approx(1 / 6)  # 1234 came twice among six
    assert distinct(rows) == pytest.approx(6 / 9)
    assert repetition([[1, 2]]) == 0
    assert distinct([[1]]) == 1


def test_lowering_and_a_way_that_does_not_get_there(bundled, monkeypatch):
    effects = sys.modules["cutaway.analyses.unigram.effects"]
    monkeypatch.setattr(effects, "GRID", 2)
    settings = {"prompts": ["The"], "samples": 1, "max_new_tokens": 4}
    lowered = unigram.edit_effects(bundled, ".", (-0.5,), TEXTS, **settings)
    np.testing.assert_allclose(lowered.achieved[1:], -0.5, atol=1e-7)
    edit = sys.modules["cutaway.analyses.unigram.edit"]
    real = edit.least_squares
    monkeypatch.setattr(edit, "least_squares", lambda *a: -real(*a))
    found = unigram.edit_effects(bundled, ".", (0.5,), TEXTS, **settings)
    assert found.wrong == ["least-squares"]
    assert found.methods == ["unedited", "fisher", "exact"]
    assert "least-squares moves . the wrong way" in found.summary()
    found.chart().to_dict()


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({},), InputError, "at least one was expected"),
        (({" the": float("inf")},), InputError, "the change of ' the' is inf: a finite number of nats"),
        (({" the": float("nan")},), InputError, "is nan"),
        (({" the": "1"},), InputError, "the change of ' the' is '1'"),
        (({" the people": 1.0},), TokenizerError, r"' the people' is 2 tokens \(·the \| ·people\)"),
        (({9999: 1.0},), InputError, "token 9999"),
        (({" the": 1.0}, False, "newton"), InputError, "method='newton' is unknown: least-squares, fisher, exact"),
        (({" the": 30.0}, False, "exact"), InputError, r"cannot pass 1: these tokens can be raised by less than \d"),
        (({" the": 1.0}, ["a"]), InputError, "there is nothing to predict"),
    ],
)
def test_mistakes_are_named(bundled, arguments, error, message):
    with pytest.raises(error, match=message):
        unigram.edit(bundled, *arguments)


def test_a_token_named_twice_is_an_error(bundled):
    the = bundled.tokenizer.single(" the")
    with pytest.raises(InputError, match=r"' the' is named twice|named twice"):
        unigram.edit(bundled, {" the": 1.0, the: 0.5}, False)


@pytest.mark.parametrize("strengths", [(), (0.0,), (1.0, -1.0), (float("inf"),)])
def test_strengths_are_of_one_sign(bundled, strengths):
    with pytest.raises(InputError, match=r"strengths=|a strength is inf"):
        unigram.edit_effects(bundled, " the", strengths, False)


def test_a_change_may_be_numpys_number(bundled):
    found = unigram.edit(bundled, {" the": np.float32(0.5)}, False)
    assert found.to_dict()["data"] == unigram.edit(bundled, {" the": 0.5}, False).to_dict()["data"]
