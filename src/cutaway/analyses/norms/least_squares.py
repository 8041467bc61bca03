"""Fit a series to its own past by least squares, in several documents read in windows.

    fit(series, design, "ols")        coefficients, errors, and tests of the residuals

    y_t = a_document + b_1 y_(t-1) + ... + b_L y_(t-L) [+ c log(position)] + e_t

design.py says which entry is regressed on which earlier ones. No lag crosses a window, and no product of residuals in
the HAC errors, in Ljung-Box's Q and in Breusch and Godfrey's LM does: libraries that take one long series cannot ensure
that. Where there is one window, every number equals statsmodels'. Intercepts of several documents are taken out of both
sides before the fit (Frisch, Waugh and Lovell), so that a thousand of them cost no more than one.

Newey and West 1987 (HAC), Ljung and Box 1978, Breusch 1978, Godfrey 1978, Benjamini and Hochberg 1995.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from cutaway.analyses.norms.design import Design, Floats

Errors: TypeAlias = Literal["ols", "hac", "cluster"]

COLLINEAR = 1e-8  # the share of a column's length outside earlier columns, below which it depends on them
CONSTANT = 1e-6  # the spread of a series relative to its size, below which it is rounding


@dataclass(frozen=True, eq=False)
class Fit:
    """The fit of one series. Arrays follow the design's terms; `aic` and `bic` the orders 0 to lags, on equal rows."""

    beta: Floats
    se: Floats
    r_squared: float
    held_out: float  # R² on the rows that the fit has not seen
    aic: Floats
    bic: Floats
    ljung_box: float  # p
    breusch_godfrey: float  # p


def fault(norms: Floats, design: Design, log: bool) -> str:
    """Say in words what makes a series unfit for a regression; empty where nothing does. `norms` is before any log."""
    used = norms[design.reach]
    kinds = {"NaN": np.isnan(used), "infinite": np.isinf(used)}
    if log:
        kinds |= {"0, whose log is infinite,": used == 0, "negative, without a log,": used < 0}
    for kind, positions in kinds.items():
        if positions.any():
            return f"{kind} at {positions.sum():,} of {len(used):,} positions"
    if np.ptp(used) <= CONSTANT * np.abs(used).max():
        return f"constant ({used[0]:.6g})"
    return ""


def fit(series: Floats, design: Design, errors: Errors) -> Fit | None:
    """Fit one series that has no fault; return None where its lags are collinear."""
    y, regressors = series[design.now], design.regressors(series)
    if design.intercepts == 1:
        target, X = y, np.column_stack([np.ones(design.rows), regressors])
    else:
        target, X = design.within(y), design.within(regressors)
    solved = _solve(X, target)
    if solved is None:
        return None
    beta, back, Q, parts = solved
    residual = target - X @ beta
    ssr = float(residual @ residual)
    aic, bic = _criteria(ssr, parts, design)
    tested = design.residual_lags
    return Fit(
        beta=beta,
        se=_standard_errors(Q, residual, back, design, errors),
        r_squared=1 - ssr / float(np.sum((y - y.mean()) ** 2)),
        held_out=_held_out(y, regressors, design),
        aic=aic,
        bic=bic,
        ljung_box=_ljung_box(residual, design) if tested else math.nan,
        breusch_godfrey=_breusch_godfrey(X, residual, design) if tested else math.nan,
    )


def p_values(beta: Floats, se: Floats, df: float) -> Floats:
    """Return two-sided p-values by Student's t."""
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(2 * stdtr(df, -np.abs(beta / se)))


def quantile(df: float, probability: float = 0.975) -> float:
    """Return a quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def adjusted(p: Floats) -> Floats:
    """Return Benjamini and Hochberg's p-values over all entries that are numbers; NaN for the others."""
    from scipy.stats import false_discovery_control

    corrected = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    corrected[known] = false_discovery_control(p[known])
    return corrected


def shuffled(series: Floats, design: Design, times: int, seed: int) -> Floats:
    """Return the coefficients of the lags [time lag] after putting the entries of each window in random order.

    Position 0 of a window is not moved. Equal seeds shuffle all series alike.
    """
    generator = np.random.default_rng(seed)
    reach, window = design.reach, design.window_of_reach
    coefficients = np.full((times, design.lags), np.nan)
    mixed = series.copy()
    for i in range(times):
        mixed[reach] = series[reach[np.lexsort((generator.random(len(reach)), window))]]
        columns = design.within(design.regressors(mixed))
        if (solved := _solve(columns, design.within(mixed[design.now]))) is not None:
            coefficients[i] = solved[0][-design.lags :]
    return coefficients


def _solve(X: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats] | None:
    """Return coefficients, R^-1 and Q of X = Q R, and y's component along each column of Q; None for collinear columns.

    It never forms X'X, whose condition is the square of X's.
    """
    Q, R = np.linalg.qr(X)
    left_over = np.abs(np.diag(R))
    if len(X) < X.shape[1] or np.any(left_over <= COLLINEAR * np.linalg.norm(X, axis=0)):
        return None
    parts = Q.T @ y
    back = np.linalg.solve(R, np.eye(len(R)))
    return back @ parts, back, Q, parts


def _criteria(ssr: float, parts: Floats, design: Design) -> tuple[Floats, Floats]:
    """Return AIC and BIC of 0 to `lags` lags, all on the rows that have `lags` lags.

    The lags are the last columns of the regressors, nearest first.
    """
    n, L = design.rows, design.lags
    dropped = np.r_[0.0, np.cumsum(parts[::-1][:L] ** 2)][::-1]  # sum of squares that the lags beyond k explain
    count = np.linspace(design.coefficients - L, design.coefficients, L + 1)
    with np.errstate(divide="ignore"):
        deviance = n * (np.log(2 * np.pi) + np.log((ssr + dropped) / n) + 1)
    return deviance + 2 * count, deviance + np.log(n) * count


def _standard_errors(Q: Floats, residual: Floats, back: Floats, design: Design, errors: Errors) -> Floats:
    """Return standard errors: roots of the diagonal of R^-1 S R^-T, S the covariance of scores in the columns of Q."""
    n, k = design.rows, design.coefficients
    if errors == "ols":
        return np.asarray(np.linalg.norm(back, axis=1) * np.sqrt(float(residual @ residual) / (n - k)))
    scores = Q * residual[:, None]
    if errors == "cluster":
        G = int(design.document.max()) + 1
        sums: Floats = np.stack([np.bincount(design.document, c, G) for c in scores.T], 1).astype(np.float64)
        return np.asarray(np.linalg.norm(back @ sums.T, axis=1) * np.sqrt(G / (G - 1) * (n - 1) / (n - k)))
    middle: Floats = scores.T @ scores
    for lag in range(1, design.hac_lags + 1):
        product = scores[lag:].T @ (scores[:-lag] * design.same_window[lag][:, None])
        middle += (1 - lag / (design.hac_lags + 1)) * (product + product.T)
    return np.sqrt(n / (n - k) * np.diag(back @ middle @ back.T))


def _held_out(y: Floats, X: Floats, design: Design) -> float:
    """Return R² on the last rows of each document, by a fit to the first ones, relative to the first ones' mean."""
    train, groups = design.train, design.groups
    if train.all() or train.sum() < design.coefficients + 2:
        return math.nan
    counts = np.bincount(groups[train])
    both = np.column_stack([y, X])
    means = np.stack([np.bincount(groups[train], column) for column in both[train].T], 1) / counts[:, None]
    both = both - means[groups]
    if (solved := _solve(both[train, 1:], both[train, 0])) is None:
        return math.nan
    unseen = both[~train, 0]
    missed = unseen - both[~train, 1:] @ solved[0]
    total = float(unseen @ unseen)
    return 1 - float(missed @ missed) / total if total else math.nan


def _ljung_box(residual: Floats, design: Design) -> float:
    """Return p of Ljung-Box's Q = n (n + 2) sum r_k² / pairs_k over k up to residual_lags.

    pairs_k is n - k in a single window. Q is chi squared with residual_lags - lags degrees of freedom, since the fit
    has used as many as there are lags.
    """
    from scipy.special import chdtrc

    n, total, q = design.rows, float(residual @ residual), 0.0
    for k in range(1, design.residual_lags + 1):
        same = design.same_window[k]
        r = float((residual[k:] * residual[:-k]) @ same) / total
        q += r * r / same.sum()
    return float(chdtrc(design.residual_lags - design.lags, n * (n + 2) * q))


def _breusch_godfrey(X: Floats, residual: Floats, design: Design) -> float:
    """Return p of Breusch and Godfrey's LM = n R².

    R² is that of the residuals on the regressors and on LOOK_BACK (or fewer) lags of themselves, 0 before a window's
    start.
    """
    from scipy.special import chdtrc

    order = design.residual_lags - design.lags
    lagged = np.zeros((design.rows, order))
    for k in range(1, order + 1):
        lagged[k:, k - 1] = residual[:-k] * design.same_window[k]
    if design.intercepts > 1:
        lagged = design.within(lagged)
    solved = _solve(np.column_stack([X, lagged]), residual)
    if design.rows <= design.coefficients + order or solved is None:
        return math.nan
    along_lags = solved[-1][-order:]  # the residuals' components along the part of their lags outside the regressors
    return float(chdtrc(order, design.rows * float(along_lags @ along_lags) / float(residual @ residual)))


def whole_table(series: Floats, design: Design, names: list[str]) -> tuple[Floats, Floats, list[str]]:
    """Return y, the regressors with every intercept as a column, and the columns' names, as statsmodels takes them."""
    dummies = np.eye(design.intercepts)[design.groups]
    labels = [f"intercept[{name}]" for name in names] if design.intercepts > 1 else ["intercept"]
    labels += [term for term in design.terms if term != "intercept"]
    return series[design.now], np.hstack([dummies, design.regressors(series)]), labels


def statsmodels_fit(series: Floats, design: Design, names: list[str], errors: Errors) -> Any:
    """Return statsmodels' own results of the same regression, with the same errors."""
    import pandas as pd
    import statsmodels.api as sm

    y, X, labels = whole_table(series, design, names)
    model = sm.OLS(pd.Series(y, name="y"), pd.DataFrame(X, columns=labels))
    match errors:
        case "ols":
            return model.fit()
        case "hac":
            options = {"groups": design.window, "maxlags": design.hac_lags, "df_correction": False}
            return model.fit(cov_type="hac-panel", cov_kwds=options, use_t=True)
        case "cluster":
            return model.fit(cov_type="cluster", cov_kwds={"groups": design.document}, use_t=True)
