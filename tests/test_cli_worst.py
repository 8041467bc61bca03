"""Every command with the worst values that each of its options can be given: never a traceback.

The cases come from the commands themselves, so that a new command or option is tried without a word here; a new command
with arguments needs a line in `BEGIN`.
"""

import contextlib
import io
import subprocess
import sys
import traceback
import typing
from pathlib import Path

import pytest
import typer

from cutaway import cli
from tests.patience import LONG
from tests.results import save_tiny

pytestmark = pytest.mark.slow

TEXT = "the war in the north and the war in the south"
BEGIN = {  # arguments with which a command runs
    "predict": [TEXT],
    "lens": [TEXT],
    "attention": [TEXT],
    "ablate": [TEXT],
    "attribute": [TEXT],
    "trace": [TEXT, "--subject", "north"],
    "patch": [TEXT, TEXT.replace("north", "south")],
    "generate": [TEXT, "-n", "3"],
    "tokens": [TEXT],
    "norms": ["--text", TEXT],
    "report": ["--text", "the war in the north"],
    "states": ["--corpus", "good.txt", "--sample", "20", "--replicates", "19"],
    "unigram": ["--corpus", "good.txt"],
    "app": ["--no-open", "--port", "0"],
}
STEP = {"report": 8}  # every 8th value of an option is tried; the next option begins with another one
NUMBERS = ["-1", "0", "1", str(2**31), str(2**63), str(2**64), str(-(2**63) - 1), "9" * 5000, "1e400", "nan", "-inf"]
WORDS = ["", " ", "--", "*", "{", "x" * 10_000, "a\x00b", "\x1b[31m\x07\n\t\u202e", "caf\udce9", "é東😀"]
SITES = [
    f"{name}{'9' * 5000}{rest}"
    for name, rest in (("blocks.", ".attn_out"), ("blocks.-", ".mlp_out"), ("head ", ".1"), ("head 0.", ""))
]
FILES = [
    "empty",
    "binary",
    "cut.json",
    "cut.npy",
    "cut.gz",
    "folder",
    "dangling",
    "loop",
    "/dev/full",
    "empty/below",
    "~nobody/x",
]
ENDINGS = [".html", ".json", ".csv", ".parquet", ".png", ".svg"]
READ = {"model", "corpus", "reference", "counts"}  # options that name what is read
OUTPUTS = [
    "",
    ".",
    "\x00.json",
    "a" * 300 + ".json",
    "/proc/x.json",
    "/dev/full",
    *FILES,
    *(f"{place}{ending}" for place in ("folder", "dangling", "loop") for ending in ENDINGS),
]


def commands():
    return typer.main.get_command(cli.app).commands


def cases(name):
    """Return the arguments of each case of a command: every option, after the arguments that the command needs."""
    begin, hints = BEGIN.get(name, []), typing.get_type_hints(commands()[name].callback)
    found = [begin]
    arguments = [parameter for parameter in commands()[name].params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in commands()[name].params if parameter.param_type_name == "option"]
    for i, _ in enumerate(arguments):
        for value in [*WORDS, *NUMBERS[:3], *SITES[:1]]:
            found.append([*begin[:i], value, *begin[i + 1 :]])
    for i, option in enumerate(options):
        flag = max([*option.opts, *option.secondary_opts], key=len)
        if option.is_flag:
            found += [[*begin, flag], [*begin, f"{flag}=yes"]]
            continue
        found += [
            [*begin, flag, value]
            for value in values(option.name, str(hints[option.name]))[i % STEP.get(name, 3) :: STEP.get(name, 3)]
        ]
    return found


def values(name, hint):
    """Return the worst values of an option."""
    if name == "output":
        return OUTPUTS
    if name in READ:
        return [*FILES, *WORDS]
    return [*WORDS, *SITES, NUMBERS[0], *NUMBERS[-3:]] if "str" in hint else [*NUMBERS, *WORDS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", TEXT)


@pytest.fixture
def run(monkeypatch, tmp_path, tiny):
    """Run a command on the tiny model in a folder with bad files: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    monkeypatch.setattr("cutaway.model.checkpoints.checkpoint.bundled_folder", lambda: tiny)
    fill(tmp_path)

    def run(arguments):
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["cutaway", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code
            except BaseException as error:  # what would be a traceback
                code = "".join(traceback.format_exception(error)[-2:])
        return code, out.getvalue(), err.getvalue()

    return run


def fill(folder):
    (folder / "good.txt").write_text(f"{TEXT}\n" * 4)
    (folder / "empty").write_bytes(b"")
    (folder / "binary").write_bytes(bytes(range(256)) * 20)
    (folder / "cut.json").write_text('{"text": "the wa')
    (folder / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortr")
    (folder / "cut.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00")
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    for ending in ENDINGS:
        (folder / f"folder{ending}").mkdir()
        (folder / f"dangling{ending}").symlink_to("no/where")
        (folder / f"loop{ending}").symlink_to(f"loop{ending}")


def wrong(code, out, err):
    """Return what a command did wrong; "" for nothing."""
    if "Traceback" in err or code not in (0, 2):
        return f"ended with {code!r}"
    lines = err.splitlines()
    if code == 2 and (len(lines) != 1 or not lines[0].startswith("cutaway: error: ") or out):
        return f"said {err!r} {out[:50]!r}"
    return ""


@pytest.mark.parametrize("name", list(commands()))
def test_the_worst_values_never_end_in_a_traceback(run, name):
    bad = {}
    for arguments in cases(name):
        if problem := wrong(*run([name, *arguments])):
            bad[" ".join(argument[:60] for argument in arguments)] = problem
    assert bad == {}


def test_there_are_many_cases():
    assert sum(len(cases(name)) for name in commands()) >= 900


@pytest.mark.parametrize("arguments", [["versions"], ["sites"], ["tokens", TEXT, "--json"], ["--help"]])
def test_a_full_disk_behind_a_redirection_is_one_line(arguments):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cutaway", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=LONG
        )
    assert done.returncode == 2
    assert done.stderr.startswith("cutaway: error: the system refused to read or write: ")
    assert done.stderr.count("\n") == 1
