"""Documents from files, folders, globs, records, tables, texts and datasets."""

import json
import os
import re
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from cutaway.errors import InputError
from cutaway.text import corpus
from cutaway.text.corpus import file_types


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Some files, in the working folder."""
    for name in ("b.txt", "a.txt", "notes.md", "deep/c.txt", "deep/er/d.txt", "odd[1].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name} \u00e9\n", encoding="utf-8")
    (tmp_path / "folder.txt").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["a.txt"], ["a.txt"]),
        (["notes.md"], ["notes.md"]),
        (["."], ["a.txt", "b.txt", "deep/c.txt", "deep/er/d.txt", "notes.md", "odd[1].txt"]),
        (["deep"], ["deep/c.txt", "deep/er/d.txt"]),
        (["*.txt"], ["a.txt", "b.txt", "odd[1].txt"]),
        (["**/*.txt"], ["a.txt", "b.txt", "deep/c.txt", "deep/er/d.txt", "odd[1].txt"]),
        (["deep/**"], ["deep/c.txt", "deep/er/d.txt"]),
        (["[ab].*"], ["a.txt", "b.txt"]),
        (["odd[1].txt"], ["odd[1].txt"]),
        (["b.txt", "*.txt"], ["b.txt", "a.txt", "odd[1].txt"]),
        (["b.txt", "./b.txt", "deep/../b.txt"], ["b.txt"]),
    ],
)
def test_files_folders_and_globs_each_file_once(folder, sources, names):
    found = list(corpus.files(sources))
    assert [document.id for document in found] == names
    assert [document.text for document in found] == [f"text of {name} \u00e9\n" for name in names]


def test_absolute_paths_home_and_other_names_of_one_file(folder):
    (folder / "link.txt").symlink_to(folder / "a.txt")
    [first] = corpus.files([f"{folder}/a.txt", "~/a.txt", "link.txt", "a.txt"])
    assert first.id == f"{folder}/a.txt"
    assert [document.id for document in corpus.files(["~/[ab].txt"])] == [f"{folder}/a.txt", f"{folder}/b.txt"]


def test_equal_texts_in_two_files_are_two_documents(folder):
    Path("x.txt").write_text("same")
    Path("y.txt").write_text("same")
    assert [document.id for document in corpus.files(["x.txt", "y.txt"])] == ["x.txt", "y.txt"]


def test_a_byte_order_mark_is_no_text(folder):
    Path("bom.txt").write_bytes(b"\xef\xbb\xbfWindows wrote this")
    [document] = corpus.files(["bom.txt"])
    assert document.text == "Windows wrote this"


def test_a_name_that_is_no_text_can_be_shown(folder):
    try:
        Path(os.fsdecode(b"caf\xe9.txt")).write_text("some text")
    except OSError:
        pytest.skip("this file system has no such names")
    [document] = corpus.files(["caf*.txt"])
    assert document.id == "caf\ufffd.txt"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "nowhere.txt",
            r"corpus 'nowhere\.txt': no file there; a file, a folder or a glob was expected",
        ),
        ("*.pdf", r"corpus '\*\.pdf': no file there"),
        ("folder.txt", r"corpus 'folder\.txt': no text or record files"),
        ("fold*", r"corpus 'fold\*': no file there"),
        ("~nobody-of-this-name/a.txt", "corpus '~nobody-of-this-name/a.txt': no file there"),
        ("empty.txt", r"corpus empty\.txt holds no text \(left out: empty\.txt: empty document"),
        ("blank.txt", r"corpus blank\.txt holds no text \(left out: blank\.txt: empty document"),
        ("binary.txt", r"corpus binary\.txt holds no text \(left out: binary\.txt: binary, not text"),
    ],
)
def test_mistakes_are_named(folder, source, message):
    Path("empty.txt").write_bytes(b"")
    Path("blank.txt").write_bytes(b" \n\t\n")
    Path("binary.txt").write_bytes(b"text\xff\xfe\x00")
    with pytest.raises(InputError, match=message):
        list(corpus.files([source]))


def test_what_is_no_text_is_left_out_and_named(folder):
    Path("blank.txt").write_bytes(b" \n\t\n")
    Path("binary.txt").write_bytes(b"text\xff\xfe\x00")
    found = corpus.files(["blank.txt", "a.txt", "binary.txt"])
    assert [document.id for document in found] == ["a.txt"]
    assert found.problems.named == [
        "blank.txt: empty document",
        "binary.txt: binary, not text (or UTF-16 without a byte order mark)",
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/proc/self/mem", "/proc/self/mem cannot be read: Input/output error"),
        ("n" * 300, "corpus 'n+' cannot be read: File name too long"),
    ],
)
def test_what_the_system_refuses_is_named(source, message):
    with pytest.raises(InputError, match=message):
        list(corpus.files([source]))


def test_the_bundled_documents(documents):
    found = corpus.bundled()
    assert {f"{document.id}.txt": document.text for document in found} == documents
    assert [document.id for document in found] == sorted(document.id for document in found)
    assert len(found) == 10
    assert sum(len(document.text) for document in found) > 400_000


TEXTS = ["The first text.", "Déjà vu:\ntwo lines.", "the third"]


def packed(raw, packing):
    if not packing:
        return raw
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, {"gz": "gzip", "zst": "zstd"}[packing]) as stream:
        stream.write(raw)
    return sink.getvalue().to_pybytes()


def write_table(path, columns):
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, str(path))
    else:
        make = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with make(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("name", ["t.txt", "t.md", "t.txt.gz", "t.TXT.zst", "t.md.gz"])
def test_text_files_packed_or_not(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(packed(TEXTS[1].encode(), name.rpartition(".")[2] if name[-2:] in ("gz", "st") else ""))
    for source in (path, str(path), tmp_path, f"{tmp_path}/t.*", [path]):
        assert [(d.id, d.text) for d in corpus.open_corpus(source)] == [(str(path), TEXTS[1])]


@pytest.mark.parametrize("field", [None, "body"])
@pytest.mark.parametrize("name", ["r.jsonl", "r.ndjson", "r.jsonl.gz", "r.jsonl.zst", "r.ndjson.gz"])
def test_json_lines_packed_or_not(tmp_path, name, field):
    path, key = tmp_path / name, field or "text"
    lines = "\ufeff" + "\n\n".join(json.dumps({key: text, "n": 1}, ensure_ascii=False) for text in TEXTS) + "\r\n"
    path.write_bytes(packed(lines.encode(), name.rpartition(".")[2] if name[-2:] in ("gz", "st") else ""))
    for source in (path, tmp_path):  # ids name the line
        found = [(d.id, d.text) for d in corpus.open_corpus(source, field=field)]
        assert found == [(f"{path}:{2 * i + 1}", text) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("field", [None, "body"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.stream.arrow", "t.ipc", "t.feather"])
def test_tables(tmp_path, name, kind, field):
    path = tmp_path / name
    write_table(path, {"n": [1, 2, 3], field or "text": pa.array(TEXTS).cast(kind)})
    for source in (path, tmp_path):
        found = [(d.id, d.text) for d in corpus.open_corpus(source, field=field)]
        assert found == [(f"{path}:{i}", text) for i, text in enumerate(TEXTS)]
    message = rf"t\..* has no field 'title': it has n, {field or 'text'}; name one with field=$"
    with pytest.raises(InputError, match=message):
        list(corpus.open_corpus(path, field="title"))


BAD = [  # what a line holds, what is said of it
    (b'{"text": "caf\xe9"}', file_types.NOT_UTF8),
    (b'{"text": "caf', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"body": "text"}', "no field 'text'"),
    (b'["text"]', "list where text was expected"),
    (b'{"text": 12}', "int where text was expected"),
    (b'{"text": null}', "null where text was expected"),
    (b'{"text": ["a"]}', "list where text was expected"),
    (b'{"text": " \\n"}', "empty document"),
    (b'{"text": "\\ud800"}', "not Unicode text (half of a surrogate pair)"),
]


@pytest.mark.parametrize(("line", "kind"), BAD, ids=[kind for _, kind in BAD])
def test_each_kind_of_bad_line_is_counted_named_and_fatal_only_when_asked(tmp_path, line, kind):
    path, good = tmp_path / "r.jsonl", b'{"text": "good"}'
    path.write_bytes(b"\n".join([good, line, good, line, good]))
    found = corpus.open_corpus(path)
    for _ in range(2):  # each pass counts anew
        assert [d.id for d in found] == [f"{path}:{i}" for i in (1, 3, 5)]
        assert found.problems.counts == {kind: 2}
        assert found.problems.named == [f"{path}:2: {kind}", f"{path}:4: {kind}"]
    assert str(found.problems).startswith(f"left out: 2 {kind} (first: {path}:2: {kind}; ")
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}:2: {kind}')}$"):
        list(corpus.open_corpus(path, strict=True))


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.stream.arrow", "t.feather"])
def test_bad_rows_of_tables_are_named_and_the_rest_is_read(tmp_path, name):
    column = pa.array([b"one", None, b"caf\xe9", b"", b"five"]).view(pa.string())  # Arrow does not check
    write_table(tmp_path / name, {"text": column, "n": [1, 2, 3, 4, 5]})
    found = corpus.open_corpus(tmp_path / name)
    assert [d.text for d in found] == ["one", "five"]
    kinds = ["null where text was expected", file_types.NOT_UTF8, "empty document"]
    assert found.problems.named == [f"{tmp_path / name}:{i}: {kind}" for i, kind in enumerate(kinds, 1)]
    with pytest.raises(InputError, match=r"holds no text \(left out: 5 int where text was expected"):
        list(corpus.open_corpus(tmp_path / name, field="n"))


def test_texts_and_documents_in_memory():
    found = corpus.open_corpus(["a", None, 3, "", corpus.Document("mine", "b"), "\udc80"])
    assert [(d.id, d.text) for d in found] == [("text 1", "a"), ("mine", "b")]
    assert (found.total, found.problems.counts["empty document"]) == (6, 1)
    assert len(found.problems.named) == 4
    assert [(d.id, d.text) for d in corpus.open_corpus({"x": "a", 7: "b"})] == [("x", "a"), ("7", "b")]
    assert [d.id for d in corpus.open_corpus(text for text in "ab")] == ["text 1", "text 2"]
    assert [d.id for d in corpus.open_corpus()] == [d.id for d in corpus.bundled()]
    assert corpus.open_corpus(found) is found


def test_many_problems_are_counted_and_the_first_named():
    found = corpus.open_corpus(["a", *[""] * 1000])
    assert len(list(found)) == 1
    assert found.problems.counts == {"empty document": 1000}
    assert len(found.problems.named) == corpus.NAMED


@pytest.mark.parametrize("source", [[], {}, iter(()), ["", " "]])
def test_a_corpus_without_text_is_an_error(source):
    with pytest.raises(InputError, match=r"^corpus .* holds no text \("):
        list(corpus.open_corpus(source))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("t.txt.gz", packed(b"some text " * 500, "gz")[:-12], "cannot be read: Truncated compressed stream"),
        ("t.jsonl.gz", packed(b'{"text": "a"}\n' * 500, "gz")[:-12], "cannot be read: "),
        ("t.txt.zst", packed(b"some text " * 500, "zst")[:-5], "cannot be read: "),
        ("t.txt.gz", b"no gzip at all", "cannot be read: zlib inflate failed"),
        ("t.parquet", b"no parquet", "cannot be read as parquet: "),
        ("t.parquet", b"", "cannot be read as parquet: "),
        ("t.arrow", b"no arrow at all", "cannot be read as arrow: "),
        ("t.arrow", b"", "cannot be read as arrow: "),
        ("t.parquet.gz", packed(b"anything", "gz"), "tables and arrays are read unpacked: unpack it first"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=f"{name}:? {message}") as caught:
        list(corpus.open_corpus(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_hugging_face_dataset_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"^corpus 'hf:wikitext' needs the datasets library: pip install 'cutaway\["):
        list(corpus.open_corpus("hf:wikitext"))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("hf:wikitext/wikitext-103-raw-v1:test", ("wikitext", "wikitext-103-raw-v1", "test")),
        ("hf:imdb", ("imdb", None, "train")),
        ("hf:owner/name/config:validation", ("owner/name", "config", "validation")),
        ("hf:owner/name//config:validation", ("owner/name", "config", "validation")),
    ],
)
def test_what_is_asked_of_the_datasets_library(monkeypatch, name, asked):
    """Ask a stand-in for the library, which would need the hub."""

    def load_dataset(repository, config, split, streaming):
        assert (repository, config, split, streaming) == (*asked, True)
        return iter([{"text": "one"}, {"text": None}, {"text": "three"}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    found = corpus.open_corpus(name)
    assert [(d.id, d.text) for d in found] == [(f"{name}:0", "one"), (f"{name}:2", "three")]
    assert found.problems.named == [f"{name}:1: null where text was expected"]
    with pytest.raises(InputError, match="has no field 'body': it has text; name one"):
        list(corpus.open_corpus(name, field="body"))


def test_a_real_dataset_is_streamed(tmp_path, monkeypatch):
    """Hugging Face's own library on a dataset of two configurations, as files in a folder."""
    pytest.importorskip("datasets")
    folder = tmp_path / "speeches"
    folder.mkdir()
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}.jsonl\n"
        for name, split in [("old", "test"), ("new", "train"), ("broken", "train")]
    ).replace("old\n", "old\n  default: true\n", 1)
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    records = [{"text": f"speech {i}", "body": f"body {i}"} for i in range(2500)]
    records[7]["text"] = None
    (folder / "old.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "new.jsonl").write_text("\n".join(map(json.dumps, records[:3])))
    (folder / "broken.jsonl").write_bytes(b"PAR1")
    found = corpus.open_corpus(f"hf:{folder}:test")
    assert [d.text for d in found] == [r["text"] for r in records if r["text"]]
    assert found.problems.named == [f"hf:{folder}:test:7: null where text was expected"]
    first = next(iter(corpus.open_corpus(f"hf:{folder}//new:train", field="body")))
    assert (first.id, first.text) == (f"hf:{folder}//new:train:0", "body 0")
    monkeypatch.chdir(tmp_path)
    assert len(list(corpus.open_corpus("hf:speeches//new"))) == 3
    with pytest.raises(InputError, match="has no field 'title': it has text, body; name one"):
        list(corpus.open_corpus(f"hf:{folder}:test", field="title"))
    with pytest.raises(InputError, match=r"^corpus 'hf:.*:train' cannot be opened: .*[Ss]plit"):
        list(corpus.open_corpus(f"hf:{folder}:train"))
    with pytest.raises(InputError, match=r"^corpus 'hf:no/such' cannot be opened: "):
        list(corpus.open_corpus("hf:no/such"))
    with pytest.raises(InputError, match=r"^corpus 'hf:.*//broken' cannot be read on: "):
        list(corpus.open_corpus(f"hf:{folder}//broken"))
