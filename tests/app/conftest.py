"""A running workbench on the bundled model, for all tests of its API."""

import pytest

from tests.app.bench import bench  # noqa: F401 - a fixture
from tests.app.client import Served


@pytest.fixture(scope="session")
def served(bundled):
    server = Served(bundled)
    yield server
    server.close()
