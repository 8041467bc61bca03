"""Control characters are made visible where people read, and kept where programs do."""

import json
import re

import pytest

import cutaway
from cutaway.cli import main
from cutaway.text.display import show, visible

TEXT = "He said \x1b[31m red \x07 \x9b5m \u202e end \r\x08 then\n\tand he said to"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
COMMANDS = [
    ["predict", TEXT],
    ["predict", TEXT, "short \x1b prompt"],
    ["generate", TEXT, "-n", "2"],
    ["tokens", TEXT],
    ["lens", TEXT],
    ["attention", TEXT],
    ["ablate", TEXT],
    ["attribute", TEXT],
    ["trace", TEXT, "--subject", " red"],
    ["norms", "--text", TEXT],
    ["predict", "x", "-m", "no \x1b\x07 folder"],
    ["norms", "--corpus", "no \x1b\x07 file"],
    ["trace", TEXT, "--subject", "no \x1b\x07 subject"],
    ["attribute", TEXT, "--target", "\x1b\x07 two tokens"],
]


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["cutaway", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    return left.value.code, printed.out, printed.err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command[0]}-{len(command)}")
def test_nothing_steers_the_terminal(monkeypatch, capsys, command):
    code, out, err = run(monkeypatch, capsys, *command)
    assert code in (0, 2)
    assert not STEERING.findall(out.replace("\n", "") + err.replace("\n", ""))
    assert code == 0 or len(err.splitlines()) == 1


@pytest.mark.parametrize("command", [["predict", TEXT], ["generate", TEXT, "-n", "1"], ["tokens", TEXT]])
def test_json_is_exact(monkeypatch, capsys, command):
    code, out, _ = run(monkeypatch, capsys, *command, "--json")
    assert (code, STEERING.findall(out.rstrip("\n"))) == (0, [])
    data = json.loads(out)
    assert TEXT in (data["meta"]["input"], data["meta"]["input"][0])
    if command[0] == "tokens":
        assert "".join(row["token"] for row in data["data"]).encode("utf-8", "replace").count(b"\x1b") == 1


@pytest.mark.parametrize("ending", ["html", "svg"])
def test_pages_and_pictures_show_them(bundled, tmp_path, ending):
    for result in (
        bundled.predict([TEXT[-40:], "\x1b[31m \u202e x"]),
        cutaway.predictions.along(bundled, TEXT),
        cutaway.anatomy.tokens(bundled, TEXT),
    ):
        path = tmp_path / f"result.{ending}"
        result.save(path)
        page = path.read_text(encoding="utf-8")
        assert not STEERING.findall(page.replace("\n", "").replace("\r", ""))
        assert "\\u001b" not in page.partition('id="data"')[2]
        assert "\\x1b" in page


def test_what_prints_as_text(bundled):
    generated = bundled.generate(TEXT, 2, temperature=0)
    assert generated.texts[0].startswith(TEXT)
    assert str(generated) == visible(generated.texts[0])
    assert not STEERING.findall(repr(bundled.predict(TEXT)).replace("\n", ""))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain\ttext\nof ünï 東京 🤖 \u200f", "plain\ttext\nof ünï 東京 🤖 \u200f"),
        ("\x1b[0m\x07\x00\x7f", "\\x1b[0m\\x07\\x00\\x7f"),
        ("\x9b\x85 a\rb", "\\x9b\\x85 a\\rb"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
    ],
)
def test_visible(text, seen):
    assert visible(text) == seen
    assert visible(show(text)) == show(text)
