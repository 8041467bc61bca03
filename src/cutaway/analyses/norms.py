"""How much each layer writes at each token, and whether that follows from the tokens before.

    found = measure(model, "some text")                  norms of attn_out by layer, position and document
    found.regress(lags=2)                                least squares on the norms of the tokens before, by layer
    regress(model, corpus, of="attn.result", lags=2)     both at once; here by head, documents pooled
    series({"one": array}).regress()                     the same on numbers of your own

Norms are Euclidean, over the vector's last dimension, in float64; logs are natural. Position 0 of each window is kept,
but is in no picture and no regression: its states are unlike all others. Mike X Cohen, Least squares part 4: modeling
GPT activations; least_squares.py has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from cutaway.analyses.documents import Text, open_text
from cutaway.analyses.least_squares import Errors, Floats, Ints
from cutaway.analyses.norm_sinks import Lengths, Updates, collected, sinks_of
from cutaway.analyses.regression import Regression, regression
from cutaway.analyses.result import Result, describe
from cutaway.batches import Batch, Row, pack
from cutaway.errors import InputError
from cutaway.model.modes import plainly
from cutaway.survey import BATCH_TOKENS, feed, survey
from cutaway.tokens import Tokens
from cutaway.versions import versions

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.model import Model

WIDE_TOKENS = BATCH_TOKENS // 4  # width x rows of a batch where every head has a vector, or states are kept


@dataclass(frozen=True, eq=False, repr=False)
class Norms(Result):
    """Norms of every vector, one row a layer, or a layer and head. Entries are all tokens, in the order of the
    documents; `norms` is before any log."""

    analysis: ClassVar[str] = "norms.measure"
    title: ClassVar[str] = "How much does each layer write?"

    of: str
    log: bool  # whether pictures and regressions take the logarithm
    layers: list[int]  # row
    heads: list[int] | None  # row; None where vectors are of whole layers
    documents: list[str]
    document: Ints  # entry; index into `documents`
    window: Ints  # entry
    position: Ints  # entry; in its window, 0 the first
    norms: Floats  # row entry

    @property
    def values(self) -> Floats:
        """Norms or their natural logs, as `log` says: row entry. The log of 0 is -inf."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.norms) if self.log else self.norms

    @property
    def unit(self) -> str:
        """What `values` are, for an axis."""
        return f"{'log norm' if self.log else 'norm'} of {self.of}"

    def table(self) -> pd.DataFrame:
        """One row a vector: document, window, position, layer, head (where there are heads), norm, log_norm."""
        import pandas as pd

        rows, n = self.norms.shape
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(self.norms)
        columns: dict[str, Any] = {
            "document": np.tile(np.array(self.documents, dtype=object)[self.document], rows),
            "window": np.tile(self.window, rows),
            "position": np.tile(self.position, rows),
            **{name: np.repeat(numbers, n) for name, numbers in self.labels().items()},
            "norm": self.norms.ravel(),
            "log_norm": logs.ravel(),
        }
        return pd.DataFrame(columns)

    def by_layer(self) -> pd.DataFrame:
        """Of what pictures show (position 0 left out), one row a layer or head: mean, sd, low and high (the 5th and
        95th percentile), tokens, and `not_finite`, the number of entries that have no place in these."""
        import pandas as pd

        rows = []
        for values in self.values[:, self.position > 0]:
            good = values[np.isfinite(values)]
            low, high = np.percentile(good, [5, 95]) if len(good) else (np.nan, np.nan)
            mean = good.mean() if len(good) else np.nan
            spread = good.std(ddof=1) if len(good) > 1 else np.nan
            rows.append((mean, spread, low, high, len(values), len(values) - len(good)))
        frame = pd.DataFrame(rows, columns=["mean", "sd", "low", "high", "tokens", "not_finite"])
        return pd.concat([pd.DataFrame(self.labels()), frame], axis=1)

    def summary(self) -> str:
        table = self.by_layer()
        documents = "1 text" if len(self.documents) == 1 else f"{len(self.documents):,} documents"
        last = f"{self.unit}; {int(table['tokens'].max()):,} tokens of {documents}, first ones apart"
        if self.heads:
            lines = ["layer  means of its heads"]
            for layer, heads in table.groupby("layer"):
                wrong = f"   {heads['not_finite'].sum():,} are not finite" if heads["not_finite"].any() else ""
                lines.append(f"{layer:>5}  {heads['mean'].min():.3f} to {heads['mean'].max():.3f}{wrong}")
            return "\n".join([*lines, last])
        lines = ["layer     mean      sd   5% to 95%"]
        for row in table.to_dict("records"):
            wrong = f"   {row['not_finite']:,} are not finite" if row["not_finite"] else ""
            span = f"{row['low']:.2f} to {row['high']:.2f}"
            lines.append(f"{self.named(row)}  {row['mean']:7.3f} {row['sd']:7.3f}   {span}{wrong}")
        return "\n".join([*lines, last])

    def caption(self) -> str:
        what = "Natural logs of Euclidean norms" if self.log else "Euclidean norms"
        wrong = int(self.by_layer()["not_finite"].sum())
        return (
            f"{what} of {self.of} at every token but the first of each window (position 0 is unlike all others). Left: "
            f"{'means by layer and head' if self.heads else 'each token a point, spread sideways to be seen'}. Right: "
            "how they are distributed, in bins by the rule of Freedman and Diaconis. Colours run from the first layer "
            "to the last." + (f" {wrong:,} values are not finite and are not shown." if wrong else "")
        )

    def regress(
        self,
        lags: int = 2,
        *,
        position: bool = False,
        pooled: bool = False,
        errors: Errors | None = None,
        held_out: float = 0.2,
        shuffles: int = 0,
        seed: int = 0,
    ) -> Regression:
        """Least squares on the norms of the tokens before, one regression a layer or head: see `norms.regress`."""
        return regression(
            self,
            lags,
            position=position,
            pooled=pooled,
            errors=errors,
            held_out=held_out,
            shuffles=shuffles,
            seed=seed,
        )

    def rows(self, lags: int) -> int:
        """How many tokens have all their lags in the same window, after position 0."""
        return int((self.position > lags).sum())

    def labels(self) -> dict[str, list[int]]:
        """Which layer, and which head where there are heads, each row is."""
        return {"layer": self.layers} | ({"head": self.heads} if self.heads else {})

    def named(self, row: Mapping[Any, Any]) -> str:
        """A row's layer and head as summaries print them."""
        return f"{row['layer']:>5}" + (f"  {row['head']:>4}" if self.heads else "")


@plainly
def measure(model: Model, text: Text = None, of: str = "attn_out", *, log: bool = True, bos: bool = False) -> Norms:
    """Norms of vectors at every layer and token.

    Args:
        text: a string is the text itself, and an error where it names files; whatever else
            cutaway.corpus.open_corpus takes (a pathlib path, texts, a DataFrame, a Corpus, None for the bundled
            documents) is read as documents, in windows of the model's context; Tokens or ids [batch, pos] are taken
            as they are, a row a document.
        of: "attn_out" (what attention adds to the stream), "mlp_out", "resid_update" (what the block adds in all),
            "attn.result" (what each head writes), or any site with a vector at each token ("blocks.{0,-1}.attn_out").
        log: pictures and regressions take the natural logarithm.
        bos: start each window with the end-of-text token, which then is its position 0.

    Raises:
        SiteError: a pattern that matches nothing.
        InputError: a site without vectors, an empty text or corpus.
    """
    sinks = sinks_of(model, of)
    if isinstance(text, (Tokens, Tensor)):
        _feed(model, model.tokens(text, bos=bos), list(sinks.values()))
    else:
        source = open_text(text)
        survey(model, source, sinks, batch_tokens=WIDE_TOKENS if _is_wide(sinks) else BATCH_TOKENS, bos=bos)
    windows, norms = collected(sinks.values())
    heads = norms[0].shape[1] if norms[0].ndim == 3 else 0
    layers = [int(name.split(".")[1]) for name in sinks]
    numbers = [window.number for window in windows]
    names = list(dict(zip(numbers, (window.document for window in windows), strict=True)).values())
    meta = describe(model, "norms.measure", text, of=of, log=log, bos=bos)
    return Norms(
        meta=meta if isinstance(text, str) else meta | {"input": names},
        of=of,
        log=log,
        layers=[layer for layer in layers for _ in range(max(heads, 1))],
        heads=list(range(heads)) * len(layers) if heads else None,
        documents=names,
        **_entries(np.unique(numbers, return_inverse=True)[1], norms),
    )


@plainly
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
) -> Regression:
    """Least squares of each token's norm on those of the tokens before, one regression a layer (or head).

    y_t = a + b_1 y_(t-1) + ... + b_lags y_(t-lags) over all t whose lags lie in the same window, after position 0.

    Args:
        text, of, log, bos: as in `measure`.
        lags: how many tokens to look back; `.orders()` has AIC and BIC of 0 to that many, on the same rows.
        position: the logarithm of the position is a regressor. A trend along the text otherwise passes for memory.
        pooled: all documents share one intercept. By default each has its own: documents that only differ in level
            otherwise pass for memory.
        errors: "ols", "hac" (Newey and West's, by their rule for the number of lags) or "cluster" (by document); None
            is "ols" for one document and "cluster" for several.
        held_out: the share of each document, its end, that is foretold from a fit on the rest; 0 for none.
        shuffles: how often to put each window's norms in random order and fit again.
        seed: of the shuffles.

    Raises InputError for fewer rows than coefficients plus two, for clustered errors of one document, and where every
    layer's norms are constant, zero or no numbers (one layer's are named in `faults`).
    """
    return measure(model, text, of, log=log, bos=bos).regress(
        lags, position=position, pooled=pooled, errors=errors, held_out=held_out, shuffles=shuffles, seed=seed
    )


@plainly
def series(arrays: ArrayLike | Mapping[str, ArrayLike], *, log: bool = False, of: str = "series") -> Norms:
    """Numbers of your own, to be regressed as norms are: an array [layer, pos] or [layer, head, pos], or one for each
    document by name. Position 0 is the first, and is left out as everywhere."""
    found = arrays if isinstance(arrays, Mapping) else {"series": arrays}
    parts = [np.asarray(array, dtype=np.float64) for array in found.values()]
    shapes = {part.shape[:-1] for part in parts}
    if len(shapes) != 1 or parts[0].ndim not in (2, 3):
        got = ", ".join(str(list(part.shape)) for part in parts[:3]) or "nothing"
        raise InputError(f"series of {got}: arrays [layer, pos] or [layer, head, pos] of equal layers were expected")
    layers, heads = parts[0].shape[0], parts[0].shape[1] if parts[0].ndim == 3 else 0
    return Norms(
        meta={
            "model": {"name": "no model", "fingerprint": "none", "dtype": "float64", "device": "cpu"},
            "input": list(found),
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
        documents=[str(name) for name in found],
        **_entries(np.arange(len(parts)), parts),
    )


def _is_wide(sinks: Mapping[str, Lengths | Updates]) -> bool:
    """Whether a batch is much larger at these sites than where each token has one vector."""
    return any(isinstance(sink, Updates) or ".attn." in sink.site for sink in sinks.values())


def _feed(model: Model, tokens: Tokens, sinks: list[Lengths | Updates]) -> None:
    rows = [Row(f"text {i + 1}", 0, np.array(ids, dtype=np.int32), i) for i, ids in enumerate(tokens.rows())]
    for packed in pack(rows, WIDE_TOKENS):
        batch = Tokens.from_lists([row.ids.tolist() for row in packed])
        feed(model, Batch(packed, batch, sum(len(row.ids) for row in packed), 0), sinks)


def _entries(numbers: Ints, windows: list[Floats]) -> dict[str, Any]:
    """Windows [layer, P] or [layer, head, P], with each one's document by number, as one long row a layer and head."""
    lengths = [part.shape[-1] for part in windows]
    starts = np.flatnonzero(np.r_[True, np.diff(numbers) != 0])
    inside = np.arange(len(numbers)) - np.repeat(starts, np.diff(np.r_[starts, len(numbers)]))
    return {
        "document": np.repeat(numbers, lengths),
        "window": np.repeat(inside, lengths),
        "position": np.concatenate([np.arange(length) for length in lengths]),
        "norms": np.concatenate([part.reshape(-1, part.shape[-1]) for part in windows], axis=1),
    }
