"""Whether a model is the bundled one is a matter of its weights: a folder's name says nothing, and folding keeps it."""

import shutil

import pytest

import cutaway
from cutaway.app import examples
from cutaway.model.checkpoints.checkpoint import bundled_folder
from cutaway.pages.first_look import _unigram, standard
from cutaway.text.corpus import Document
from tests.model.reference import random_gpt2

SIZES = {"n_embd": 16, "n_head": 2, "n_layer": 1, "vocab_size": 8192, "n_positions": 128}


@pytest.fixture(scope="module")
def namesake(tmp_path_factory):
    """Another model in a folder called sotu, with the bundled tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "sotu"
    random_gpt2(**SIZES).save_pretrained(folder)
    shutil.copy(bundled_folder() / "tokenizer.json", folder)
    return cutaway.load(folder, device="cpu")


@pytest.fixture(scope="module")
def folded(bundled):
    return bundled.fold(layer_norm=True, center_unembed=True)


def test_what_counts_as_bundled(bundled, namesake, folded, tmp_path):
    assert (namesake.name, namesake.bundled) == ("sotu", False)
    assert (folded.name, folded.bundled) == ("sotu (folded)", True)
    assert folded.fold(value_biases=True).bundled
    assert not namesake.fold(layer_norm=True).bundled
    by_path = cutaway.load(bundled_folder(), device="cpu")
    assert (by_path.name, by_path.bundled, by_path.fingerprint) == ("sotu", True, bundled.fingerprint)
    (tmp_path / "link").symlink_to(bundled_folder(), target_is_directory=True)
    assert cutaway.load(tmp_path / "link", device="cpu").bundled
    assert cutaway.load(device="cpu", dtype="float16").bundled


def test_the_workbench_s_examples(bundled, namesake, folded):
    assert examples.for_model(folded, 512) == examples.for_model(bundled, 512) != examples.for_model(namesake, 512)
    assert "Two names" in [example["name"] for example in examples.for_model(namesake, 512)]


def test_the_report_s_texts(namesake, folded):
    own, other = ([result.meta["input"] for result in standard(model)] for model in (folded, namesake))
    prompts = ["The people of the United", "I have the honor to", "The war in", "We ask the Congress to"]
    fact = "Fellow-citizens of the Senate and House of"
    assert own[2:] == [prompts, prompts[0], fact, *["The Soviet Union and the free"] * 2]
    assert other[2][1] == "The capital of France is"
    assert not {"I have the honor to", fact, "The Soviet Union and the free"} & {str(text) for text in other}


@pytest.mark.slow
def test_training_counts_are_the_bundled_model_s_alone(namesake, folded, documents):
    some = [Document(name, text[:600]) for name, text in list(documents.items())[:2]]
    own, other = ([result.meta["parameters"] for result in _unigram(model, some)] for model in (folded, namesake))
    assert (own[1]["against"], own[2]["counts"]) == ("training counts", "training counts")
    assert "training counts" not in repr(other)
