"""Writing files without losing any."""

import os
import resource
import signal
import stat

import pytest

from cutaway.errors import InputError, OutputError
from cutaway.files import replacing, write_text


def listing(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_the_new_replaces_the_old_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "new folder/a.txt", "one é")
    write_text(str(tmp_path / "new folder/a.txt"), "two é")
    assert listing(tmp_path / "new folder") == {"a.txt": "two é"}


@pytest.mark.parametrize("error", [ValueError, InputError, KeyboardInterrupt, SystemExit])
def test_on_any_error_the_old_stays(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == tmp_path
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        interrupted()
    assert listing(tmp_path) == {"a.txt": "old"}


def test_a_full_disk_is_a_users_error(tmp_path):
    """A limit on the size of files stands in for the disk."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.txt cannot be written: File too large"):
            write_text(path, "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert listing(tmp_path) == {"a.txt": "old"}


def test_the_umask_is_respected(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        assert os.umask(before) == 0o027
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_long_name_and_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_text("~/" + "n" * 250 + ".txt", "kept")
    assert list(listing(tmp_path)) == ["n" * 250 + ".txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "folder is a folder: the path of a file was expected"),
        ("file/a.txt", "cannot be written: a part of its path is a file, not a folder"),
        ("file/below/a.txt", "cannot be written: a part of its path is a file, not a folder"),
        ("n" * 300, "cannot be written: File name too long"),
        ("/proc/a.txt", "/proc/a.txt cannot be written"),
        ("~nobody-of-this-name/a.txt", "~nobody-of-this-name/a.txt cannot be written: no such user is known"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, path, message):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=message):
        write_text(path if path.startswith("~") else tmp_path / path, "text")
    assert listing(tmp_path) == {"file": "kept"}
    assert len(list(tmp_path.iterdir())) == 2
