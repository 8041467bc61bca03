"""How long a test waits for what must come: far longer than the slowest machine takes, for it only ends what hangs."""

import time

LONG = 900  # seconds


def turns(page):
    """Yield again and again while a page goes on, for a loop that breaks where it has seen what must come."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        yield
        page.wait_for_timeout(50)


def wait_until(true):
    """Wait for something; fail where it does not come."""
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)
