"""Token ids as a corpus: the numbers are those of the texts, with and without a tokenizer."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import cutaway
from cutaway.errors import InputError, TokenizerError
from cutaway.model.model import Model
from cutaway.stats import Counts, Moments
from cutaway.surveys.survey import survey
from cutaway.text import batches, corpus
from cutaway.text.batches import model_batches
from cutaway.text.corpus import Document, open_corpus
from cutaway.text.tokens import Tokens


@pytest.fixture(scope="module")
def texts():
    return {d.id: d.text[: 300 + 200 * i] for i, d in enumerate(corpus.bundled()[:4])}


@pytest.fixture(scope="module")
def ids(bundled, texts):
    return bundled.tokenizer.encode(list(texts.values()))[0]


@pytest.fixture(scope="module")
def wordless(bundled):
    return Model(bundled.config, bundled.weights, None, name="wordless")


def nanogpt(path, rows, end):
    """Write ids as nanoGPT's data/openwebtext/prepare.py does: each document's ids, then the end of text."""
    flat = np.array([i for row in rows for i in [*row, end]], dtype=np.uint16)
    mapped = np.memmap(path, dtype=np.uint16, mode="w+", shape=(len(flat),))
    mapped[:] = flat
    mapped.flush()
    return path


def written(folder, name, rows, end):
    path = folder / name
    if path.suffix == ".bin":
        return nanogpt(path, rows, end)
    if path.suffix == ".npy":
        np.save(path, np.array([i for row in rows for i in [*row, end]], dtype=np.uint16))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"input_ids": rows}), path, row_group_size=2)
    elif path.suffix == ".csv":
        path.write_text("input_ids,n\n" + "".join(f'"{row}",1\n' for row in rows))
    else:
        path.write_text("\n".join(json.dumps({"input_ids": row, "n": 1}) for row in rows))
    return path


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", ["a.bin", "a.npy", "a.parquet", "a.jsonl", "a.csv"])
def test_batches_of_ids_are_those_of_the_texts(bundled, texts, ids, tmp_path, name, bos):
    path = written(tmp_path, name, ids, bundled.tokenizer.end_of_text)
    expected = list(model_batches(bundled, open_corpus(texts), 300, bos))
    found = list(model_batches(bundled, open_corpus(path), 300, bos))
    numbers = {number: f"{path}:{number + (name == 'a.jsonl')}" for number in range(len(texts))}
    assert len(found) == len(expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens.rows() == theirs.tokens.rows()
        assert [(r.document, r.offset, r.front) for r in ours.rows] == [
            (numbers[r.number], r.offset, r.front) for r in theirs.rows
        ]


@pytest.mark.parametrize("header", [None, 20240520, 20240801])
def test_headers_of_llm_c_are_no_ids(bundled, ids, tmp_path, header):
    end, path = bundled.tokenizer.end_of_text, tmp_path / "a.bin"
    if header:
        numbers = np.zeros(256, dtype=np.int32)
        numbers[:3] = header, 1, sum(map(len, ids)) + len(ids)
        kind = np.uint16 if header == 20240520 else np.uint32
        path.write_bytes(numbers.tobytes() + np.array([i for row in ids for i in [end, *row]], dtype=kind).tobytes())
    else:
        nanogpt(path, ids, end)
    found = {}
    for row in sorted(
        (r for b in model_batches(bundled, open_corpus(path), 9999) for r in b.rows), key=lambda r: r.offset
    ):
        found.setdefault(row.number, []).extend(row.ids.tolist())
    assert [found[number] for number in sorted(found)] == ids


def test_a_stream_without_ends_is_one_document_in_windows_and_never_whole_in_memory(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "AT_ONCE", 100)
    context, n = bundled.config.n_ctx, 10_000
    ids = np.random.default_rng(0).integers(0, 5000, n).astype(np.uint16)
    ids.tofile(tmp_path / "a.bin")
    [document] = open_corpus(tmp_path / "a.bin")
    assert isinstance(document.ids, np.memmap)
    rows = [
        row
        for batch in batches.batches(open_corpus(tmp_path / "a.bin"), None, 4096, context, 3, d_vocab=8192)
        for row in batch.rows
    ]
    assert {row.document for row in rows} == {str(tmp_path / "a.bin")}
    assert {row.number for row in rows} == {0}
    by_offset = sorted(rows, key=lambda row: row.offset)
    assert [row.offset for row in by_offset] == list(range(0, n, context))
    assert np.concatenate([row.ids for row in by_offset]).tolist() == ids.tolist()
    first = [row.offset for row in rows[:3]]
    assert sorted(first) == [0, context, 2 * context]  # three windows are a group


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_documents_of_a_stream_wherever_its_ends_are(bundled, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(batches, "AT_ONCE", at_once)
    end = bundled.tokenizer.end_of_text
    rows = [[], [1, 2, 3], [], [4], [5] * 20, [6, 7]]
    nanogpt(tmp_path / "a.bin", rows, end)
    found = list(batches.batches(open_corpus(tmp_path / "a.bin"), bundled.tokenizer, 1000, 8))
    pieces = sorted((row.number, row.offset, row.document[-1], row.ids.tolist()) for b in found for row in b.rows)
    assert pieces == [
        (0, 0, "1", [1, 2, 3]),
        (1, 0, "3", [4]),
        (2, 0, "4", [5] * 8),
        (2, 8, "4", [5] * 8),
        (2, 16, "4", [5] * 4),
        (3, 0, "5", [6, 7]),
    ]


def same(found, expected):
    ours, theirs = found.table(), expected.table()
    for name in theirs:
        if theirs[name].dtype.kind in "fi":
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


ANALYSES = {
    "losses": lambda model, source: cutaway.predictions.losses(model, source),
    "lens": lambda model, source: cutaway.logit_lens.average(model, source),
    "attention": lambda model, source: cutaway.attention.average(model, source),
    "norms": lambda model, source: cutaway.norms.measure(model, source),
    "ablation": lambda model, source: cutaway.ablation.run(model, source, "blocks.0.mlp_out", resamples=10),
    "states": lambda model, source: cutaway.states.measure(
        model, source, "resid_post", [0], sample=100, replicates=19, resamples=2
    ),
    "unigram": lambda model, source: cutaway.unigram.compare(model, source),
}


@pytest.mark.slow
@pytest.mark.parametrize("analysis", ANALYSES)
def test_analyses_read_ids_as_they_read_the_texts(bundled, wordless, texts, ids, analysis):
    make = ANALYSES[analysis]
    named = [Document(name, ids=np.array(row)) for name, row in zip(texts, ids, strict=True)]
    expected = make(bundled, texts)
    same(make(bundled, named), expected)
    found = make(wordless, named)
    same(found, expected)
    assert found.summary()
    json.dumps(found.to_dict())


@pytest.mark.parametrize("make", [cutaway.predictions.losses, cutaway.logit_lens.average, cutaway.attention.average])
def test_tokens_and_tensors_are_documents(bundled, texts, ids, make):
    expected = make(bundled, texts)
    same(make(bundled, Tokens.from_lists(ids)), expected)
    same(make(bundled, bundled.tokenizer.tokens(list(texts.values()))), expected)
    width = min(map(len, ids))
    cut = Tokens.from_lists([row[:width] for row in ids])
    same(make(bundled, cut.ids), make(bundled, cut))


def test_a_survey_of_ids(bundled, wordless, texts, ids, tmp_path):
    path = written(tmp_path, "a.jsonl", ids, None)
    sinks = {"resid_post": [Moments()], "ids": [Counts(bundled.config.d_vocab)]}
    expected = survey(bundled, texts, sinks)
    for model in (bundled, wordless):
        found = survey(model, path, sinks, state=tmp_path / f"{model.name}.npz")
        again = survey(model, path, sinks, state=tmp_path / f"{model.name}.npz")
        assert (found.documents, found.tokens) == (again.documents, again.tokens) == (len(texts), sum(map(len, ids)))
        for one in (found, again):
            mean = one["blocks.1.resid_post"]["moments"].result().mean
            np.testing.assert_allclose(mean, expected["blocks.1.resid_post"]["moments"].result().mean, rtol=1e-6)
            assert (one["ids"]["counts"].result() == expected["ids"]["counts"].result()).all()


@pytest.mark.parametrize("wrong", [8192, 50256, -100, 2**40])
def test_ids_of_another_vocabulary_are_an_error(bundled, wrong):
    source = [[1, 2], [3, wrong, 4]]
    message = (
        rf"^text 2 has token id {wrong}, outside the vocabulary \(0 to 8191\): are these another tokenizer's ids\?$"
    )
    with pytest.raises(InputError, match=message):
        cutaway.predictions.losses(bundled, source)
    with pytest.raises(InputError, match=message):  # also where the model never runs
        survey(bundled, source, {"ids": [Counts(8192)]})


def test_ids_in_a_stream_of_another_vocabulary_are_an_error(bundled, tmp_path):
    nanogpt(tmp_path / "a.bin", [[1, 2], [3, 60_000]], bundled.tokenizer.end_of_text)
    with pytest.raises(InputError, match=r"a\.bin:1 has token id 60000, outside the vocabulary \(0 to 8191\)"):
        survey(bundled, tmp_path / "a.bin", {"resid_post": [Moments()]})


def test_a_stream_for_a_gpt2_without_a_tokenizer_ends_where_gpt2s_does(tmp_path):
    nanogpt(tmp_path / "a.bin", [[1, 2], [3]], 50256)
    found = batches.batches(open_corpus(tmp_path / "a.bin"), None, 100, 10, d_vocab=50257)
    assert sorted(row.ids.tolist() for batch in found for row in batch.rows) == [[1, 2], [3]]


def test_texts_and_bos_need_a_tokenizer(wordless, ids):
    with pytest.raises(TokenizerError, match=r"^the checkpoint has no tokenizer: give a corpus of token ids"):
        cutaway.predictions.losses(wordless, ["some text"])
    with pytest.raises(TokenizerError, match=r"^bos=True needs the end-of-text token, and the checkpoint has no token"):
        cutaway.predictions.losses(wordless, ids, bos=True)


def test_ids_that_are_text_in_a_csv_are_never_read_as_text(tmp_path):
    path = Path(tmp_path / "a.csv")
    path.write_text('input_ids\n"[1, 2]"\n"1 2 3"\n')
    found = open_corpus(path)
    assert [d.ids.tolist() for d in found] == [[1, 2]]
    assert found.problems.named == [f"{path}:1: not a list of token ids"]


def test_padding_without_a_mask_of_its_length_is_left_out():
    found = open_corpus([{"input_ids": [1, 2], "attention_mask": [1]}, {"input_ids": [1, 2], "attention_mask": [1, 0]}])
    assert [d.ids.tolist() for d in found] == [[1]]
    assert re.search("attention_mask of another length than input_ids", found.problems.named[0])
