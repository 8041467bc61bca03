"""What every test shares: no network, two threads, and the models that are slow to make."""

import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # waiting threads that spin triple the suite's time on a busy machine
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # `make pretrained` sets 0

from pathlib import Path

import hypothesis
import pytest
import torch

import cutaway
from tests.browser import browser, visit  # noqa: F401 - fixtures

# No test depends on how fast a machine is.
SLOW = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=SLOW)
hypothesis.settings.load_profile("patient")
torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def bundled():
    """The model that ships with Cutaway, in float32 on the CPU."""
    return cutaway.load(device="cpu")


@pytest.fixture(scope="session")
def documents():
    """The texts of the ten documents that ship with Cutaway, by file name."""
    folder = Path(cutaway.__file__).parent / "bundled" / "documents"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
