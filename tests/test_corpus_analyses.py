"""Every analysis of a corpus: it resumes after an interruption, refuses another's state, and its sinks travel."""

import functools
import io
import json
import os
import pickle
import random
import re
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from cutaway import ablation, attention, logit_lens, norms, predictions, states, unigram
from cutaway.errors import InputError, Interrupted
from cutaway.model.model import Model
from cutaway.stats import Moments
from cutaway.surveys import survey as survey_module
from cutaway.surveys.survey import survey
from cutaway.text import batches as packing
from cutaway.text.corpus import bundled as bundled_documents

pytestmark = pytest.mark.slow

TEXTS = {d.id: d.text[: 150 + 130 * i] for i, d in enumerate(bundled_documents()[:7])} | {"short": "a"}
SITES = "blocks.{0,-1}.resid_post"
ANALYSES = {
    "attention.average": lambda model, corpus, **k: attention.average(model, corpus, **{"resamples": 20, **k}),
    "ablation.run mean": lambda model, corpus, **k: ablation.run(model, corpus, "mlps", **{"metric": "kl", **k}),
    "ablation.run zero": lambda model, corpus, **k: ablation.run(model, corpus, "mlps", how="zero", **k),
    "ablation.run resample": lambda model, corpus, **k: ablation.run(model, corpus, "mlps", how="resample", **k),
    "logit_lens.average": lambda model, corpus, **k: logit_lens.average(model, corpus, **{"at": SITES, **k}),
    "norms.measure": lambda model, corpus, **k: norms.measure(model, corpus, **k),
    "norms.measure updates": lambda model, corpus, **k: norms.measure(model, corpus, **{"of": "resid_update", **k}),
    "norms.regress": lambda model, corpus, **k: norms.regress(model, corpus, **k),
    "predictions.losses": lambda model, corpus, **k: predictions.losses(model, corpus, **k),
    "states.measure": lambda model, corpus, **k: states.measure(
        model, corpus, **{"kinds": "resid_post", "layers": [1], "sample": 60, "replicates": 19, "resamples": 5, **k}
    ),
    "unigram.claim": lambda model, corpus, **k: unigram.claim(model, corpus, **{"states": 0, "resamples": 20, **k}),
    "unigram.compare": lambda model, corpus, **k: unigram.compare(model, corpus, **k),
}
OTHERS = {  # a setting that changes what is counted, and what it changes of the survey
    "attention.average": ({"bos": True}, "bos"),
    "ablation.run mean": ({"metric": "rank"}, "sinks"),
    "ablation.run zero": ({"budget": 1 << 20}, "sinks"),
    "ablation.run resample": ({"seed": 1}, "sinks"),
    "logit_lens.average": ({"at": "blocks.0.resid_post"}, "sinks"),
    "norms.measure": ({"of": "mlp_out"}, "sinks"),
    "norms.measure updates": ({"of": "blocks.0.resid_update"}, "sinks"),
    "norms.regress": ({"of": "mlp_out"}, "sinks"),
    "predictions.losses": ({"bos": True}, "bos"),
    "states.measure": ({"sample": 70}, "sinks"),
    "unigram.claim": ({"states": 5}, "sinks"),
    "unigram.compare": ({"bos": True}, "bos"),
}


def small(monkeypatch):
    """Make batches of a row or two, so that there are several to be interrupted at."""
    plain = packing.model_batches
    monkeypatch.setattr(
        packing, "model_batches", lambda model, corpus, budget, bos=False: plain(model, corpus, min(budget, 250), bos)
    )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    small(monkeypatch)


def feeds(monkeypatch, stop_at=None):
    """Every (sinks, batch) that is fed, in order; Ctrl-C arrives while batch `stop_at` is."""
    fed, plain = [], survey_module.feed

    def feed(model, batch, sinks, advance):
        fed.append((sinks, batch))
        if len(fed) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        plain(model, batch, sinks, advance)

    monkeypatch.setattr(survey_module, "feed", feed)
    return fed


def same(found, expected):
    pd.testing.assert_frame_equal(found.table(), expected.table(), check_exact=True)
    ours, theirs = found.meta, expected.meta
    assert {key: ours[key] for key in ours if key != "versions"} == {k: theirs[k] for k in theirs if k != "versions"}
    assert found.summary() == expected.summary()


@pytest.fixture(scope="module")
def pieces(bundled):
    """Each analysis in one piece, and the sinks that it fed with each batch; made once."""

    @functools.cache
    def make(name):
        with pytest.MonkeyPatch.context() as patch:
            small(patch)
            fed = feeds(patch)
            return ANALYSES[name](bundled, TEXTS), fed

    return make


@pytest.mark.parametrize("name", ANALYSES)
def test_resumed_it_is_exactly_what_it_is_in_one_piece(bundled, pieces, tmp_path, monkeypatch, name):
    analysis, state = ANALYSES[name], tmp_path / "s.npz"
    whole, fed = pieces(name)
    total = len(fed)
    at = random.Random(name).randrange(1, total)
    with monkeypatch.context() as patch:
        feeds(patch, at)
        with pytest.raises(KeyboardInterrupt) as stopped:
            analysis(bundled, TEXTS, state=state)
    if isinstance(stopped.value, Interrupted):
        assert 0 < stopped.value.result.documents < whole.documents
    for left in (total - at, 0):  # the batch under way was finished and saved; then all of them
        with monkeypatch.context() as patch:
            fed = feeds(patch)
            same(analysis(bundled, TEXTS, state=state), whole)
        assert len(fed) == left


@pytest.mark.parametrize("name", ANALYSES)
def test_a_state_of_another_is_refused(bundled, tmp_path, name):
    analysis, state = ANALYSES[name], tmp_path / "s.npz"
    analysis(bundled, TEXTS, state=state)
    settings, differs = OTHERS[name]
    others = {
        "model": lambda: analysis(bundled.fold(layer_norm=True), TEXTS, state=state),
        "corpus": lambda: analysis(bundled, TEXTS | {"short": "an"}, state=state),
        differs: lambda: analysis(bundled, TEXTS, state=state, **settings),
        "sinks": lambda: survey(bundled, TEXTS, {"ids": [Moments()]}, state=state, batch_tokens=4096),
    }
    for what, other in others.items():
        message = rf"^{re.escape(str(tmp_path))}/s[.\w]*\.npz is the state of another survey \(another .*{what}"
        with pytest.raises(InputError, match=message):
            other()


class Picky(pickle.Pickler):
    """A pickler that refuses models."""

    def reducer_override(self, thing):
        assert not isinstance(thing, (Model, torch.nn.Module))
        return NotImplemented


@pytest.mark.parametrize("name", ANALYSES)
def test_sinks_travel_without_the_model_and_merge_where_they_arrive(pieces, name):
    _, fed = pieces(name)
    used = {id(sink): sink for sinks, _ in fed for sink in sinks}
    assert used
    for sink in used.values():
        sent = io.BytesIO()
        Picky(sent).dump(sink)
        arrived = pickle.loads(sent.getvalue())
        assert arrived.settings() == json.loads(json.dumps(sink.settings())) == sink.empty().settings()
        merged = arrived.empty()
        merged.merge(arrived)
        for one in (arrived, merged):
            assert one.state().keys() == sink.state().keys()
            for key, array in sink.state().items():
                np.testing.assert_array_equal(one.state()[key], array, err_msg=key)


@pytest.mark.parametrize("name", ["attention.average", "logit_lens.average", "predictions.losses"])
def test_ids_are_documents_a_row(bundled, name):
    texts = [text[:200] for text in TEXTS.values()]
    tokens = bundled.tokens(texts)
    whole = ANALYSES[name](bundled, texts).table()
    pd.testing.assert_frame_equal(ANALYSES[name](bundled, tokens).table(), whole, check_exact=True)
    width = int(tokens.lengths.sort().values[1])  # of all but the one-letter text
    ids = tokens.ids[tokens.lengths >= width][:, :width]
    cut = [row.tolist() for row in ids]
    one, other = (ANALYSES[name](bundled, rows).table() for rows in (ids, cut))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize("name", ["ablation.run mean", "ablation.run zero", "norms.measure", "norms.regress"])
def test_a_string_is_a_text_and_ids_are_too(bundled, name):
    text = TEXTS[next(iter(TEXTS))]
    numbers = [
        ANALYSES[name](bundled, given).table().select_dtypes("number")
        for given in (text, [text], bundled.tokens(text), bundled.tokens(text).ids)
    ]
    for other in numbers[1:]:
        pd.testing.assert_frame_equal(other, numbers[0], check_exact=True)


class Mine:
    """A sink of someone's own."""

    sites = ()

    def add(self, seen):
        pass


def test_a_sink_that_does_not_describe_itself_has_no_state(bundled, tmp_path):
    survey(bundled, ["a b"], {"mine": Mine()})
    with pytest.raises(InputError, match=r"^the sink 'mine' \(Mine\) has no settings\(\): a dict of plain values"):
        survey(bundled, ["a b"], {"mine": Mine()}, state=tmp_path / "s.npz")
    strange = Mine()
    strange.settings = lambda: {"of": torch.zeros(2)}
    with pytest.raises(InputError, match=r"^the sink 'mine' \(Mine\) has settings {'of': tensor.*: a dict of plain"):
        survey(bundled, ["a b"], {"mine": strange}, state=tmp_path / "s.npz")
    assert not (tmp_path / "s.npz").exists()
