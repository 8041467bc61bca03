"""Regress norms on the norms of the tokens before, one regression a layer, or a layer and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cutaway.analyses.norms import least_squares
from cutaway.analyses.norms.design import Design, Floats, lay_out
from cutaway.analyses.norms.layer_series import LayerSeries
from cutaway.analyses.norms.least_squares import Errors
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.model.taps.components import Address
from cutaway.results.bootstrap import FEW_DOCUMENTS
from cutaway.results.call import arguments_source
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

SIGNIFICANT = 0.05
DENSE = 2**27  # numbers in a table of regressors that statsmodels may be given: 1 GiB
SHORT = 3  # lags up to which a line of a summary has room for p-values


@dataclass(frozen=True, eq=False, repr=False)
class Regression(Result):
    """One regression a layer, or a layer and head.

    Arrays [row, term] follow `terms`. All numbers of a row with a fault (named in `faults`) are NaN.
    """

    analysis: ClassVar[str] = "norms.regress"
    title: ClassVar[str] = "Does a norm follow from those before?"

    norms: LayerSeries
    design: Design
    errors: Errors
    documents: list[str]  # those with rows
    terms: list[str]
    beta: Floats  # row term
    se: Floats
    p: Floats
    p_adjusted: Floats  # Benjamini and Hochberg's, over the lags of all rows; NaN for other terms
    df: float  # of Student's t
    r_squared: Floats  # row
    held_out: Floats  # row; R² on each document's last rows, by a fit that has not seen them
    ljung_box: Floats  # row; p
    breusch_godfrey: Floats  # row; p
    aic: Floats  # row order; of 0 to `lags` lags on the same rows
    bic: Floats
    null: Floats | None  # row shuffle lag; coefficients in shuffled order
    faults: list[str]  # row; empty where there is none

    @property
    def lags(self) -> int:
        """Return the number of lags."""
        return self.design.lags

    @property
    def lag_beta(self) -> Floats:
        """Return the coefficients of the lags: row lag."""
        return self.beta[:, -self.lags :]

    @property
    def p_shuffled(self) -> Floats:
        """Return p-values by shuffling, row lag: the share of shuffles that give a coefficient as extreme.

        It is twice the smaller tail; NaN without shuffles.
        """
        if self.null is None:
            return np.full(self.lag_beta.shape, np.nan)
        beyond = [compare(self.null, self.lag_beta[:, None]).sum(1) for compare in (np.greater_equal, np.less_equal)]
        tail = (1 + np.minimum(*beyond)) / (1 + self.null.shape[1])
        return np.where(np.isfinite(self.lag_beta), np.minimum(2 * tail, 1), np.nan)

    def table(self) -> pd.DataFrame:
        """Return one row a layer (and head) and coefficient.

        Columns: layer, head, term, beta, se, t, p, p_adjusted, low, high (95%), p_shuffled; and of the whole
        regression r_squared, held_out, aic, bic, ljung_box, breusch_godfrey (p-values), fault; where there are heads
        component ("head 3.1").
        """
        import pandas as pd

        rows, terms = self.beta.shape
        reach = least_squares.quantile(self.df) * self.se
        shuffled = np.full((rows, terms), np.nan)
        shuffled[:, -self.lags :] = self.p_shuffled
        with np.errstate(divide="ignore", invalid="ignore"):
            t = self.beta / self.se
        each = {"beta": self.beta, "se": self.se, "t": t, "p": self.p, "p_adjusted": self.p_adjusted}
        each |= {"low": self.beta - reach, "high": self.beta + reach, "p_shuffled": shuffled}
        whole = {"r_squared": self.r_squared, "held_out": self.held_out, "aic": self.aic[:, -1], "bic": self.bic[:, -1]}
        whole |= {"ljung_box": self.ljung_box, "breusch_godfrey": self.breusch_godfrey}
        return pd.DataFrame(
            {
                **{name: np.repeat(numbers, terms) for name, numbers in self.norms.labels().items()},
                "term": self.terms * rows,
                **{name: values.ravel() for name, values in each.items()},
                **{name: np.repeat(values, terms) for name, values in whole.items()},
                "fault": np.repeat(np.array(self.faults, dtype=object), terms),
                **{name: np.repeat(each, terms) for name, each in self.norms.components().items()},
            }
        )

    def orders(self) -> pd.DataFrame:
        """Return AIC and BIC of 0 to `lags` lags, all fitted on the rows that have `lags` lags.

        Columns: layer, head, lags, aic, bic; where there are heads component ("head 3.1").
        """
        import pandas as pd

        rows, orders = self.aic.shape
        components = {name: np.repeat(each, orders) for name, each in self.norms.components().items()}
        labels = {name: np.repeat(numbers, orders) for name, numbers in self.norms.labels().items()}
        lags = np.tile(np.arange(orders), rows)
        numbers = {"lags": lags, "aic": self.aic.ravel(), "bic": self.bic.ravel()}
        return pd.DataFrame({**labels, **numbers, **components})

    def ols(self, layer: int, head: int | None = None) -> Any:
        """Return the regression of one layer or head as statsmodels' own results, with a `.summary()`.

        Intercepts of several documents are columns there.

        Raises InputError for a layer or head that was not regressed, or whose series has a fault.
        """
        norms = self.norms
        known: list[tuple[int, int | None]] = [(i, None) for i in norms.layers]
        if norms.heads:
            known = list(zip(norms.layers, norms.heads, strict=True))
        if (layer, head) not in known:
            wanted, first, last = (
                str(Address("layer" if h is None else "head", i, h)) for i, h in ((layer, head), known[0], known[-1])
            )
            raise InputError(f"no regression of {wanted}: there is one for each from {first} to {last}")
        row = known.index((layer, head))
        if self.faults[row]:
            raise InputError(f"no regression of layer {layer}: {norms.of} is {self.faults[row]}")
        if self.design.rows * self.design.coefficients > DENSE:
            documents = f"{self.design.intercepts:,} documents and {self.design.rows:,} rows"
            raise InputError(
                f"{documents} are too many for statsmodels, a column a document: use .table(), or pooled=True"
            )
        return least_squares.statsmodels_fit(norms.values[row], self.design, self.documents, self.errors)

    def summary(self) -> str:
        lines = [self._by_head() if self.norms.heads else self._by_layer()]
        rows = [
            f"  {self.norms.named(row)}: {self.norms.of} is {fault}"
            for row, fault in zip(self._labelled(), self.faults, strict=True)
            if fault
        ]
        if rows:
            lines += ["not regressed:", *rows[:8], *([f"  and {len(rows) - 8} more"] if len(rows) > 8 else [])]
        return "\n".join([*lines, *self._notes()])

    def _labelled(self) -> list[dict[str, int]]:
        """Return the layer, and the head where there are heads, of each row."""
        labels = self.norms.labels()
        return [dict(zip(labels, numbers, strict=True)) for numbers in zip(*labels.values(), strict=True)]

    def _by_layer(self) -> str:
        """Return a line a layer, with its coefficients and their p-values."""
        short = self.lags <= SHORT
        width = 24 if short else 9
        lines = [
            "layer  "
            + "".join(f"{f't-{k + 1}':>7}{'':<{width - 7}}" for k in range(self.lags))
            + "   R²  held out  Ljung-Box p"
        ]
        adjusted, p = self.p_adjusted[:, -self.lags :], self.p[:, -self.lags :]
        for i, layer in enumerate(self.norms.layers):
            if self.faults[i]:
                continue
            cells = "".join(
                f"{beta:7.3f}{'*' if q < SIGNIFICANT else ' '}" + (f" p {raw:.3f} ({q:.3f})  " if short else " ")
                for beta, raw, q in zip(self.lag_beta[i], p[i], adjusted[i], strict=True)
            )
            held = f"{self.held_out[i]:8.3f}" if np.isfinite(self.held_out[i]) else "       -"
            box = f"{self.ljung_box[i]:11.3f}" if np.isfinite(self.ljung_box[i]) else "          -"
            lines.append(f"{layer:>5}  {cells}{self.r_squared[i]:5.3f}  {held}  {box}")
        return "\n".join(lines)

    def _by_head(self) -> str:
        """Return a line a layer, with the range of its heads' coefficients."""
        lines = ["layer  " + "".join(f"{f't-{k + 1}':<26}" for k in range(self.lags)) + "median R²"]
        layers = np.array(self.norms.layers)
        for layer in sorted(set(self.norms.layers)):
            good = (layers == layer) & np.isfinite(self.r_squared)
            if not good.any():
                continue
            cells = "".join(
                f"{beta.min():6.2f} to {beta.max():5.2f}, {(p < SIGNIFICANT).sum():>2} of {len(p):<3} "
                for beta, p in zip(self.lag_beta[good].T, self.p_adjusted[good, -self.lags :].T, strict=True)
            )
            lines.append(f"{layer:>5}  {cells}{np.median(self.r_squared[good]):9.3f}")
        return "\n".join([*lines, "lowest and highest coefficient of its heads, how many of them are significant"])

    def _notes(self) -> list[str]:
        """Return the lines below the coefficients: rows, tests, lags by BIC, and warnings."""
        norms, design = self.norms, self.design
        count = len(self.documents)
        kind = "an intercept each" if design.own else "one intercept"
        rows = f"{design.rows:,} rows of " + ("1 text" if count == 1 else f"{count:,} documents, {kind}")
        lines = [f"{norms.unit}: {rows}; {self.errors} errors"]
        tests = np.isfinite(self.p_adjusted).sum()
        beside = " (in brackets)" if self.lags <= SHORT and not norms.heads else ""
        lines.append(f"* p < {SIGNIFICANT} after Benjamini and Hochberg{beside} over {tests} tests")
        if np.isfinite(self.bic).any():
            best = np.bincount(self.bic[np.isfinite(self.bic[:, 0])].argmin(1), minlength=self.lags + 1)
            most = "; more were not tried" if best.argmax() == self.lags else ""
            counts = ", ".join(f"{k} in {n}" for k, n in enumerate(best) if n)
            lines.append(f"lags that BIC chooses: {counts}{most}")
        if left := sorted(set(norms.documents) - set(self.documents)):
            more = ", ..." if len(left) > 3 else ""
            lines.append(f"too short for a row: {len(left):,} documents ({', '.join(left[:3])}{more})")
        if self.errors == "cluster" and count < FEW_DOCUMENTS:
            lines.append(f"under {FEW_DOCUMENTS} documents clustered errors are rough")
        return lines

    def caption(self) -> str:
        errors = {"ols": "plain", "hac": "Newey and West's", "cluster": "clustered by document"}[self.errors]
        shape = (
            "Cells: one coefficient a layer and head" if self.norms.heads else "Points: one coefficient a layer and lag"
        )
        shaded = self.null is not None and not self.norms.heads
        return (
            f"Least squares of the {self.norms.unit} at each token on that of the {self.lags} before it. {shape}, "
            f"filled where p < {SIGNIFICANT}, a cross where not; p-values corrected over all of them (Benjamini and "
            f"Hochberg) or raw. Standard errors are {errors}"
            + ("." if self.norms.heads else "; bars are 95% intervals.")
            + (" Shaded: where 95% of coefficients fall when the order is shuffled." if shaded else "")
        )


def regression(
    norms: LayerSeries,
    meta: dict[str, Any],
    lags: int,
    *,
    position: bool,
    pooled: bool,
    errors: Errors | None,
    held_out: float,
    shuffles: int,
    seed: int,
) -> Regression:
    """Regress each row of a series on its own past, given the meta of the series: see `norms.regress`."""
    lags, shuffles, seed = whole("lags", lags, 1), whole("shuffles", shuffles, 0, MOST_DRAWS), seed_of(seed)
    _check(errors, held_out)
    options: dict[str, Any] = {"lags": lags, "position": position, "pooled": pooled, "errors": errors}
    options |= {"held_out": held_out, "shuffles": shuffles, "seed": seed}
    design = lay_out(
        norms.document, norms.window, norms.position, lags, own=not pooled, log_position=position, held_out=held_out
    )
    _check_rows(design, lags)
    names = [norms.documents[i] for i in np.unique(norms.document[design.now])]
    if errors == "cluster" and len(names) < 2:
        raise InputError("errors='cluster' needs several documents, and one has rows: give 'ols' or 'hac'")
    call = f"{meta['call']}.regress({', '.join(arguments_source('norms.regress', options))})"
    meta = {**meta, "parameters": {**meta["parameters"], **options}, "call": call}
    return _fitted(norms, design, errors or ("cluster" if len(names) > 1 else "ols"), names, shuffles, seed, meta)


def _check(errors: str | None, held_out: float) -> None:
    """Raise InputError for an unknown kind of errors, or a share outside 0 to less than 1."""
    if errors not in (None, "ols", "hac", "cluster"):
        raise InputError(f"errors={errors!r} are unknown: 'ols', 'hac' or 'cluster' was expected")
    if not 0 <= held_out < 1:
        raise InputError(f"held_out={held_out!r}: a share of each document was expected, from 0 to less than 1")


def _check_rows(design: Design, lags: int) -> None:
    """Raise InputError for fewer rows than coefficients plus two."""
    needed = (design.coefficients if design.rows else lags + 1) + 2
    if design.rows < needed:
        raise InputError(
            f"{design.rows} usable rows with lags={lags}: at least {needed} were expected (two more than there are "
            "coefficients); give a longer text, or fewer lags"
        )


def _fitted(
    norms: LayerSeries, design: Design, errors: Errors, names: list[str], shuffles: int, seed: int, meta: dict[str, Any]
) -> Regression:
    """Fit every row, and return the fits as arrays, NaN where a row has a fault."""
    values, rows, terms = norms.values, len(norms.layers), len(design.terms)
    faults = [least_squares.fault(row, design, norms.log) for row in norms.norms]
    sizes = {"beta": terms, "se": terms, "aic": design.lags + 1, "bic": design.lags + 1}
    scalars = ("r_squared", "held_out", "ljung_box", "breusch_godfrey")
    shapes = {n: (rows, size) for n, size in sizes.items()} | dict.fromkeys(scalars, (rows,))
    fits: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
    null = np.full((rows, shuffles, design.lags), np.nan)
    for row, series in enumerate(values):
        if faults[row]:
            continue
        fit = least_squares.fit(series, design, errors)
        if fit is None:
            faults[row] = "collinear with itself shifted"
            continue
        for name, numbers in fits.items():
            numbers[row] = getattr(fit, name)
        null[row] = least_squares.shuffled(series, design, shuffles, seed)
    if all(faults):
        raise InputError(f"no layer can be regressed: {norms.of} of layer {norms.layers[0]} is {faults[0]}")
    df = float(len(names) - 1 if errors == "cluster" else design.rows - design.coefficients)
    p = least_squares.p_values(fits["beta"], fits["se"], df)
    p_adjusted = np.full_like(p, np.nan)
    p_adjusted[:, -design.lags :] = least_squares.adjusted(p[:, -design.lags :])
    return Regression(
        meta=meta,
        norms=norms,
        design=design,
        errors=errors,
        documents=names,
        terms=design.terms,
        p=p,
        p_adjusted=p_adjusted,
        df=df,
        null=null if shuffles else None,
        faults=faults,
        **fits,
    )
