"""What the tests of surveys share: a sink that can be interrupted, and how two surveys are compared."""

import numpy as np

FEW = {"a": "Some words of a text.", "b": "Others, and more of them."}


def same_sinks(found, expected):
    for name in expected:
        ours, theirs = found[name].state(), expected[name].state()
        assert ours.keys() == theirs.keys()
        for key, array in theirs.items():
            if array.dtype.kind == "f":
                np.testing.assert_allclose(ours[key], array, rtol=1e-9, atol=1e-9 * np.abs(array).max(), err_msg=key)
            else:
                np.testing.assert_array_equal(ours[key], array, err_msg=f"{name} {key}")


class Interrupt:
    """A sink that counts tokens, and at one batch is interrupted."""

    sites = ()

    def __init__(self, at=None):
        self.at, self.tokens, self.batches = at, 0, 0

    def settings(self):
        return {}

    def add(self, seen):
        self.batches += 1
        if self.batches == self.at:
            raise KeyboardInterrupt
        self.tokens += len(seen.keys)
        assert seen.mask.sum() == len(seen.keys)
        assert seen.later.sum() == len(seen.later_keys) == len(seen.keys) - len(seen.batch.rows)

    def merge(self, other):
        self.tokens += other.tokens

    def empty(self):
        return Interrupt(self.at)

    def state(self):
        return {"tokens": np.array(self.tokens)}

    def load_state(self, state):
        self.tokens = int(state["tokens"])


def count(calls, function):
    return lambda *a, **k: (calls.append(1), function(*a, **k))[1]
