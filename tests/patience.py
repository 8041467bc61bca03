"""How long a test waits for what must come: far longer than the slowest machine takes, for it only ends what hangs."""

import time

LONG = 900  # seconds


def wait_until(true):
    """Wait for something; fail where it does not come."""
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)
