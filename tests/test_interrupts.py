"""Ctrl-C while modules are imported."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.patience import LONG

pytestmark = pytest.mark.slow

RUN = """
import importlib.abc, os, signal, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["cutaway", "norms", "--text", "a text"]
from cutaway.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["cutaway.cli", "typer", "numpy", "torch", "tokenizers", "cutaway.model.load"])
def test_ctrl_c_inside_an_import_is_one_word(module):
    run = [sys.executable, "-c", RUN.format(module=module)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_the_installed_command_is_that_one():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"cutaway": "cutaway.__main__:main"}
