"""predictions.next_tokens beside transformers' model of the same weights."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutaway import predictions
from cutaway.analyses.predictions.metrics import BATCH_TOKENS, group_by_width
from cutaway.errors import InputError

PROMPTS = ["The people of the United", " of", "I have the honor to report that", "caf\u00e9 \U0001f600", "War\n\n"]


@torch.no_grad()
def last_probabilities(hf, ids):
    """The whole distribution after these ids, by transformers."""
    return hf()(torch.tensor([ids])).logits[0, -1].double().softmax(-1)


def close(found, expected, rel=2e-5):
    np.testing.assert_allclose(found, expected, rtol=rel)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_top_k_equals_transformers(bundled, hf, prompt):
    result = predictions.next_tokens(bundled, prompt, top=7)
    expected = last_probabilities(hf, bundled.tokenizer.encode([prompt])[0][0]).topk(7)
    assert result.ids == [expected.indices.tolist()]
    close(result.probabilities[0], expected.values)
    assert result.tokens[0] == [bundled.tokenizer.decode([i]) for i in expected.indices]


def test_a_known_continuation_keeps_its_leading_space(bundled):
    table = predictions.next_tokens(bundled, "The people of the United", top=1).table()
    assert table.to_dict("records") == [
        {
            "prompt": "The people of the United",
            "rank": 1,
            "token_id": bundled.tokenizer.single(" States"),
            "token": " States",
            "probability": pytest.approx(0.953, abs=5e-4),
        }
    ]


def test_prompts_of_mixed_lengths_get_what_each_gets_alone(bundled):
    together = predictions.next_tokens(bundled, PROMPTS, top=5)
    assert together.prompts == PROMPTS
    for i, prompt in enumerate(PROMPTS):
        alone = predictions.next_tokens(bundled, prompt, top=5)
        assert together.ids[i] == alone.ids[0]
        close(together.probabilities[i], alone.probabilities[0])


def test_more_prompts_than_fit_one_batch_keep_their_order(bundled, hf, documents, monkeypatch):
    monkeypatch.setattr("cutaway.analyses.predictions.metrics.BATCH_TOKENS", 50)
    words = documents["1983_ronald_reagan_r.txt"].split()
    prompts = [" ".join(words[i : i + 1 + 7 * i % 13]) for i in range(30)]
    rows = bundled.tokenizer.encode(prompts)[0]
    assert len(group_by_width([len(row) for row in rows])) > 5
    result = predictions.next_tokens(bundled, prompts, top=3)
    assert result.prompts == prompts
    for ids, found, probabilities in zip(rows, result.ids, result.probabilities, strict=True):
        close(probabilities, last_probabilities(hf, ids)[found])


@given(st.lists(st.integers(1, 2 * BATCH_TOKENS), max_size=60))
def test_batches_hold_every_row_in_order_within_the_budget(lengths):
    batches = group_by_width(lengths)
    assert [i for batch in batches for i in batch] == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= BATCH_TOKENS


def test_bos_puts_the_end_of_text_token_in_front(bundled, hf):
    result = predictions.next_tokens(bundled, "The people", top=5, bos=True)
    ids = [bundled.tokenizer.end_of_text, *bundled.tokenizer.encode(["The people"])[0][0]]
    close(result.probabilities[0], last_probabilities(hf, ids).topk(5).values)
    assert result.prompts == ["The people"]
    assert result.meta["parameters"] == {"top": 5, "bos": True}


def test_more_candidates_than_entries_is_the_whole_vocabulary(bundled):
    [probabilities] = predictions.next_tokens(bundled, "The", top=10**6).probabilities
    assert len(probabilities) == bundled.config.d_vocab
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert probabilities == sorted(probabilities, reverse=True)


def test_edits_in_force_change_the_result_and_are_in_its_meta(bundled, hf):
    prompt = "The people of the United"
    with bundled.edited({"blocks.1.mlp_out": 0.0}):
        result = predictions.next_tokens(bundled, prompt, top=5)
    assert result.meta["edits"] == [{"blocks.1.mlp_out": "0.0"}]
    silenced = hf().transformer.h[1].mlp.register_forward_hook(lambda module, inputs, output: output * 0)
    try:
        expected = last_probabilities(hf, bundled.tokenizer.encode([prompt])[0][0]).topk(5)
    finally:
        silenced.remove()
    assert result.ids == [expected.indices.tolist()]
    close(result.probabilities[0], expected.values)
    assert predictions.next_tokens(bundled, prompt, top=5).meta["edits"] == []


def test_tokens_are_read_as_they_are(bundled, hf):
    text = "The people of the United States of America"
    cut = bundled.tokenizer.tokens(text).first(5)
    result = predictions.next_tokens(bundled, cut, top=3)
    close(result.probabilities[0], last_probabilities(hf, cut.rows()[0])[result.ids[0]])
    assert result.prompts == ["The people of the United"]  # what was read, and not the whole of the text


def test_bytes_that_are_no_character_are_told_apart(bundled):
    result = predictions.next_tokens(bundled, "The", top=bundled.config.d_vocab)
    shown = result.summary()
    byte = bundled.tokenizer.vocabulary.index("\u00e2")  # the byte 0xe2, which starts many a quotation mark
    assert result.tokens[0][result.ids[0].index(byte)] == "\ufffd"
    assert "\\xe2" in shown
    assert "\ufffd" not in shown


def test_table_is_one_row_a_prompt_and_candidate(bundled):
    result = predictions.next_tokens(bundled, PROMPTS, top=3)
    table = result.table()
    assert list(table.columns) == ["prompt", "rank", "token_id", "token", "probability"]
    assert table["prompt"].tolist() == [prompt for prompt in PROMPTS for _ in range(3)]
    assert table["rank"].tolist() == [1, 2, 3] * len(PROMPTS)
    assert table["probability"].tolist() == pd.Series(result.probabilities).explode().tolist()


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("", {}, "the text is empty: at least one token was expected"),
        (["a", ""], {}, "text 2 of 2 is empty"),
        ([], {}, "no text was given"),
        ("a " * 600, {}, "and the model's context is 512"),
        ("a", {"top": 0}, "top=0: a whole number of at least 1 was expected"),
        ("a", {"top": 2.5}, "top=2.5: a whole number of at least 1 was expected"),
        ([b"a"], {}, "a text is a string, got bytes"),
    ],
)
def test_mistakes_are_named(bundled, prompts, options, message):
    with pytest.raises(InputError, match=message):
        predictions.next_tokens(bundled, prompts, **options)
