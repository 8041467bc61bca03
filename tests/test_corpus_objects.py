"""Objects in memory are read as their own libraries read them, or refused."""

import gc
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import cutaway
from cutaway.errors import InputError
from cutaway.text.corpus import Document, open_corpus
from cutaway.text.tokens import Tokens

DOCS = re.sub(r"\s+", " ", (Path(__file__).parent.parent / "docs/corpora.md").read_text(encoding="utf-8"))
TEXTS = ["one text", "another", "the third"]
FRAME = pd.DataFrame({"n": [1, 2, 3], "text": TEXTS})
BODY = FRAME.rename(columns={"text": "body"})
IDS = [[1, 2, 3], [4, 5], [6]]


def read(source, **given):
    return [(d.id, d.text if d.ids is None else d.ids.tolist()) for d in open_corpus(source, **given)]


def numbered(lead, values, first):
    return [(f"{lead}{i}", value) for i, value in enumerate(values, first)]


class Text(str):
    """A subclass of str, as some libraries have."""


TEXT_LIKE = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "Series": FRAME["text"],
    "categories": FRAME["text"].astype("category"),
    "Index": pd.Index(TEXTS),
    "array": np.array(TEXTS),
    "object array": np.array(TEXTS, dtype=object),
    "Arrow array": pa.array(TEXTS),
    "chunked array": pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    "values": dict(enumerate(TEXTS)).values(),
    "keys": dict.fromkeys(TEXTS).keys(),
    "subclass": list(map(Text, TEXTS)),
    "records": FRAME.to_dict("records"),
    "documents": [Document(f"text {i}", text) for i, text in enumerate(TEXTS, 1)],
}


@pytest.mark.parametrize("kind", TEXT_LIKE)
def test_texts(kind):
    for _ in range(2):
        assert read(TEXT_LIKE[kind]) == numbered("text ", TEXTS, 1)
    assert {type(text) for _, text in read(TEXT_LIKE[kind])} == {str}
    assert open_corpus(TEXT_LIKE[kind]).total == 3


ROWS = {
    "DataFrame": FRAME,
    "odd index": FRAME.set_index(pd.Index([7, 7, 7])),
    "columns": FRAME.to_dict("list"),
    "Series by name": {name: FRAME[name] for name in FRAME},
    "table": pa.Table.from_pandas(FRAME),
    "batch": pa.RecordBatch.from_pandas(FRAME),
    "only texts": BODY,
    "only texts of a table": pa.Table.from_pandas(BODY),
    "nested": pa.Table.from_pylist([{"data": {"text": text}} for text in TEXTS]),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows(kind):
    for _ in range(2):
        assert read(ROWS[kind]) == numbered("row ", TEXTS, 0)


@pytest.mark.parametrize("frame", [BODY.assign(title="t"), pa.Table.from_pandas(BODY.assign(title="t"))], ids=type)
def test_a_frame_with_several_texts_wants_a_field_named(frame):
    with pytest.raises(InputError, match=r"has no field 'text': it has n, body, title; name one with field=$"):
        read(frame)
    with pytest.raises(InputError, match=r"has no field 'nothing': it has n, body, title; name one with field=$"):
        read(frame, field="nothing")
    assert read(frame, field="body") == numbered("row ", TEXTS, 0)


def test_missing_values_of_a_frame_are_left_out():
    found = open_corpus(pd.DataFrame({"text": ["a", None, float("nan"), pd.NA, pd.NaT, 3, "b"]}))
    assert [(d.id, d.text) for d in found] == [("row 0", "a"), ("row 6", "b")]
    assert found.problems.counts == {"null where text was expected": 4, "int where text was expected": 1}
    assert read({"a": float("nan"), "b": "x"}) == [("b", "x")]


def test_a_frame_of_two_columns_of_one_name_is_refused():
    with pytest.raises(InputError, match=r"has two columns named 'text': rename one$"):
        read(pd.DataFrame([["a", "b"]], columns=["text", "text"]))


def test_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"n": [1, 2, 3], "text": TEXTS})
    assert read(frame) == numbered("row ", frame["text"].to_list(), 0)
    assert read(frame["text"]) == numbered("text ", TEXTS, 1)
    with pytest.raises(InputError, match=r"^LazyFrame was given as a corpus: collect\(\) it first$"):
        read(frame.lazy())


def test_datasets():
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_pandas(FRAME)
    ids = datasets.Dataset.from_dict({"input_ids": [[1, 2, 0], [4, 0, 0]], "attention_mask": [[1, 1, 0], [1, 0, 0]]})
    assert one["text"][:] == TEXTS
    assert read(one) == read(one.to_iterable_dataset()) == numbered("row ", TEXTS, 0)
    assert read(one.rename_column("text", "body")) == numbered("row ", TEXTS, 0)
    assert read(one["text"]) == numbered("text ", TEXTS, 1)
    assert read(one[:2]) == numbered("row ", TEXTS[:2], 0)
    assert read(one.select([2, 0])) == [("row 0", TEXTS[2]), ("row 1", TEXTS[0])]
    assert read(one.filter(lambda record: record["n"] > 1)) == numbered("row ", TEXTS[1:], 0)
    upper = one.with_transform(lambda batch: {"text": [text.upper() for text in batch["text"]]})
    assert [text for _, text in read(upper)] == [text.upper() for text in TEXTS]
    nested = datasets.Dataset.from_list([{"data": {"text": text, "title": "t"}} for text in TEXTS])
    for given in (nested, nested.to_iterable_dataset()):
        assert read(given, field="data.text") == numbered("row ", TEXTS, 0)
        with pytest.raises(InputError, match=r"has no field 'text': it has data\.text, data\.title; name one with"):
            read(given)
    for form in (None, "torch", "numpy", "pandas"):
        assert read(ids.with_format(form)) == [("row 0", [1, 2]), ("row 1", [4])]
    splits = {"train": one, "test": one.select([0])}
    expected = [*numbered("train:", TEXTS, 0), ("test:0", TEXTS[0])]
    assert read(datasets.DatasetDict(splits)) == expected
    streams = {name: split.to_iterable_dataset() for name, split in splits.items()}
    assert read(datasets.IterableDatasetDict(streams)) == expected
    assert open_corpus(one).total == 3
    with pytest.raises(InputError, match=r"^a Dataset has no field 'body': it has n, text; name one with field=$"):
        read(one, field="body")


def test_a_dataset_on_disk_is_its_rows_without_what_is_cached_beside_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_pandas(FRAME).save_to_disk(tmp_path / "saved")
    saved = datasets.load_from_disk(tmp_path / "saved")
    saved.map(lambda record: {"text": record["text"].upper()})
    assert list((tmp_path / "saved").glob("cache-*.arrow"))
    assert [text for _, text in read(tmp_path / "saved")] == saved["text"][:] == TEXTS


TOKEN_IDS = {
    "lists": ("text ", IDS, 1),
    "arrays": ("text ", [np.array(row, dtype=np.uint16) for row in IDS], 1),
    "tensors": ("text ", list(map(torch.tensor, IDS)), 1),
    "Tokens": ("text ", Tokens.from_lists(IDS), 1),
    "records": ("text ", [{"input_ids": row} for row in IDS], 1),
    "records of one row": ("text ", [{"input_ids": torch.tensor([row])} for row in IDS], 1),
    "columns": ("row ", {"input_ids": IDS}, 0),
    "frame": ("row ", pd.DataFrame({"input_ids": IDS}), 0),
    "table": ("row ", pa.table({"input_ids": IDS}), 0),
    "large lists": ("row ", pa.table({"input_ids": pa.array(IDS, pa.large_list(pa.uint16()))}), 0),
    "by name": ("", {0: IDS[0], 1: IDS[1], 2: IDS[2]}, 0),
}


@pytest.mark.parametrize("kind", TOKEN_IDS)
def test_token_ids(kind):
    lead, source, first = TOKEN_IDS[kind]
    assert read(source) == numbered(lead, IDS, first)


@pytest.mark.parametrize("form", [None, "pt", "np"])
def test_what_a_tokenizer_returns_is_its_ids_without_the_padding(bundled, form):
    transformers = pytest.importorskip("transformers")
    from cutaway.model.checkpoints.checkpoint import bundled_folder

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bundled_folder() / "tokenizer.json"))
    tokenizer.pad_token = "<|endoftext|>"
    encoded = tokenizer(TEXTS, padding=True, return_tensors=form)
    expected = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert read(encoded) == read(dict(encoded)) == numbered("row ", expected, 0)
    assert read(tokenizer(TEXTS[0], return_tensors=form)) == [("row 0", expected[0])]
    assert expected == bundled.tokenizer.encode(TEXTS)[0]


def test_tensors_are_rows():
    for array in (np.array([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 4]])):
        assert read(array) == [("text 1", [1, 2]), ("text 2", [3, 4])]


def test_paths_of_a_generator(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"text of {name}")
    expected = [(str(tmp_path / f"{name}.txt"), f"text of {name}") for name in "ab"]
    assert sorted(read(tmp_path.glob("*.txt"))) == expected
    assert read(tuple(sorted(tmp_path.iterdir()))) == expected


def test_one_record_is_one_document():
    assert read({"text": "words", "label": 3, "tags": ["a"]}) == [("row 0", "words")]
    assert read({"body": "words", "label": 3}, field="body") == [("row 0", "words")]
    assert read({"text": "words"}) == [("text", "words")]


REFUSED = {
    "bytes": (b"abc", r"bytes was given as a corpus: decode them, and give a list of texts"),
    "set": (
        {"a", "b"},
        r"set was given as a corpus: a set has no order, .*: sorted\(texts\)",
    ),
    "int": (3, "int was given as a corpus: paths, texts, records or token ids were expected"),
    "object": (object(), "object was given as a corpus: paths, texts"),
    "function": (len, "builtin_function_or_method was given as a corpus: paths, texts"),
    "ids": ([1, 2, 3], r"list was given as a corpus: a row of ids goes in a list of rows, \[ids\]"),
    "array of ids": (np.array([1, 2]), r"ndarray was given as a corpus: a row of ids goes in a list of rows, \[ids\]"),
    "0-d": (torch.tensor(3), "Tensor was given as a corpus: a row of ids"),
    "floats": (torch.ones(2, 2), "Tensor was given as a corpus: numbers, but not token ids: integers were expected"),
    "booleans": (np.ones((2, 2), dtype=bool), "ndarray was given as a corpus: numbers, but not token ids"),
    "ids [1, 2, 3]": (np.zeros((1, 2, 3), dtype=int), "holds no text .*ndarray where text was expected"),
    "record": ({"text": "a", "title": "b"}, r"has a key 'text' and others: one record goes in a list, \[record\]"),
    "numbers": ({"a": 1, "b": 2}, "a dict: texts by id were expected, and 'a' holds int"),
    "unequal": ({"text": ["a"], "n": [1, 2]}, "columns of one length were expected, and they have text 1, n 2"),
    "pairs": ([("a", "b")], "tuple where text was expected"),
    "mixed": ([Path("a.txt"), "text"], "str among paths: only paths, or only texts, were expected"),
    "mixed, too": (["text", Path("a.txt")], "PosixPath among texts: only paths, or only texts, were expected"),
    "text": ("The war was long and hard.", r"no file there; .* was expected; a text goes in a list, \[text\]$"),
    "long text": ("The war was long. " * 500, r"a text goes in a list, \[text\]$"),
    "nul": ("a\0b.txt", "no file there"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_a_corpus_is_refused_by_name(kind):
    source, message = REFUSED[kind]
    with pytest.raises(InputError, match=message) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_open_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("two\nlines")
    with (
        (tmp_path / "a.txt").open() as file,
        pytest.raises(InputError, match="line by line: give its path"),
    ):
        read(file)


def test_a_list_of_names_of_files_is_no_list_of_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputError, match=r"'a\.txt' names an existing file: give pathlib's paths, \[Path\(name\) for"):
        read(["a.txt", "b.txt"])
    assert read(["notes", "a.txt?"]) == [("text 1", "notes"), ("text 2", "a.txt?")]  # words, whatever folders there are


def test_an_iterator_is_read_once():
    found = open_corpus(text for text in TEXTS)
    assert len(list(found)) == 3
    with pytest.raises(InputError, match=r"^an iterator \(generator\) is read once, and it has been: give a list$"):
        list(found)
    found = open_corpus(pa.Table.from_pandas(FRAME).to_reader())
    assert [d.text for d in found] == TEXTS
    with pytest.raises(InputError, match=r"^an iterator \(RecordBatchReader\) is read once"):
        list(found)


def test_a_column_may_have_the_name_of_anything(bundled):
    """Also where the call that made a result is spelled."""
    frame = pd.DataFrame({"text": ["The people of the United States", "The war in Cuba"], "name": ["a", "b"]})
    made = cutaway.predictions.losses(bundled, frame)
    assert "corpus = ...  # a DataFrame of 2 rows" in made.meta["call"].splitlines()
    assert made.documents == ["row 0", "row 1"]
    assert str(cutaway.unigram.compare(bundled, frame).meta["parameters"]["against"]) == "a DataFrame of 2 rows"


def test_a_corpus_has_a_field_of_its_own():
    found = open_corpus(BODY, field="body")
    with pytest.raises(InputError, match="field='text' and a Corpus were given"):
        open_corpus(found, field="text")
    with pytest.raises(
        InputError, match=r"^field=\['body'\]: the name of a field, or its path with dots, was expected$"
    ):
        open_corpus(BODY, field=["body"])


def test_what_was_left_out_is_logged_once(caplog):
    found = open_corpus(["a", "", None])
    for _ in range(3):
        list(found)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("corpus 3 texts: left out: 1 empty document, 1 null where text was expected")
    gc.collect()
