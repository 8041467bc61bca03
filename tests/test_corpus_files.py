"""Every format of file, compressed or not, is read as pandas, json, csv and pyarrow read it."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch

from cutaway.errors import InputError
from cutaway.text.corpus import Document, file_types, files, objects, open_corpus

DOCS = re.sub(r"\s+", " ", (Path(__file__).parent.parent / "docs/corpora.md").read_text(encoding="utf-8"))
TEXTS = ["The first text.", "Déjà vu:\ntwo lines, \"quoted\"; 'and' more", "ünïcode\t\u6771\u4eac |", "long " * 50_000]
FRAME = pd.DataFrame({"n": range(4), "text": TEXTS, "label": [0.5, 1, 2, 3]})
PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: _zstd(raw),
}


def _zstd(raw):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return sink.getvalue().to_pybytes()


def read(source, **given):
    return [(d.id, d.text if d.ids is None else d.ids.tolist()) for d in open_corpus(source, **given)]


def json_of(**given):
    return FRAME.to_json(force_ascii=False, **given).encode()


def csv_of(**given):
    return FRAME.to_csv(index=False, **given).encode()


def table_of(ending, frame=FRAME):
    sink, table = io.BytesIO(), pa.Table.from_pandas(frame)
    if ending == ".parquet":
        pyarrow.parquet.write_table(table, sink, row_group_size=3)
    elif ending == ".feather":
        pyarrow.feather.write_feather(table, sink)
    else:
        make = pa.ipc.new_stream if ending == ".arrow" else pa.ipc.new_file
        with make(sink, table.schema) as file:
            file.write_table(table, max_chunksize=3)
    return sink.getvalue()


RECORDS = {  # name -> bytes, and what another library reads there
    "a.csv": (csv_of(), lambda raw: pd.read_csv(raw)["text"]),
    "b.csv": (csv_of(sep=";"), lambda raw: pd.read_csv(raw, sep=";")["text"]),
    "c.csv": (csv_of(sep="|"), lambda raw: pd.read_csv(raw, sep="|")["text"]),
    "bom.csv": (b"\xef\xbb\xbf" + csv_of(), lambda raw: pd.read_csv(raw)["text"]),
    "crlf.csv": (csv_of(lineterminator="\r\n"), lambda raw: pd.read_csv(raw, lineterminator=None)["text"]),
    "excel.csv": (b"sep=;\r\n" + csv_of(sep=";"), lambda raw: pd.read_csv(raw, sep=";", skiprows=1)["text"]),
    "all.csv": (csv_of(quoting=csv.QUOTE_ALL), lambda raw: pd.read_csv(raw)["text"]),
    "utf16.csv": (csv_of().decode().encode("utf-16"), lambda raw: pd.read_csv(raw, encoding="utf-16")["text"]),
    "a.tsv": (csv_of(sep="\t"), lambda raw: pd.read_csv(raw, sep="\t")["text"]),
    "records.json": (json_of(orient="records"), lambda raw: pd.read_json(raw)["text"]),
    "indented.json": (json_of(orient="records", indent=2), lambda raw: [r["text"] for r in json.load(raw)]),
    "columns.json": (json_of(), lambda raw: pd.read_json(raw)["text"]),
    "index.json": (json_of(orient="index"), lambda raw: pd.read_json(raw, orient="index")["text"]),
    "dict.json": (json.dumps(FRAME.to_dict("list")).encode(), lambda raw: json.load(raw)["text"]),
    "bom.json": (b"\xef\xbb\xbf" + json_of(orient="records"), lambda raw: [r["text"] for r in json.load(raw)]),
    "texts.json": (json.dumps(TEXTS, indent=1).encode(), json.load),
    "array.jsonl": (json_of(orient="records", indent=1), lambda raw: pd.read_json(raw)["text"]),
}
LINES = {
    "a.jsonl": (json_of(orient="records", lines=True), lambda raw: pd.read_json(raw, lines=True)["text"]),
    "a.ndjson": (json_of(orient="records", lines=True), lambda raw: pd.read_json(raw, lines=True)["text"]),
    "lines.json": (json_of(orient="records", lines=True), lambda raw: pd.read_json(raw, lines=True)["text"]),
    "utf16.jsonl": (
        json_of(orient="records", lines=True).decode().encode("utf-16"),
        lambda raw: pd.read_json(raw, lines=True, encoding="utf-16")["text"],
    ),
}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("name", [*RECORDS, *LINES])
def test_records_are_what_other_libraries_read(tmp_path, name, packing):
    raw, expected = (RECORDS | LINES)[name]
    path = tmp_path / (name + packing)
    path.write_bytes(PACK[packing](raw))
    first = 1 if name in LINES else 0  # lines are counted from 1, rows from 0
    texts = list(expected(io.BytesIO(raw)))
    assert texts == TEXTS
    for given in ({}, {"field": "text"}) if name != "texts.json" else ({},):
        assert read(path, **given) == [(f"{path}:{i}", text) for i, text in enumerate(texts, first)]


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrow", ".ipc"])
def test_tables_are_what_pyarrow_reads_also_under_another_name(tmp_path, ending):
    for name in (f"a{ending}", "table.txt", "noname"):
        path = tmp_path / name
        path.write_bytes(table_of(ending))
        if name == "a.parquet":
            assert pyarrow.parquet.read_table(path)["text"].to_pylist() == TEXTS
        if ending != ".arrow" or name == "a.arrow":  # a stream has no mark at its beginning
            assert read(path) == [(f"{path}:{i}", text) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
def test_texts_in_unicode_are_read_whatever_packs_them_and_whatever_they_are_called(tmp_path, encoding, packing):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    for name in (f"a.txt{packing}", "a.txt", "a.rst"):
        path = tmp_path / name
        path.write_bytes(PACK[packing]((mark + TEXTS[1]).encode(encoding)))
        assert read(path) == [(str(path), TEXTS[1])]


def test_an_archive_is_the_files_in_it(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/", "")
        archive.writestr("deep/b.txt", TEXTS[1])
        archive.writestr("a.jsonl.gz", gzip.compress(LINES["a.jsonl"][0]))
        archive.writestr("c.csv", RECORDS["a.csv"][0])
        archive.writestr("c.png", b"\x89PNG\r\n\x1a\n")
        archive.writestr("t.parquet", table_of(".parquet"))
        archive.writestr("latin.txt", "é".encode("latin-1"))
    found = open_corpus(path)
    expected = [f"{path}:deep/b.txt", *(f"{path}:a.jsonl.gz:{i}" for i in range(1, 5))]
    assert [d.id for d in found] == expected + [f"{path}:c.csv:{i}" for i in range(4)]
    assert [d.text for d in found] == [TEXTS[1], *TEXTS, *TEXTS]
    assert found.problems.named == [
        f"{path}:c.png: a picture (PNG), not text",
        f"{path}:t.parquet: {file_types.TABLE}",
        f"{path}:latin.txt (byte 0): {file_types.NOT_UTF8}",
    ]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_fields_in_fields(tmp_path, name):
    path = tmp_path / name
    records = [{"data": {"text": text, "n": i}, "title": "t"} for i, text in enumerate(TEXTS)]
    if name == "a.parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("\n".join(map(json.dumps, records)) if name == "a.jsonl" else json.dumps(records))
    assert [text for _, text in read(path, field="data.text")] == TEXTS
    with pytest.raises(
        InputError, match=r"has no field 'text': it has data.text, data.n, title; name one with field=$"
    ):
        read(path)
    with pytest.raises(InputError, match=r"has no field 'data.body': it has data.text, data.n, title; name one"):
        read(path, field="data.body")


KNOWN = [  # as ROME's known_1000.json has it
    {
        "known_id": 0,
        "subject": "Vinson Massif",
        "attribute": "Antarctica",
        "template": "{} is located in the continent",
        "prediction": " of Antarctica. It is the",
        "prompt": "Vinson Massif is located in the continent of",
        "relation_id": "P30",
    }
] * 3


def test_an_array_with_several_texts_wants_a_field_named(tmp_path):
    path = tmp_path / "known_1000.json"
    path.write_text(json.dumps(KNOWN, indent=2))
    names = "known_id, subject, attribute, template, prediction, prompt, relation_id"
    with pytest.raises(InputError, match=f"known_1000.json has no field 'text': it has {names}; name one with field=$"):
        read(path)
    assert read(path, field="prompt") == [(f"{path}:{i}", KNOWN[0]["prompt"]) for i in range(3)]


@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl", ".parquet"])
def test_the_only_texts_are_taken_and_that_is_said(tmp_path, ending, caplog):
    frame, path = FRAME.rename(columns={"text": "body"}), tmp_path / f"a{ending}"
    if ending == ".csv":
        frame.to_csv(path)
    elif ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=ending == ".jsonl")
    found = open_corpus(path)
    for _ in range(2):
        assert [d.text for d in found] == TEXTS
    assert caplog.messages == [f"{path} has no field 'text': its only field of texts, 'body', is read"]


def test_bad_rows_of_a_csv_are_left_out(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'n,text\n1,good\n2\n3,caf\xe9\n4,a,b\n\n5,"  "\n6,good\n')
    found = open_corpus(path)
    assert [(d.id, d.text) for d in found] == [(f"{path}:0", "good"), (f"{path}:5", "good")]
    assert found.problems.named == [
        f"{path}:1: no field 'text'",
        f"{path}:2: {file_types.NOT_UTF8}",
        f"{path}:3: more fields than the first line names",
        f"{path}:4: empty document",
    ]
    path.write_text("text,text\na,b\n")
    with pytest.raises(InputError, match=r"a\.csv has two columns named 'text': rename one$"):
        read(path)


def archive(*names):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as file:
        for name in names:
            file.writestr(name, "<xml/>")
    return raw.getvalue()


def tarred():
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    return raw.getvalue()


def saved(value):
    raw = io.BytesIO()
    torch.save(value, raw)
    return raw.getvalue()


LEFT_OUT = {  # name -> bytes and the reason, which stands in docs/corpora.md
    "l1.txt": ("Café".encode("latin-1"), file_types.NOT_UTF8),
    "nul.txt": (b"abc\0def", file_types.BINARY),
    "late.txt": (b"a" * 5000 + b"\0", file_types.BINARY),
    "u16.txt": ("text".encode("utf-16-le"), file_types.BINARY),
    "nul.csv": (b"text\na\0b\n", file_types.BINARY),
    "a.html": (b"<p>text", file_types.HTML),
    "a.ipynb": (b'{"cells": []}', file_types.REFUSED_ENDINGS[".ipynb"]),
    "a.xlsx": (archive("[Content_Types].xml", "xl/workbook.xml"), file_types.REFUSED_ARCHIVES["[Content_Types].xml"]),
    "a.epub": (archive("mimetype", "META-INF/container.xml"), file_types.REFUSED_ARCHIVES["META-INF/container.xml"]),
    "a.odt": (archive("mimetype", "content.xml"), file_types.REFUSED_ARCHIVES["mimetype"]),
    "a.pkl": (b"\x80\x04N.", file_types.REFUSED_ENDINGS[".pkl"]),
    "pytorch_model.bin": (saved({"a": 1}), file_types.REFUSED_ARCHIVES["data.pkl"]),
    "a.pdf": (b"%PDF-1.7\n", file_types.REFUSED_BEGINNINGS[b"%PDF"]),
    "pdf.txt": (b"%PDF-1.7\n", file_types.REFUSED_BEGINNINGS[b"%PDF"]),
    "png.txt": (b"\x89PNG\r\n\x1a\n", file_types.REFUSED_BEGINNINGS[b"\x89PNG"]),
    "a.rtf": (rb"{\rtf1 text}", file_types.REFUSED_BEGINNINGS[b"{\\rtf"]),
    "a.db": (b"SQLite format 3\0", file_types.REFUSED_BEGINNINGS[b"SQLite format 3\0"]),
    "lfs.txt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "npy.txt": (b"\x93NUMPY\x01\0", file_types.REFUSED_BEGINNINGS[b"\x93NUMPY"]),
    "a.tar": (tarred(), file_types.TAR),
    "a.tar.gz": (gzip.compress(tarred()), file_types.TAR),
    "zip.gz": (gzip.compress(archive("a.txt")), file_types.NESTED),
    "odd.bin": (b"abc", "not token ids: a .bin file holds uint16 numbers, as nanoGPT writes them"),
    "old.bin": (b"\x80\x02}q\0.", "not token ids: a .bin file holds uint16 numbers"),
    "a.npy": (b"abcd", "not token ids: a .npy file holds integers, a row [pos] or rows [batch, pos]"),
    "broken.json": (b"[{]", "not JSON"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_holds_no_text_is_called_by_what_it_is(tmp_path, name):
    raw, reason = LEFT_OUT[name]
    assert reason in DOCS
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(InputError, match=rf"holds no text \(left out: {re.escape(str(path))}.*: {re.escape(reason)}"):
        read(path)
    (tmp_path / "good.txt").write_text("good")
    found = files([str(path), str(tmp_path / "good.txt")])
    assert [d.text for d in found] == ["good"]
    assert len(found.problems.named) == 1
    with pytest.raises(InputError, match=re.escape(reason)):
        list(open_corpus(path, strict=True))


def test_every_reason_stands_in_the_documentation():
    reasons = [
        *file_types.REFUSED_ENDINGS.values(),
        *file_types.REFUSED_BEGINNINGS.values(),
        *file_types.REFUSED_ARCHIVES.values(),
    ]
    reasons += [
        file_types.TABLE,
        file_types.TAR,
        file_types.BINARY,
        file_types.NESTED,
        file_types.NOT_UTF8,
        file_types.ENCRYPTED,
    ]
    reasons += [hint for _, hint in objects.REFUSED]
    assert [reason for reason in reasons if reason not in DOCS] == []


@pytest.mark.parametrize("name", [*RECORDS, *LINES, *PACK, "a.parquet", "a.arrow", "a.feather", "a.zip", "a.txt"])
def test_damage_is_one_line(tmp_path, name):
    """A file that is cut short or has some other bytes gives documents or an error that says so."""
    if name in PACK:
        raw, name = PACK[name](b"some text, some more text\n" * 200), f"a.txt{name}"
    elif name in ("a.zip", "a.txt"):
        raw = archive("a.txt", "b.csv", "c.jsonl")
    else:
        raw = (RECORDS | LINES)[name][0] if name in RECORDS | LINES else table_of(Path(name).suffix)
    random, said = np.random.default_rng(0), []
    for i in range(40):
        damaged = bytearray(raw[: int(random.integers(len(raw)))] if i % 2 else raw)
        for at in random.integers(len(damaged) or 1, size=1 + i % 4 if damaged else 0):
            damaged[min(at, 300) if i % 3 else at] = int(random.integers(256))
        path = tmp_path / name
        path.write_bytes(damaged)
        try:
            read(path)
        except InputError as error:
            said.append(str(error))
    assert [message for message in said if "\n" in message] == []


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.bin.xz", "a.npy.zst"])
def test_tables_and_arrays_are_read_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(PACK[Path(name).suffix](table_of(".parquet")))
    with pytest.raises(InputError, match=re.escape(f"{name}: {file_types.TABLE}") + "$"):
        read(tmp_path / name)


def test_a_folder_says_what_it_does_not_read(tmp_path, caplog):
    (tmp_path / "deep").mkdir()
    for name in ("a.txt", "b.jsonl.gz", "c.json", "deep/d.csv", "deep/e.csv", "f.html", "g.py"):
        raw = b'{"text": "line"}\n' if "json" in name else b"some text"
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    assert [text for _, text in read(tmp_path)] == ["some text", "line"]
    said = f"corpus {tmp_path}: 2 .csv, 1 .html, 1 .json not read: name them by a glob, {tmp_path}/*"
    assert [message.startswith(said) for message in caplog.messages] == [True]
    (tmp_path / "deep/a.txt").unlink(missing_ok=True)
    with pytest.raises(
        InputError, match=r"no text or record files; .* was expected; it has 2 .csv, which a glob names"
    ):
        open_corpus(tmp_path / "deep")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.bz2", "a.parquet"])
def test_rows_stream(tmp_path, name, monkeypatch):
    """The first document comes before the whole file is read."""
    path = tmp_path / name
    frame = pd.DataFrame({"text": [f"{i} " + "word " * 200 for i in range(20_000)]})
    if name == "a.parquet":
        frame.to_parquet(path, row_group_size=1000)
        read_rows = []
        iter_batches = pyarrow.parquet.ParquetFile.iter_batches
        monkeypatch.setattr(
            pyarrow.parquet.ParquetFile,
            "iter_batches",
            lambda *a, **k: (read_rows.append(len(b)) or b for b in iter_batches(*a, **k)),
        )
        assert next(iter(open_corpus(path))).text == frame["text"][0]
        assert sum(read_rows) < len(frame) / 2
        return
    raw = (frame.to_csv(index=False) if "csv" in name else frame.to_json(orient="records", lines=True)).encode()
    path.write_bytes(PACK[path.suffix if path.suffix in PACK else ""](raw))
    opened = []
    size, plain = path.stat().st_size, Path.open
    monkeypatch.setattr(Path, "open", lambda *a: opened.append(plain(*a)) or opened[-1])
    documents = iter(open_corpus(path))
    assert next(documents).text == frame["text"][0]
    assert 0 < opened[0].raw.tell() < size / 2
    documents.close()


def test_a_document_is_its_text_or_its_ids():
    assert Document("a", "text") != Document("a", "another")
    assert Document("a", ids=np.array([1, 2])).text == ""
    assert file_types.endings("a.jsonl.GZ") == (".jsonl", ".gz")
