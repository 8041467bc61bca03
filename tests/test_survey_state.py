"""Surveys that are interrupted and taken up again, and states that belong to another."""

import os
import re
import signal
from contextlib import nullcontext

import pytest
import torch

import cutaway
from cutaway.errors import InputError
from cutaway.model.architectures import gpt2
from cutaway.stats import Counts, Extremes, Moments, Sample
from cutaway.surveys.sinks import SiteStatistics
from cutaway.surveys.survey import survey
from cutaway.text import batches, corpus
from cutaway.text.corpus import open_corpus
from tests.sinks import FEW, Interrupt, count, same_sinks

BUDGET = 300


def sinks():
    return {
        "blocks.0.resid_post": [Moments(4), Sample(40), Extremes(2)],
        "ids": [Counts(8192)],
        "later": SiteStatistics("blocks.0.attn_out", [Moments()], first=False),
    }


@pytest.fixture
def small_groups(monkeypatch):
    """Documents are packed three at a time."""
    monkeypatch.setattr(batches, "GROUP", 3)
    monkeypatch.setattr(batches.batches, "__defaults__", (3, False))


@pytest.fixture
def texts():
    return {d.id: d.text[: 60 + 60 * i] for i, d in enumerate(corpus.bundled())}


def interrupted(pieces, at):
    for i, pair in enumerate(pieces.items()):
        if i == at:
            raise KeyboardInterrupt
        yield corpus.Document(*pair)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize("place", ["corpus", "first sink", "last sink", "forward pass"])
def test_the_same_after_an_interruption(bundled, texts, small_groups, tmp_path, monkeypatch, place, every):
    whole = survey(bundled, texts, sinks(), batch_tokens=BUDGET)

    def go(at):
        counted = {"counted": Interrupt(at if "sink" in place else None)}
        ours = counted | sinks() if place == "first sink" else sinks() | counted
        source = open_corpus(interrupted(texts, 5 if at and place == "corpus" else -1))
        return survey(bundled, source, ours, batch_tokens=BUDGET, state=tmp_path / "s.npz", save_every=every)

    with monkeypatch.context() as patch:
        if place == "forward pass":
            forwards = iter([False] * 3 + [True])
            run = bundled.run
            patch.setattr(bundled, "run", lambda *a, **k: (next(forwards) and ctrl_c(), run(*a, **k))[1])
        with pytest.raises(KeyboardInterrupt):
            go(4)
    ran = []
    monkeypatch.setattr(gpt2, "embed", count(ran, gpt2.embed))
    found = go(None)
    again = go(None)  # a finished one is read back
    total = sum(1 for _ in batches.batches(open_corpus(texts), bundled.tokenizer, BUDGET, bundled.config.n_ctx))
    fresh = every == 1e9 and "sink" in place  # nothing whole was saved: it starts anew
    assert len(ran) == total if fresh else 0 < len(ran) < total
    for one in (found, again):
        assert one["counted"].tokens == one.tokens == whole.tokens
        assert one.documents == whole.documents
        same_sinks(one, whole)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"model": "folded"}, "model"),
        ({"model": "edited"}, "edits"),
        ({"corpus": {**FEW, "c": "another"}}, "corpus"),
        ({"corpus": {"a": FEW["a"], "b": "Others, but less of them."}}, "corpus"),
        ({"corpus": {"a": FEW["a"], "z": FEW["b"]}}, "corpus"),
        ({"sinks": {"attn_out": [Moments()]}}, "sinks"),
        ({"sinks": {"resid_post": [Moments(4)]}}, "sinks"),
        ({"batch_tokens": 9}, "batch_tokens"),
        ({"bos": True}, "bos"),
    ],
)
def test_a_state_of_another_survey_is_refused(bundled, tmp_path, change, differs):
    path = tmp_path / "s.npz"
    given = {"model": bundled, "corpus": FEW, "sinks": {"resid_post": [Moments()]}, "state": path}
    survey(**given)
    before = path.read_bytes()
    other = {"folded": lambda: bundled.fold(layer_norm=True)}.get(change.get("model"), lambda: bundled)()
    edited = change.get("model") == "edited"
    message = f"{path} is the state of another survey (another {differs}): give another file, or remove it"
    with (
        other.edited({"attn_out": torch.zeros_like}) if edited else nullcontext(),
        pytest.raises(InputError, match=f"^{re.escape(message)}$"),
    ):
        survey(**{**given, **change, "model": other})
    assert path.read_bytes() == before


def test_a_state_with_no_statistics_or_nowhere_to_be(bundled, tmp_path):
    (tmp_path / "s.npz").write_text("hello")
    with pytest.raises(InputError, match=r"s\.npz cannot be read as saved statistics: it is not a \.npz file"):
        survey(bundled, FEW, {"resid_post": [Moments()]}, state=tmp_path / "s.npz")
    with pytest.raises(cutaway.errors.OutputError, match=r"a part of its path is a file"):  # before any work
        survey(bundled, interrupted(FEW, 0), {"ids": [Counts(8192)]}, state=tmp_path / "s.npz" / "t.npz")


def test_a_state_in_the_home_folder_is_found_again(bundled, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):
        found = survey(bundled, FEW, {"x": Interrupt(at=2)}, batch_tokens=99, state="~/s.npz")
    assert found["x"].tokens == found.tokens


EDITS = {
    "in place": lambda weight: weight.mul_(1.5),
    "through .data": lambda weight: weight.data.mul_(1.5),
    "one number through .data": lambda weight: weight.data.view(-1)[7].add_(1),
}


@pytest.mark.parametrize("how", EDITS)
@pytest.mark.parametrize("asked_before", [False, True])
def test_a_model_edited_in_place_does_not_go_on_from_the_state_of_what_it_was(tmp_path, how, asked_before):
    path = tmp_path / "s.npz"
    model = cutaway.load()
    if asked_before:
        assert model.fingerprint
    first = survey(model, FEW, {"resid_post": [Moments()]}, state=path)
    EDITS[how](model.weights.blocks[0].W_in)
    with pytest.raises(InputError, match=r"is the state of another survey \(another model\)"):
        survey(model, FEW, {"resid_post": [Moments()]}, state=path)
    same_sinks(survey(cutaway.load(), FEW, {"resid_post": [Moments()]}, state=path), first)


def test_the_weights_are_hashed_once_and_only_for_a_state(tmp_path, bundled, monkeypatch):
    asked = []
    monkeypatch.setattr(bundled, "fresh_fingerprint", lambda: asked.append(1) or "0123456789abcdef")
    survey(bundled, FEW, {"resid_post": [Moments()]}, batch_tokens=3)
    assert not asked
    for n in (1, 2):
        survey(bundled, FEW, {"resid_post": [Moments()]}, batch_tokens=3, state=tmp_path / "s.npz", save_every=0)
        assert len(asked) == n
