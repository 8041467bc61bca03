"""Documents from files, folders and globs."""

import os
from pathlib import Path

import pytest

from cutaway import corpus
from cutaway.errors import InputError


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
        ("empty.txt", r"corpus empty\.txt holds no text \(left out: 1 empty document"),
        ("blank.txt", r"corpus blank\.txt holds no text \(left out: 1 empty document"),
        ("binary.txt", r"corpus binary\.txt holds no text \(left out: 1 no UTF-8 text \(byte 4\)"),
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
    assert found.problems.named == ["blank.txt: empty document", "binary.txt: no UTF-8 text (byte 4)"]


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
