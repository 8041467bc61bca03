"""Equal to TransformerBridge under TransformerLens's names; peers_parity.py runs in an environment of its own."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.patience import LONG

ROOT = Path(__file__).parent.parent
PYTHON = Path(os.environ.get("CUTAWAY_PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="needs TransformerLens in .venv-peers: run `make peers`"),
]


@pytest.fixture(scope="module")
def differences():
    """The script's finding: configuration -> "plain" or "edited" -> site -> largest difference, or what is wrong."""
    command = [PYTHON, "-m", "tests.peers_parity"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("config", ["tied", "untied"])
@pytest.mark.parametrize("what", ["plain", "edited"])
def test_every_site_of_theirs(differences, config, what):
    """Its value, and the logits after an edit at it: per-head results, split inputs and masked scores included."""
    found = differences[config][what]
    assert len(found) == 2 + 2 * 25 + 3 + (what == "plain")  # embeddings, two blocks, ln_final, logits
    wrong = {site: value for site, value in found.items() if not isinstance(value, float) or not value < 1e-4}
    assert wrong == {}
