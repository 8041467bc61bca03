"""Attention patterns and scores against transformers' attentions and loops, and of heads written by hand."""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

import cutaway
from cutaway import attention
from cutaway.analyses.attention.scores import SCORES, HeadScores, random_repeated
from cutaway.errors import InputError
from cutaway.model.checkpoints.checkpoint import bundled_folder
from cutaway.surveys.survey import feed
from cutaway.text.batches import batches
from cutaway.text.corpus import open_corpus
from tests import induction
from tests import results as all_results

TEXT = "The people of the United States are free, and the people of the United Kingdom are at peace."


@pytest.fixture(scope="module")
def eager():
    found = GPT2LMHeadModel.from_pretrained(
        bundled_folder(), dtype=torch.float64, attn_implementation="eager", local_files_only=True
    )
    return found.eval()


def attentions(model, ids):
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    return torch.cat(found).numpy()  # layer head query key


def entries(pattern, ids):
    """Return the values of each score, one a query, by its definition, for one head's pattern."""
    found = {name: [] for name in SCORES}
    for i in range(1, len(ids)):
        row = pattern[i, : i + 1]
        found["previous"].append(row[i - 1])
        found["first"].append(row[0])
        found["entropy"].append(-sum(a * np.log(a) for a in row))
        found["distance"].append(sum(a * (i - j) for j, a in enumerate(row)))
        earlier = [j for j in range(i) if ids[j] == ids[i]]
        if earlier:
            found["duplicate"].append(sum(row[j] for j in earlier))
            found["induction"].append(sum(row[j + 1] for j in earlier))
    return found


def test_patterns_and_scores_are_those_of_transformers_attentions(bundled64, eager):
    found = attention.read(bundled64, TEXT, repeats=2)
    expected = attentions(eager, found.ids)
    np.testing.assert_allclose(found.patterns, expected, rtol=1e-9, atol=1e-12)
    rows = random_repeated(bundled64, 2).tolist()
    random = [attentions(eager, row) for row in rows]
    for layer, head in [(0, 0), (1, 2), (2, 5), (3, 7)]:
        on_text = entries(expected[layer, head], found.ids)
        of_random = [entries(each[layer, head], row) for each, row in zip(random, rows, strict=True)]
        for name in SCORES:
            values = on_text[name]
            if name in ("duplicate", "induction"):
                values = [value for each in of_random for value in each[name]]
                assert len(values) == 100
            assert found.score(name)[layer, head].item() == pytest.approx(np.mean(values), rel=1e-9)
    table = found.table()
    assert list(table) == ["layer", "head", *SCORES]
    assert table.loc[(table["layer"] == 2) & (table["head"] == 5), "previous"].item() == found.scores[2, 5, 0]
    assert table["previous"].idxmax() == 8 * found.strongest("previous")[0] + found.strongest("previous")[1]


def test_random_tokens_are_different_none_special_and_repeated(bundled):
    ids = random_repeated(bundled, 3, seed=5)
    assert ids.shape == (3, 100)
    assert torch.equal(ids[:, :50], ids[:, 50:])
    assert all(len(set(row)) == 50 for row in ids.tolist())
    assert bundled.tokenizer.end_of_text not in ids
    assert torch.equal(ids, random_repeated(bundled, 3, seed=5))
    assert not torch.equal(ids, random_repeated(bundled, 3, seed=6))
    behind = random_repeated(bundled, 3, seed=5, bos=True)
    assert torch.equal(behind[:, 1:], ids)
    assert behind[:, 0].tolist() == [bundled.tokenizer.end_of_text] * 3


def test_random_tokens_leave_out_no_token_but_the_end_of_text(tmp_path):
    """Where the vocabulary is so small that each row holds all that may be drawn."""
    folder = all_results.save_tiny(tmp_path, pieces=["<|endoftext|>", *"abcdefghij"])
    ids = random_repeated(cutaway.load(folder, device="cpu"), 3)
    assert [sorted(row) for row in ids[:, :10].tolist()] == [list(range(1, 11))] * 3
    assert torch.equal(ids[:, :10], ids[:, 10:])


def test_bos_is_position_0(bundled64):
    found = attention.read(bundled64, TEXT, bos=True)
    assert found.ids[0] == bundled64.tokenizer.end_of_text
    assert (found.front, found.period) == (1, 50)
    torch.testing.assert_close(found.score("first"), found.patterns[:, :, 1:, 0].mean(-1))


# --- heads of a known kind ---


def test_heads_written_by_hand_are_found():
    model = induction.model()
    P = induction.P
    ids = torch.randint(induction.V, (1, P), generator=torch.Generator().manual_seed(1))
    found = attention.read(model, ids)
    assert found.period == P // 2
    assert found.strongest("previous") == (0, 0)
    assert found.score("previous")[0, 0] > 0.999
    torch.testing.assert_close(found.patterns[0, 0].diagonal(-1), torch.ones(P - 1).double(), rtol=0, atol=1e-3)
    assert found.score("distance")[0, 0] == pytest.approx(1, abs=1e-3)
    assert found.score("entropy")[0, 0] < 0.01
    assert found.strongest("induction") == (1, 1)
    # Position 0 has none before it, writes its own token down, and takes what is owed to position 1.
    assert found.score("induction")[1, 1] == pytest.approx((P // 2 - 1) / (P // 2), abs=0.01)
    assert found.strongest("duplicate") == (1, 0)
    assert found.score("duplicate")[1, 0] == pytest.approx(0.5, abs=0.01)  # the other half is the token itself
    others = [(0, 0), (0, 1), (1, 0)]
    assert max(found.score("induction")[at].item() for at in others) < 0.2
    assert found.has_induction()
    assert dict(found.facts())["strongest induction head"].startswith("head 1.1 (0.9")


def test_the_bundled_model_has_no_induction_head(bundled):
    found = attention.read(bundled, TEXT)
    assert not found.has_induction()
    assert dict(found.facts())["strongest induction head"] == "none found"
    even = torch.full((100, 100), 1.0).tril()
    even = even / even.sum(1, keepdim=True)
    assert found.even == pytest.approx(even[50:, 1:].diagonal(0).mean().item(), rel=1e-6)


# --- over documents ---


def test_means_over_documents_are_plain_means(bundled64, eager, documents):
    texts = {"a": TEXT, "b": next(iter(documents.values()))[:3000], "c": "We, the people, we.", "d": "a"}
    found = attention.average(bundled64, texts, resamples=20)
    values = {}
    for [ids] in (bundled64.tokenizer.encode([text])[0] for text in texts.values()):
        for start in range(0, len(ids), 512):
            window = list(ids[start : start + 512])
            pattern = attentions(eager, window)
            for layer, head in [(0, 3), (3, 6)]:
                for name, each in entries(pattern[layer, head], window).items():
                    values.setdefault((layer, head, name), []).extend(each)
    for (layer, head, name), each in values.items():
        assert found.score(name)[layer, head].item() == pytest.approx(np.mean(each), rel=1e-9)
        assert found.queries[SCORES.index(name)] == len(each)
    assert found.documents == 3
    assert "rough" in found.summary()
    assert len(found.table()) == 4 * 8 * 6


def test_intervals_resample_whole_documents(bundled):
    one = attention.average(bundled, [TEXT], resamples=20)
    assert one.low.isnan().all()
    assert one.high.isnan().all()
    assert "nan" not in one.summary()
    texts = [TEXT[i : i + 40] for i in range(0, 50, 5)]
    many = attention.average(bundled, texts, resamples=4000)
    alone = [attention.average(bundled, [text], resamples=1) for text in texts]
    counts = np.array([each.queries[0] for each in alone])
    sums = np.array([each.score("previous")[2, 5].item() for each in alone]) * counts
    draws = np.random.default_rng(0).integers(len(texts), size=(20000, len(texts)))
    plain = np.percentile(sums[draws].sum(1) / counts[draws].sum(1), [2.5, 97.5])
    np.testing.assert_allclose([many.low[2, 5, 0], many.high[2, 5, 0]], plain, atol=0.1 * (plain[1] - plain[0]))


def test_sinks_merge_and_come_back_from_their_state(bundled64):
    source = open_corpus([TEXT, "We, the people, we.", "The war in Cuba", "a war, a war"])
    whole, left, right = (HeadScores("blocks.1.attn.pattern") for _ in range(3))
    for i, batch in enumerate(batches(source, bundled64.tokenizer, 20, 8)):
        feed(bundled64, batch, [whole])
        feed(bundled64, batch, [(left, right)[i % 2]])
    back = right.empty()
    back.load_state(right.state())
    left.merge(back)
    for got, want in zip(left.totals(), whole.totals(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    with pytest.raises(InputError, match="settings must be the same"):
        left.merge(HeadScores("blocks.2.attn.pattern"))


# --- edges ---


def test_one_token_has_nothing_to_measure(bundled):
    found = attention.read(bundled, "a")
    assert found.score("previous").isnan().all()
    assert "nothing to measure" in found.summary()
    found.chart().to_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: attention.read(m, [TEXT, TEXT]), "2 texts were given: attention.read reads one"),
        (lambda m: attention.read(m, TEXT, repeats=0), "repeats=0: a whole number of at least 1"),
        (lambda m: attention.read(m, TEXT).score("sharp"), "no score is called 'sharp': there are previous"),
        (lambda m: attention.average(m, ["a"]), "no document has two tokens"),
    ],
)
def test_mistakes_are_named(bundled, make, message):
    with pytest.raises(InputError, match=message):
        make(bundled)
