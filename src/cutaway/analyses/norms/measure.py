"""Measure norms over a text or a corpus, regress them, and do the same with series of your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from cutaway.analyses.norms.layer_series import entries
from cutaway.analyses.norms.least_squares import Errors
from cutaway.analyses.norms.regression import Regression
from cutaway.analyses.norms.result import Norms
from cutaway.analyses.norms.sinks import SiteNorms, UpdateNorms, collect, norm_sinks
from cutaway.errors import InputError
from cutaway.results.call import analysis, meta_of
from cutaway.surveys.reading import BATCH_TOKENS, Text, open_text
from cutaway.surveys.state import StatePath
from cutaway.surveys.survey import survey
from cutaway.versions import versions

if TYPE_CHECKING:
    from cutaway.model.model import Model

WIDE_TOKENS = BATCH_TOKENS // 4  # width x rows of a batch where every head has a vector, or states are kept


@analysis("norms.measure")
def measure(
    model: Model,
    text: Text = None,
    of: str = "attn_out",
    *,
    log: bool = True,
    bos: bool = False,
    state: StatePath = None,
) -> Norms:
    """Measure the norms of vectors at every layer and token.

    Args:
        text: a string is the text itself, and an error where it names files; anything else that
            cutaway.text.corpus.open_corpus takes (a pathlib path, texts, a DataFrame, a Corpus, None for the bundled
            documents) is read as documents, in windows of the model's context; each row of Tokens or ids [batch, pos]
            is a document.
        of: "attn_out" (what attention adds to the stream), "mlp_out", "resid_update" (what the block adds in all),
            "attn.result" (what each head writes), or any site with a vector at each token ("blocks.{0,-1}.attn_out").
        log: charts and regressions take the natural logarithm.
        bos: start each window with the end-of-text token, which then is its position 0.
        state: a file that the pass saves itself to, and resumes from, as in `cutaway.survey`.

    Raises:
        SiteError: a pattern that matches nothing.
        InputError: a site without vectors, an empty text or corpus.
    """
    sinks = norm_sinks(model, of)
    batch_tokens = WIDE_TOKENS if _is_wide(sinks) else BATCH_TOKENS
    survey(model, open_text(model, text, bos), sinks, batch_tokens=batch_tokens, bos=bos, state=state)
    windows, norms = collect(sinks.values())
    heads = norms[0].shape[1] if norms[0].ndim == 3 else 0
    layers = [int(name.split(".")[1]) for name in sinks]
    numbers = [window.number for window in windows]
    names = list(dict(zip(numbers, (window.document for window in windows), strict=True)).values())
    meta = meta_of(model, text)
    return Norms(
        meta=meta if isinstance(text, str) else meta | {"input": names},
        of=of,
        log=log,
        layers=[layer for layer in layers for _ in range(max(heads, 1))],
        heads=list(range(heads)) * len(layers) if heads else None,
        documents=names,
        **entries(np.unique(numbers, return_inverse=True)[1], norms),
    )


@analysis("norms.regress")
def regress(
    model: Model,
    text: Text = None,
    of: str = "attn_out",
    lags: int = 2,
    *,
    log: bool = True,
    position: bool = False,
    pooled: bool = False,
    errors: Errors | None = None,
    held_out: float = 0.2,
    shuffles: int = 0,
    seed: int = 0,
    bos: bool = False,
    state: StatePath = None,
) -> Regression:
    """Regress each token's norm on those of the tokens before by least squares, one regression a layer (or head).

    y_t = a + b_1 y_(t-1) + ... + b_lags y_(t-lags) over all t whose lags lie in the same window, after position 0.

    Args:
        text, of, log, bos, state: as in `measure`.
        lags: the number of tokens to look back; `.orders()` has AIC and BIC of 0 to `lags` lags, on the same rows.
        position: the logarithm of the position is a regressor. Without it a trend along the text passes for memory.
        pooled: all documents share one intercept. By default each document has its own: documents that only differ in
            level otherwise pass for memory.
        errors: "ols", "hac" (Newey and West's, by their rule for the number of lags) or "cluster" (by document); None
            is "ols" for one document and "cluster" for several.
        held_out: the share of each document, its end, that is predicted by a fit to the rest; 0 for none.
        shuffles: how often to put each window's norms in random order and fit again.
        seed: the seed of the shuffles.

    Raises InputError for fewer rows than coefficients plus two, for clustered errors of one document, and where every
    layer's norms are constant, zero or not finite (the faults of single layers are named in `faults`).
    """
    return measure(model, text, of, log=log, bos=bos, state=state).regress(
        lags, position=position, pooled=pooled, errors=errors, held_out=held_out, shuffles=shuffles, seed=seed
    )


@analysis("norms.series")
def series(arrays: ArrayLike | Mapping[str, ArrayLike], *, log: bool = False, of: str = "series") -> Norms:
    """Return numbers of your own as norms, to be regressed as norms are.

    `arrays` is an array [layer, pos] or [layer, head, pos], or a mapping from the names of documents to one array each.
    Position 0 is the first of each array, and charts and regressions leave it out.

    Raises InputError for arrays of other shapes, or of different layers or heads.
    """
    by_document = arrays if isinstance(arrays, Mapping) else {"series": arrays}
    parts = [np.asarray(array, dtype=np.float64) for array in by_document.values()]
    shapes = {part.shape[:-1] for part in parts}
    if len(shapes) != 1 or parts[0].ndim not in (2, 3):
        got = ", ".join(str(list(part.shape)) for part in parts[:3]) or "nothing"
        raise InputError(f"series of {got}: arrays [layer, pos] or [layer, head, pos] of equal layers were expected")
    layers, heads = parts[0].shape[0], parts[0].shape[1] if parts[0].ndim == 3 else 0
    return Norms(
        meta={
            "model": {"name": "no model", "fingerprint": "none", "dtype": "float64", "device": "cpu"},
            "input": list(by_document),
            "parameters": {"log": log, "of": of},
            "edits": [],
            "versions": versions(),
            "call": f"arrays = ...  # {len(parts)} of {list(parts[0].shape)}\n"
            f"cutaway.norms.series(arrays, log={log!r}, of={of!r})",
        },
        of=of,
        log=log,
        layers=[layer for layer in range(layers) for _ in range(max(heads, 1))],
        heads=list(range(heads)) * layers if heads else None,
        documents=[str(name) for name in by_document],
        **entries(np.arange(len(parts)), parts),
    )


def _is_wide(sinks: Mapping[str, SiteNorms | UpdateNorms]) -> bool:
    """Return whether a batch is much larger at the sinks' sites than at a site with one vector a token."""
    return any(isinstance(sink, UpdateNorms) or ".attn." in sink.site for sink in sinks.values())
