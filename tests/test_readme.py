"""The examples in the README run."""

import re
import shlex
from pathlib import Path

import pytest

from cutaway import cli

pytestmark = pytest.mark.slow

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("cutaway ") and "-m gpt2" not in line  # that one needs a hub
]


def test_the_python_examples_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    assert "5,387,776 parameters" in capsys.readouterr().out
    assert names["found"]["blocks.3.resid_post"]["sample"].result().values.shape[1] == 256
    assert {path.name for path in tmp_path.iterdir()} == {"along.html", "lens.html", "report.html"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)  # which would serve until Ctrl-C
    monkeypatch.setattr("webbrowser.open", lambda _: None)
    anywhere = ["--port", "0"] if command == "cutaway app" else []  # another may be running
    monkeypatch.setattr("sys.argv", [*shlex.split(command), *anywhere])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip()
