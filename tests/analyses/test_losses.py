"""predictions.losses beside transformers' own cross entropy over the same windows."""

import pytest
import torch

from cutaway import predictions
from cutaway.errors import InputError

CONTEXT = 512


def cut_to(tokenizer, text, n):
    """A stretch of a text that is exactly n tokens by itself."""
    for start in range(0, 4000, 7):
        offsets = tokenizer.encode([text[start:]])[1][0]
        piece = text[start:][: offsets[n - 1][1]]
        if len(tokenizer.encode([piece])[0][0]) == n:
            return piece
    raise AssertionError("no such stretch")


@torch.no_grad()
def reference(hf, ids, front):
    """(tokens predicted, mean loss, fraction first) of a document, window by window, by transformers' own loss."""
    room, count, total, first = CONTEXT - len(front), 0, 0.0, 0
    for start in range(0, len(ids), room):
        window = torch.tensor([front + ids[start : start + room]])
        if window.shape[1] < 2:
            continue
        out = hf()(window, labels=window)  # the mean cross entropy of all but the first
        n = window.shape[1] - 1
        count, total = count + n, total + n * out.loss.item()
        first += int((out.logits[0, :-1].argmax(-1) == window[0, 1:]).sum())
    return count, total / count, first / count


@pytest.fixture(scope="module")
def texts(bundled, documents):
    source = documents["2005_george_w_bush_r.txt"]
    lengths = {"short": 50, "longer than the context": 700, "one token over": CONTEXT + 1, "two tokens": 2}
    return {name: cut_to(bundled.tokenizer, source, n) for name, n in lengths.items()}


@pytest.mark.parametrize("bos", [False, True])
def test_losses_equal_transformers_over_the_same_windows(bundled, hf, texts, bos):
    result = predictions.losses(bundled, texts, bos=bos)
    front = [bundled.tokenizer.end_of_text] if bos else []
    expected = [reference(hf, bundled.tokenizer.encode([text])[0][0], front) for text in texts.values()]
    assert result.documents == list(texts)
    assert result.predicted == [count for count, _, _ in expected]
    assert result.loss == pytest.approx([loss for _, loss, _ in expected], rel=1e-5)
    assert result.first_choice == pytest.approx([first for _, _, first in expected], abs=1e-12)
    # A last window of one token predicts nothing, unless the end-of-text token stands in front of it.
    assert result.predicted[2] == (CONTEXT + 1 if bos else CONTEXT - 1)


def test_the_mean_is_over_tokens_and_not_over_documents(bundled, texts):
    result = predictions.losses(bundled, texts)
    total = sum(n * loss for n, loss in zip(result.predicted, result.loss, strict=True))
    assert result.mean == pytest.approx(total / sum(result.predicted), rel=1e-12)
    assert abs(result.mean - sum(result.loss) / len(result.loss)) > 0.05
    assert ("loss, nats a token", f"{result.mean:.3f}") in result.facts()
    assert f"{result.mean:.3f} nats a token" in result.summary()
    by_loss = sorted(zip(result.loss, result.documents, strict=True))
    assert f"easiest {by_loss[0][1]} ({by_loss[0][0]:.2f}), hardest {by_loss[-1][1]}" in result.summary()


def test_the_table_has_a_row_a_document(bundled, texts):
    result = predictions.losses(bundled, texts)
    table = result.table()
    assert list(table.columns) == ["document", "predicted", "loss", "perplexity", "first_choice"]
    assert table["document"].tolist() == list(texts)
    assert table["perplexity"].tolist() == pytest.approx([2.718281828459045**loss for loss in result.loss])


def test_documents_are_named_and_stand_in_their_order(bundled, tmp_path):
    texts = ["The people", "a", "of the United States of America", "", "The Congress"]
    result = predictions.losses(bundled, texts)  # longer ones run first, those without a prediction are left out
    assert result.documents == ["text 1", "text 3", "text 5"]
    (tmp_path / "one.txt").write_text("The people")
    from_file = predictions.losses(bundled, tmp_path / "one.txt")
    assert (from_file.documents, from_file.loss) == ([str(tmp_path / "one.txt")], result.loss[:1])


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ({"tiny": "a"}, InputError, "corpus 1 texts: no document has two tokens"),
        ({"empty": ""}, InputError, "corpus 1 texts holds no text .*empty document"),
        ({}, InputError, "corpus 0 texts holds no text"),
        ([], InputError, "corpus 0 texts holds no text"),
        ([b"bytes"], InputError, "bytes where text was expected"),
        ("The people", InputError, "corpus 'The people': no file there"),
        (["\ud800"], InputError, r"not Unicode text \(half of a surrogate pair\)"),
    ],
)
def test_mistakes_are_named(bundled, texts, error, message):
    with pytest.raises(error, match=message):
        predictions.losses(bundled, texts)
