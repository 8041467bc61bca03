"""Importing Cutaway is light: nothing heavy loads before it is needed."""

import subprocess
import sys

import pytest

from tests.patience import LONG

HEAVY = ["torch", "altair", "pandas", "numpy", "transformers", "rich", "typer", "jinja2", "safetensors", "tokenizers"]
HEAVY += ["scipy", "statsmodels"]


def loaded_by(statement):
    code = f"{statement}\nimport sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LONG)
    return set(done.stdout.split())


LIGHT = ["import cutaway", "import cutaway.errors", "import cutaway.app", "import cutaway; dir(cutaway)"]


@pytest.mark.parametrize("statement", LIGHT)
def test_light(statement):
    assert loaded_by(statement) == set()


@pytest.mark.slow
def test_the_check_sees_a_heavy_import():
    assert "torch" in loaded_by("import cutaway; cutaway.load")
