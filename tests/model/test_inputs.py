"""What people give a model to read: as transformers reads it, or refused by name."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast

import cutaway
from cutaway.errors import InputError
from cutaway.model.checkpoints.checkpoint import bundled_folder
from cutaway.text.tokens import Tokens

TEXTS = ["The people of the United States", "The war"]


@pytest.fixture(scope="module")
def theirs():
    """transformers' own tokenizer, on the bundled model's files."""
    found = PreTrainedTokenizerFast(tokenizer_file=str(bundled_folder() / "tokenizer.json"), pad_token="!")
    found.model_input_names = ["input_ids", "attention_mask"]
    return found


def check(bundled, given, texts=TEXTS):
    found, want = bundled.run(given), bundled.run(texts)
    assert torch.equal(found.tokens.ids * found.tokens.mask, want.tokens.ids)
    assert torch.equal(found.tokens.mask, want.tokens.mask)
    torch.testing.assert_close(found.logits[want.tokens.mask.bool()], want.logits[want.tokens.mask.bool()])


@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_an_encoding_is_ids_and_mask(bundled, theirs, kind):
    encoding = theirs(TEXTS, padding=True, return_tensors=kind)
    assert isinstance(encoding, BatchEncoding)
    check(bundled, encoding)
    check(bundled, dict(encoding))
    check(bundled, {"input_ids": encoding["input_ids"], "attention_mask": np.asarray(encoding["attention_mask"]) > 0})


def test_an_encoding_without_padding(bundled, theirs):
    check(bundled, theirs(TEXTS))  # lists of two lengths
    check(bundled, {"input_ids": theirs(TEXTS)["input_ids"]})
    check(bundled, theirs(TEXTS[0]), TEXTS[:1])  # one row, and no batch
    check(bundled, theirs(TEXTS[0], return_tensors="pt", return_special_tokens_mask=True), TEXTS[:1])


def test_an_encoding_goes_wherever_a_text_does(bundled, theirs):
    encoding, text = theirs(TEXTS[:1], return_tensors="pt"), TEXTS[0]
    assert bundled.generate(encoding, 3).texts == bundled.generate(text, 3).texts
    for analysis in (
        cutaway.predictions.next_tokens,
        cutaway.predictions.along,
        cutaway.logit_lens.read,
        cutaway.attention.read,
        cutaway.attribution.gradient,
    ):
        found = analysis(bundled, encoding)
        pd.testing.assert_frame_equal(
            found.table(), analysis(bundled, Tokens.from_lists(theirs([text])["input_ids"])).table()
        )
        assert "input_ids" not in repr(found.meta["input"])


@pytest.mark.parametrize(
    "ids",
    [
        [[5, 6, 7], [8]],
        ([5, 6, 7], (8,)),
        [torch.tensor([5, 6, 7]), torch.tensor([8])],
        [np.array([5, 6, 7], dtype=np.uint16), np.array([8])],
        np.array([[5, 6, 7]], dtype=np.uint16),
        torch.tensor([[5, 6, 7]], dtype=torch.uint8),
        Tokens(torch.tensor([[5, 6, 7]]), torch.tensor([[True, True, False]])),
    ],
)
def test_ids_of_many_kinds(bundled, ids):
    run = bundled.run(ids)
    for i, row in enumerate(run.tokens.rows()):
        want = bundled.run(torch.tensor([row])).logits[0]
        torch.testing.assert_close(run.logits[i, : len(row)], want, atol=1e-4, rtol=1e-4)
    assert run.tokens.rows()[0] == ([5, 6] if isinstance(ids, Tokens) else [5, 6, 7])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": "The war"}, r"a dict was given: .*list\(texts.values\(\)\)"),
        ({}, "a dict was given"),
        (BatchEncoding({"a": [1]}), "a BatchEncoding was given"),
        ({"The war", "The people"}, "a set was given"),
        (frozenset(["The war"]), "a frozenset was given"),
        (pd.DataFrame({"text": TEXTS}), r"a DataFrame was given: .*frame\['text'\]"),
        (b"The war", "a text is a string, got bytes"),
        ([{"text": "The war"}], "a text is a string, got dict"),
        ([1, 2, 3], "a text is a string, got int"),
        ([[1.5, 2.5]], "a text is a string, got list"),
        ([np.array([1.5])], "not a whole number"),
        ([[True, False]], "not a whole number"),
        ([torch.tensor([True, False])], "not a whole number"),
        (np.array([[1.5]]), r"a tensor of float64 \[1, 1\] was given"),
        (np.array([1, 2]), r"a tensor of int64 \[2\] was given: .*ids\[None\]"),
        (torch.tensor([1, 2]), r"ids\[None\] is a batch of one"),
        (torch.ones(1, 2, dtype=torch.bool), r"a tensor of bool \[1, 2\]"),
        ({"input_ids": [[1, 2]], "token_type_ids": [[0, 0]]}, "token_type_ids were given"),
        ({"input_ids": [[1, 2]], "inputs_embeds": None}, "'inputs_embeds' was given beside input_ids"),
        ({"input_ids": [[1, 2]], "position_ids": [[3, 4]]}, "position_ids that do not count"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "an attention_mask of shape"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 1]]}, "padding_side='right'"),
        ({"input_ids": [[1, 2]], "attention_mask": [[2, 0]]}, "not right padding"),
        ({"input_ids": [[1, 9999]]}, "token id 9999 is outside the vocabulary"),
    ],
)
def test_what_is_no_text_and_no_ids_is_refused_by_name(bundled, given, message):
    with pytest.raises(InputError, match=message):
        bundled.run(given)


@pytest.mark.parametrize("mask", [[[True, True, False]], torch.tensor([[True, True, False]]), [True, True, False]])
def test_a_mask_may_be_true_and_false(bundled, mask):
    assert bundled.run({"input_ids": [[5, 6, 7]], "attention_mask": mask}).tokens.rows() == [[5, 6]]


def test_positions_that_count_are_taken(bundled):
    check(bundled, {**bundled_encoding(bundled), "position_ids": bundled.tokens(TEXTS).positions})


def bundled_encoding(bundled):
    tokens = bundled.tokens(TEXTS)
    return {"input_ids": tokens.ids, "attention_mask": tokens.mask}


@pytest.mark.parametrize("kind", [pd.Series, np.array, tuple, iter, pd.Index])
def test_texts_of_many_kinds(bundled, kind):
    check(bundled, kind(TEXTS))


def test_tokens_of_another_vocabulary(bundled, odd, theirs):
    """Their ids would mean other words here, and nothing would say so."""
    import tokenizers

    from cutaway.text.tokens import Tokenizer

    other = tokenizers.Tokenizer(tokenizers.models.WordLevel({"The": 0, "war": 1}, unk_token="The"))
    other.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match="Tokens of a tokenizer other than that of sotu"):
        bundled.run(Tokenizer(other).tokens("The war"))
    same = cutaway.load(device="cpu").tokens(TEXTS)
    check(bundled, same)
    assert odd.run(Tokens(torch.tensor([[1, 2]]), torch.ones(1, 2))).tokens.tokenizer is None
