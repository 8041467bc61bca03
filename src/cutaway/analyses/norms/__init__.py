"""Norms of what each layer writes at each token, and their regression on the tokens before.

    found = measure(model, "some text")                  norms of attn_out by layer, position and document
    found.regress(lags=2)                                least squares on the norms of the tokens before, by layer
    regress(model, corpus, of="attn.result", lags=2)     both at once; here by head, documents pooled
    series({"one": array}).regress()                     the same on numbers of your own

Norms are Euclidean, over the vector's last dimension, in float64; logs are natural. Position 0 of each window is kept,
but left out of all charts and regressions: its states are unlike all others. Mike X Cohen, Least squares part 4:
modeling GPT activations; least_squares.py has the arithmetic.
"""

from __future__ import annotations

from cutaway.analyses.norms.measure import measure, regress, series
from cutaway.analyses.norms.regression import Regression
from cutaway.analyses.norms.result import Norms

__all__ = ["Norms", "Regression", "measure", "regress", "series"]
