"""A string is a text where a text is read, and a path where a corpus is: the one given for the other is an error."""

import re
from pathlib import Path

import pytest

import cutaway
from cutaway.errors import InputError
from cutaway.text.corpus import Typed, open_corpus, refuse_path

TEXT = "The people of the United States"

TEXTS = {  # what reads a text; whether a corpus could stand in its place
    "norms.measure": (cutaway.norms.measure, True),
    "norms.regress": (cutaway.norms.regress, True),
    "ablation.run": (cutaway.ablation.run, True),
    "attention.read": (cutaway.attention.read, False),
    "logit_lens.read": (cutaway.logit_lens.read, False),
    "predictions.along": (cutaway.predictions.along, False),
    "attribution.direct": (cutaway.attribution.direct, False),
    "attribution.gradient": (cutaway.attribution.gradient, False),
    "attribution.integrated": (cutaway.attribution.integrated, False),
    "anatomy.tokens": (cutaway.anatomy.tokens, False),
}
CORPORA = {
    "survey": lambda model, given: cutaway.survey(model, given, {"ids": [cutaway.stats.Counts(8192)]}),
    "attention.average": cutaway.attention.average,
    "logit_lens.average": cutaway.logit_lens.average,
    "predictions.losses": cutaway.predictions.losses,
    "states.measure": cutaway.states.measure,
    "unigram.compare": cutaway.unigram.compare,
    "unigram.claim": cutaway.unigram.claim,
    "unigram.edit": lambda model, given: cutaway.unigram.edit(model, {" the": 0.5}, given),
    "ablation.run's reference": lambda model, given: cutaway.ablation.run(model, TEXT, reference=given),
}


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    for name in "ab":
        Path(f"notes/{name}.txt").write_text(f"{TEXT} {name}")
    return tmp_path


@pytest.mark.parametrize("name", TEXTS)
def test_a_path_given_as_a_text_is_refused(bundled, notes, name):
    read, corpus = TEXTS[name]
    for given, what in {
        "notes/a.txt": "an existing file",
        "notes/*.txt": "2 existing files",
        "notes/": "an existing folder",
        str(notes / "notes"): "an existing folder",
    }.items():
        hint = re.escape(f"open_corpus({given!r}) is a corpus of it" if corpus else "read it first")
        message = f"^a string is the text itself, and {re.escape(repr(given))} names {what}: .*{hint}"
        with pytest.raises(InputError, match=message) as caught:
            read(bundled, given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given", ["notes", "notes/c.txt", "What? Is 2*3 a [list]?", "*", "a\0b", "~nobody/a", "x" * 5000]
)
def test_what_names_no_file_is_a_text(bundled, notes, given):
    refuse_path(given)
    assert cutaway.anatomy.tokens(bundled, given).text == given


def test_a_corpus_of_the_path_is_read(bundled, notes):
    found = cutaway.norms.measure(bundled, open_corpus("notes/*.txt"))
    assert found.documents == ["notes/a.txt", "notes/b.txt"]
    assert cutaway.norms.measure(bundled, Path("notes")).documents == found.documents
    assert "corpus = cutaway.text.corpus.files(['notes/*.txt'])" in found.meta["call"]


@pytest.mark.parametrize("name", CORPORA)
def test_a_text_given_as_a_corpus_is_refused(bundled, name):
    with pytest.raises(InputError, match=rf"^corpus '{TEXT}': no file there; .*; a text goes in a list, \[text\]$"):
        CORPORA[name](bundled, TEXT)


def test_what_is_typed_into_a_page_does_not_tell_which_files_there_are(bundled, notes):
    assert cutaway.predictions.along(bundled, Typed("notes/a.txt")).meta["input"] == "notes/a.txt"
