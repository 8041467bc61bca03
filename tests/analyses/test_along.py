"""predictions.along beside a naive loop: transformers on each prefix alone, and SciPy's log-softmax."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from cutaway import logit_lens, predictions
from cutaway.errors import InputError, TokenizerError
from cutaway.text.tokens import Tokens

TEXT = "The people of the United States caf\u00e9 \u6771\U0001f600\n\n to form"


@torch.no_grad()
def naive(model, ids):
    """log p over the vocabulary after each prefix, each prefix a forward pass of its own: [pos, V]."""
    logits = [model(torch.tensor([ids[: i + 1]])).logits[0, -1].double().numpy() for i in range(len(ids))]
    return np.stack([log_softmax(row) for row in logits])


@pytest.mark.parametrize(
    ("dtype", "rel", "bos"), [(torch.float64, 1e-9, False), (torch.float64, 1e-9, True), (torch.float32, 1e-5, False)]
)
def test_every_prefix_equals_a_pass_of_its_own(bundled, bundled64, hf, dtype, rel, bos):
    result = predictions.along(bundled64 if dtype == torch.float64 else bundled, TEXT, top=6, bos=bos)
    expected = naive(hf(dtype), result.ids)
    order = np.argsort(-expected, axis=1, kind="stable")
    assert result.top_ids.tolist() == order[:, :6].tolist()
    np.testing.assert_allclose(
        result.top_probabilities, np.exp(np.take_along_axis(expected, order[:, :6], 1)), rtol=4 * rel
    )
    np.testing.assert_allclose(result.entropy, -(np.exp(expected) * expected).sum(1), rtol=10 * rel)
    came = np.array(result.ids[1:])
    log_p = np.take_along_axis(expected[:-1], came[:, None], 1)[:, 0]
    np.testing.assert_allclose(result.next_loss, -log_p, rtol=rel, atol=rel)
    np.testing.assert_allclose(result.next_probability, np.exp(log_p), rtol=10 * rel)
    assert result.next_rank.tolist() == [1 + int((row > row[i]).sum()) for row, i in zip(expected, came, strict=False)]


def test_where_all_logits_are_equal_every_rank_is_one(bundled):
    with bundled.edited({"ln_final.out": 0.0}):
        result = predictions.along(bundled, TEXT)
    V = bundled.config.d_vocab
    assert set(result.next_rank.tolist()) == {1}
    np.testing.assert_allclose(result.next_loss, math.log(V), rtol=1e-6)
    np.testing.assert_allclose(result.top_probabilities, 1 / V, rtol=1e-6)


def test_a_tie_counts_the_larger_alone(bundled):
    """Two entries share the largest logit: both rank 1, and the next one 3."""
    first, second, third = (bundled.tokenizer.single(text) for text in (" the", " of", " and"))

    def tie(logits, ctx):
        logits = torch.zeros_like(logits)
        logits[..., [first, second]] = 5.0
        logits[..., third] = 4.0
        return logits

    with bundled.edited({"logits": tie}):
        result = predictions.along(
            bundled, Tokens.from_lists([[0, first, second, third, 1]], tokenizer=bundled.tokenizer)
        )
    assert result.next_rank.tolist() == [1, 1, 3, 4]


def test_a_long_text_equals_one_pass_of_transformers(bundled, hf, documents):
    cut = bundled.tokenizer.tokens(documents["1914_woodrow_wilson_d.txt"]).first(512)
    result = predictions.along(bundled, cut, top=3)
    with torch.no_grad():
        expected = hf()(cut.ids).logits[0].double().log_softmax(-1)
    losses = -expected[:-1].gather(1, cut.ids[0, 1:, None])[:, 0]
    np.testing.assert_allclose(result.next_loss, losses, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(result.top_probabilities, expected.exp().topk(3).values, rtol=1e-4)
    assert float(losses.mean()) == pytest.approx(result.table().groupby("position")["loss"].first().mean(), rel=1e-5)


def test_a_pass_that_is_there_already_serves(bundled):
    run = bundled.run(TEXT, capture="attn_out")
    given, own = predictions.along(bundled, TEXT, run=run), predictions.along(bundled, TEXT)
    assert given.to_dict() == own.to_dict()
    with pytest.raises(InputError, match="over other tokens"):
        predictions.along(bundled, TEXT + " and", run=run)


def test_entropy_where_tokens_are_ruled_out(bundled):
    with bundled.edited(
        {"logits": lambda logits, ctx: torch.zeros_like(logits).index_fill(-1, torch.arange(8000), -torch.inf)}
    ):
        result = predictions.along(bundled, TEXT)
    np.testing.assert_allclose(result.entropy, math.log(bundled.config.d_vocab - 8000), rtol=1e-5)


def test_one_token_has_candidates_and_nothing_that_came(bundled):
    result = predictions.along(bundled, "a", top=3)
    assert result.next_loss.shape == result.next_rank.shape == (0,)
    assert result.summary() == "one token: nothing to compare a prediction with"
    table = result.table()
    assert len(table) == 3
    assert table[["next_id", "next", "next_probability", "next_rank", "loss"]].isna().all(axis=None)


def test_table_is_long_and_says_what_came(bundled):
    result = predictions.along(bundled, TEXT, top=4)
    n, table, candidates = len(result.ids), result.table(), result.candidates()
    assert list(candidates.columns) == ["position", "rank", "token_id", "token", "probability"]
    assert list(table.columns) == [
        *["position", "read", "next_id", "next", "next_probability", "next_rank", "entropy", "loss"],
        *["rank", "token_id", "token", "probability"],
    ]
    assert table[candidates.columns].equals(candidates)
    assert table["position"].tolist() == [i for i in range(n) for _ in range(4)]
    assert table["rank"].tolist() == [1, 2, 3, 4] * n
    first = table.groupby("position").first()
    assert first["read"].tolist() == result.tokens
    assert first["next_id"].tolist()[:-1] == result.ids[1:]
    assert first["next"].tolist()[:-1] == result.tokens[1:]
    assert first["loss"].tolist()[:-1] == result.next_loss.tolist()
    assert first["next_rank"].tolist()[:-1] == result.next_rank.tolist()
    np.testing.assert_allclose(first["next_probability"][:-1], np.exp(-first["loss"][:-1]), rtol=1e-12)


def test_strings_are_data_and_display_is_for_eyes(bundled):
    result = predictions.along(bundled, " caf\u00e9 \U0001f600\n\t")
    encoded = " caf\u00e9 \U0001f600\n\t".encode()
    pieces = [bundled.tokenizer.bytes(i) for i in result.ids]
    assert b"".join(pieces) == encoded
    assert result.tokens == [piece.decode("utf-8", "replace") for piece in pieces]
    assert "\\xf0" in result.display
    assert result.display[0][0] == "·"
    assert not any(c in "".join(result.display) for c in " \n\t\ufffd")
    assert [len(row) for row in result.top_display] == [len(row) for row in result.top_tokens] == [10] * len(pieces)


def test_summary_gives_loss_perplexity_and_surprises(bundled):
    result = predictions.along(bundled, TEXT)
    loss = result.next_loss.mean().item()
    lines = result.summary().splitlines()
    assert lines[0] == f"{len(result.ids)} tokens; mean loss {loss:.3f} nats a token (perplexity {math.exp(loss):,.1f})"
    assert f"{(result.next_rank == 1).double().mean():.1%} of the time" in lines[1]
    worst = int(result.next_loss.argmax())
    assert f"most surprising: {result.display[worst + 1]} ({result.next_loss[worst]:.1f} nats" in lines[2]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (["one", "two"], {}, "2 texts were given: predictions.along reads one"),
        ("", {}, "the text is empty"),
        ("the " * 600, {}, "has [\\d,]+ tokens and the model's context is 512"),
        ("a", {"top": -1}, "top=-1: a whole number of at least 1 was expected"),
    ],
)
def test_mistakes_are_named(bundled, text, options, message):
    with pytest.raises(InputError, match=message):
        predictions.along(bundled, text, **options)


@pytest.mark.parametrize("text", ["The people of the United", " people of"])  # of two tokens the last is one in place
def test_a_run_that_kept_the_last_logits_alone_is_refused(bundled, text):
    with pytest.raises(InputError, match="kept only the last logits"):
        predictions.along(bundled, text, run=bundled.run(text, logits="last"))
    given = predictions.along(bundled, text, run=bundled.run(text))
    assert given.to_dict() == predictions.along(bundled, text).to_dict()


def test_without_a_tokenizer_text_is_refused(wordless):
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        predictions.along(wordless[0], "a")


def test_a_run_under_other_edits_is_refused(bundled):
    """Its numbers are an edited model's, and the result would not say so."""
    plain = bundled.run(TEXT)
    edited = bundled.run(TEXT, edits={"blocks.0.mlp_out": 0.0})
    with bundled.edited({"blocks.0.mlp_out": 0.0}):
        inside = bundled.run(TEXT)
        own = predictions.along(bundled, TEXT)
        assert torch.equal(predictions.along(bundled, TEXT, run=inside).top_ids, own.top_ids)
        with pytest.raises(InputError, match="run= was made under other edits"):
            predictions.along(bundled, TEXT, run=plain)
    for run in (edited, inside):
        for read in (predictions.along, logit_lens.read):
            with pytest.raises(InputError, match=r"other edits than are in force now: make it and read it inside"):
                read(bundled, TEXT, run=run)
    assert plain.edits == []
    assert edited.edits == inside.edits == [{"blocks.0.mlp_out": "0.0"}]
