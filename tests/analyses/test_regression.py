"""Least squares on norms: against the post's own steps, statsmodels and plain loops; and simulations whose truth is
known."""

import functools

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from statsmodels.stats.diagnostic import acorr_breusch_godfrey, acorr_ljungbox
from statsmodels.stats.multitest import multipletests

import cutaway
from cutaway import norms
from cutaway.analyses.norms import least_squares
from cutaway.analyses.norms.design import lay_out
from cutaway.errors import InputError
from tests.model.reference import random_gpt2

TEXT = (
    "Hungarian rock has been a part of the popular music of Hungary since the early 1960s. The first major bands were "
    "Illés, Metró and Omega. At the time, rock was not approved of by the Hungarian Communist authorities. In the "
    "1970s, the Communists cracked down on rock, and Illés was banned from recording."
)


def autoregression(shape, length, b=(), intercept=0.0, seed=0, burn=100):
    """Series [*shape, length] with y_t = intercept + sum b_k y_(t-k) + e_t, e standard normal."""
    generator = np.random.default_rng(seed)
    y = generator.standard_normal((*shape, length + burn))
    for t in range(len(b), length + burn):
        y[..., t] += intercept + sum(b_k * y[..., t - k] for k, b_k in enumerate(b, 1))
    return y[..., burn:]


# --- the post ---


def posts_norms(model, ids):
    """Norms [layer, pos] by the post's own hooks."""
    adjustments = {}

    def implant_hook(layer_number):
        def hook(module, input, output):
            adjustments[f"L{layer_number}_attn"] = output[0].detach().numpy()

        return hook

    hooks = [block.attn.register_forward_hook(implant_hook(i)) for i, block in enumerate(model.transformer.h)]
    with torch.no_grad():
        model.transformer(ids)
    for hook in hooks:
        hook.remove()
    return [np.linalg.norm(adjustments[f"L{i}_attn"][0], axis=-1) for i in range(len(model.transformer.h))]


def posts_regression(norms):
    """The post's design matrix and statsmodels, for one layer."""
    norms, n_tokens = np.log(norms), len(norms)
    design = np.zeros((n_tokens - 3, 3))
    for t in range(3, n_tokens):
        design[t - 3, :] = [1, norms[t - 1], norms[t - 2]]
    return sm.OLS(norms[3:], design).fit(), np.linalg.lstsq(design, norms[3:], rcond=None)[0]


@pytest.fixture(scope="module", params=["bundled", "random GPT-2 small"])
def both(request, bundled, hf):
    """The post's norms, and ours."""
    if request.param == "bundled":
        ids = torch.tensor(bundled.tokenizer.encode([TEXT])[0])
        return posts_norms(hf(), ids), norms.measure(bundled, TEXT)
    model = random_gpt2(n_layer=12, n_head=12, n_embd=768, vocab_size=50257)
    ids = torch.randint(50257, (1, 92), generator=torch.Generator().manual_seed(1))
    return posts_norms(model, ids), norms.measure(cutaway.load(model, device="cpu"), ids)


@pytest.mark.slow
def test_the_posts_steps_give_our_numbers(both):
    theirs, ours = both
    same = norms.series(np.array(theirs, dtype=np.float64), log=True).regress(lags=2)
    own = ours.regress(lags=2)
    assert same.terms == ["intercept", "t-1", "t-2"]
    for layer, of_layer in enumerate(theirs):
        fit, lstsq = posts_regression(of_layer.astype(np.float64))
        np.testing.assert_allclose(same.beta[layer], fit.params, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(same.beta[layer], lstsq, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(same.p[layer], fit.pvalues, rtol=1e-6, atol=1e-10)
        np.testing.assert_allclose(same.r_squared[layer], fit.rsquared, rtol=1e-8)
        np.testing.assert_allclose(own.beta[layer], fit.params, atol=1e-4)
        np.testing.assert_allclose(own.p[layer], fit.pvalues, atol=1e-4)
        assert str(own.ols(layer).summary()).count("t-2") == 1


# --- statsmodels ---

DOCUMENTS = {"a": 60, "b": 45, "short": 3, "c": 80, "d": 30}


@functools.cache
def pooled(layers=3):
    """Documents of different lengths and levels."""
    found = {}
    for i, (name, length) in enumerate(DOCUMENTS.items()):
        found[name] = autoregression((layers,), length, (0.4, 0.2), 0.3 * i, seed=i)
    return norms.series(found)


def plainly(documents, lags, position=False, own=True):
    """y, X (intercepts, log position, lags) and the document of each row, in loops; of one layer."""
    y, X, groups = [], [], []
    kept = [series for series in documents if len(series) > lags + 1]
    for d, series in enumerate(kept):
        for t in range(lags + 1, len(series)):
            intercepts = [float(d == k) for k in range(len(kept))] if own else [1.0]
            X.append([*intercepts, *([np.log(t)] if position else []), *(series[t - k] for k in range(1, lags + 1))])
            y.append(series[t])
            groups.append(d)
    return np.array(y), np.array(X), np.array(groups)


def documents_of(found, layer):
    return [found.norms[layer, found.document == d] for d in range(len(found.documents))]


@pytest.mark.parametrize("errors", ["ols", "hac", "cluster"])
@pytest.mark.parametrize("position", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_pooled_documents_are_statsmodels_with_dummies(errors, position, own):
    found = pooled()
    result = found.regress(3, position=position, pooled=not own, errors=errors)
    assert result.documents == ["a", "b", "c", "d"]
    assert "too short for a row: 1 documents (short)" in result.summary()
    for layer in range(3):
        y, X, groups = plainly(documents_of(found, layer), 3, position, own)
        options = {
            "ols": {},
            "hac": {
                "cov_type": "hac-panel",
                "use_t": True,
                "cov_kwds": {"groups": groups, "maxlags": int(4 * (len(y) / 100) ** (2 / 9)), "df_correction": False},
            },
            "cluster": {"cov_type": "cluster", "use_t": True, "cov_kwds": {"groups": groups}},
        }[errors]
        fit = sm.OLS(y, X).fit(**options)
        k = len(result.terms)
        np.testing.assert_allclose(result.beta[layer], fit.params[-k:], rtol=1e-9)
        np.testing.assert_allclose(result.se[layer], fit.bse[-k:], rtol=1e-9)
        np.testing.assert_allclose(result.p[layer], fit.pvalues[-k:], rtol=1e-7, atol=1e-14)
        np.testing.assert_allclose(result.r_squared[layer], fit.rsquared, rtol=1e-9)
        np.testing.assert_allclose([result.aic[layer, -1], result.bic[layer, -1]], [fit.aic, fit.bic], rtol=1e-12)
        row = result.table().query("layer == @layer and term == 't-1'").iloc[0]
        np.testing.assert_allclose([row["low"], row["high"]], fit.conf_int()[-3], rtol=1e-9)
        given = result.ols(layer)
        np.testing.assert_allclose(given.bse.iloc[-k:], result.se[layer], rtol=1e-9)
        np.testing.assert_allclose(given.pvalues.iloc[-k:], result.p[layer], rtol=1e-7, atol=1e-14)


def test_one_document_is_statsmodels_all_through():
    y = autoregression((4,), 90, (0.5,), 1.0)
    ols, hac = (norms.series(y).regress(2, errors=errors) for errors in (None, "hac"))
    for layer in range(4):
        target, X, _ = plainly([y[layer]], 2)
        fit = sm.OLS(target, X).fit()
        robust = sm.OLS(target, X).fit(cov_type="HAC", cov_kwds={"maxlags": 3, "use_correction": True}, use_t=True)
        np.testing.assert_allclose(hac.se[layer], robust.bse, rtol=1e-10)
        np.testing.assert_allclose(hac.p[layer], robust.pvalues, rtol=1e-8)
        np.testing.assert_allclose(ols.se[layer], fit.bse, rtol=1e-10)
        q = acorr_ljungbox(fit.resid, lags=[12], model_df=2)
        np.testing.assert_allclose(ols.ljung_box[layer], q["lb_pvalue"].iloc[0], rtol=1e-8)
        np.testing.assert_allclose(
            ols.breusch_godfrey[layer], acorr_breusch_godfrey(fit, 10, result_object=True).lmpval, rtol=1e-8
        )
        for lags in (0, 1, 2):  # on the rows of two
            fewer = sm.OLS(target, X[:, : 1 + lags]).fit()
            np.testing.assert_allclose([ols.aic[layer, lags], ols.bic[layer, lags]], [fewer.aic, fewer.bic], rtol=1e-12)
    # In 50 digits (mpmath). In the third a lagged residual is all but a sum of regressors: statsmodels has it to 2e-12.
    exact = [0.11872311460849006531, 0.94858454874728386488, 0.60795153927466906066, 0.65931506932799011290]
    np.testing.assert_allclose(ols.breusch_godfrey, exact, rtol=1e-10)
    orders = ols.orders()
    assert orders["lags"].tolist() == [0, 1, 2] * 4
    assert orders["bic"].tolist() == ols.bic.ravel().tolist()


@pytest.mark.parametrize("errors", ["ols", "hac", "cluster"])
def test_a_high_level_costs_no_digits(errors):
    """What does not depend on the level, on numbers that a level of 2^18 can be added to without rounding."""
    documents = {name: np.round(autoregression((2,), 70, (0.6, 0.2), seed=i) * 2**20) / 2**20 for i, name in
                 enumerate("abc")}  # fmt: skip
    low, high = (
        norms.series({name: level + series for name, series in documents.items()}).regress(
            2, pooled=True, errors=errors
        )
        for level in (0.0, 2.0**18)
    )
    for name in ("lag_beta", "r_squared", "held_out", "ljung_box", "breusch_godfrey"):
        np.testing.assert_allclose(getattr(high, name), getattr(low, name), rtol=1e-8, err_msg=name)
    np.testing.assert_allclose(high.se[:, 1:], low.se[:, 1:], rtol=1e-8)
    np.testing.assert_allclose(high.aic, low.aic, rtol=1e-9)


def test_diagnostics_of_documents_are_those_of_plain_loops():
    found, lags = pooled(), 2
    result = found.regress(lags)
    y, X, groups = plainly(documents_of(found, 0), lags)
    resid = sm.OLS(y, X).fit().resid
    total, n, q = resid @ resid, len(y), 0.0
    lagged = np.zeros((n, 10))
    for k in range(1, 13):
        pairs = [(i, i - k) for i in range(k, n) if groups[i] == groups[i - k]]
        q += (sum(resid[i] * resid[j] for i, j in pairs) / total) ** 2 / len(pairs)
        for i, j in pairs if k <= 10 else []:
            lagged[i, k - 1] = resid[j]
    from scipy.stats import chi2

    np.testing.assert_allclose(result.ljung_box[0], chi2.sf(n * (n + 2) * q, 12 - lags), rtol=1e-9)
    lm = n * sm.OLS(resid, np.hstack([X, lagged])).fit().rsquared
    np.testing.assert_allclose(result.breusch_godfrey[0], chi2.sf(lm, 10), rtol=1e-8)


@pytest.mark.parametrize("own", [True, False])
def test_held_out_rows_are_foretold_from_the_rest(own):
    found = pooled()
    result = found.regress(2, pooled=not own, held_out=0.25)
    y, X, groups = plainly(documents_of(found, 1), 2, own=own)
    train = np.concatenate([np.arange(n) < np.ceil(0.75 * n) for n in np.bincount(groups)])
    fit, mean = (sm.OLS(y[train], part[train]).fit() for part in (X, X[:, :-2]))
    error, baseline = (y[~train] - f.predict(part[~train]) for f, part in ((fit, X), (mean, X[:, :-2])))
    np.testing.assert_allclose(result.held_out[1], 1 - (error @ error) / (baseline @ baseline), rtol=1e-9)
    assert np.isnan(found.regress(2, held_out=0).held_out).all()


@given(st.lists(st.floats(0, 1, allow_subnormal=False) | st.just(float("nan")), max_size=30))
@settings(max_examples=60, deadline=None)
def test_corrected_p_values_are_those_of_scipy_and_statsmodels(values):
    p = np.array(values)
    found, known = least_squares.adjusted(p), np.isfinite(p)
    assert np.isnan(found[~known]).all()
    if known.any():
        np.testing.assert_allclose(found[known], false_discovery_control(p[known]), rtol=1e-12)
        np.testing.assert_allclose(found[known], multipletests(p[known], method="fdr_bh")[1], rtol=1e-12)


def test_lags_of_all_layers_are_corrected_together_and_intercepts_are_not_among_them():
    result = norms.series(autoregression((5,), 80, (0.3,), 2.0)).regress(2)
    np.testing.assert_allclose(result.p_adjusted[:, 1:], false_discovery_control(result.p[:, 1:].ravel()).reshape(5, 2))
    assert np.isnan(result.p_adjusted[:, 0]).all()
    table = result.table()
    assert table["term"].tolist() == ["intercept", "t-1", "t-2"] * 5
    np.testing.assert_allclose(table["t"], table["beta"] / table["se"])


# --- where lags reach ---

LENGTHS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=4)


@given(LENGTHS, st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_no_lag_crosses_a_document_or_a_window_or_reaches_position_0(lengths, lags):
    where = [(d, w, p) for d, windows in enumerate(lengths) for w, n in enumerate(windows) for p in range(n)]
    document, window, position = (np.array(column) for column in zip(*where, strict=True))
    design = lay_out(document, window, position, lags, own=True, log_position=True, held_out=0.2)
    expected = [i for i, (_, _, p) in enumerate(where) if p > lags]
    assert design.now.tolist() == expected
    for row, i in enumerate(expected):
        for k in range(1, lags + 1):
            d, w, p = where[i - k]
            assert (d, w) == where[i][:2]
            assert p == where[i][2] - k > 0
        assert design.position[row] == np.log(where[i][2])
    same = [where[i][:2] for i in expected]
    assert [a == b for a, b in zip(same[1:], same[:-1], strict=False)] == np.equal(*_pairs(design.window)).tolist()


def _pairs(values):
    return values[1:], values[:-1]


def test_a_lag_that_crossed_a_document_would_be_seen():
    """Each document is noise, and begins where the one before it ended: only a lag from one into another finds it."""
    generator, documents = np.random.default_rng(0), {}
    for d in range(400):
        series = generator.standard_normal((1, 6))
        if d:
            series[0, 0:3] = documents[f"{d - 1}"][0, -1]
        documents[f"{d}"] = series
    result = norms.series(documents).regress(1, pooled=True)
    y, X, _ = plainly([series[0] for series in documents.values()], 1, own=False)
    np.testing.assert_allclose(result.beta[0], np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-9)
    joined = np.concatenate([series[0] for series in documents.values()])
    crossing = np.linalg.lstsq(np.stack([np.ones(len(joined) - 1), joined[:-1]], 1), joined[1:], rcond=None)[0]
    assert abs(crossing[1] - result.beta[0, 1]) > 0.05


def test_windows_of_a_long_document_are_kept_apart(bundled):
    text = "the state of the Union and of all its people " * 60
    found = norms.measure(bundled, text)
    assert found.window.max() == 1
    parts = [found.values[1, found.window == w] for w in (0, 1)]
    y, X = (np.concatenate(part) for part in zip(*(plainly([part], 2)[:2] for part in parts), strict=True))
    np.testing.assert_allclose(found.regress(2).beta[1], np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-6)


# --- simulations ---


@pytest.mark.slow
def test_known_coefficients_come_back_with_honest_intervals():
    b, times = (0.5, 0.2), 1000
    result = norms.series(autoregression((times,), 1003, b, 0.6, seed=1)).regress(2)
    assert result.design.rows == 1000
    assert np.abs(result.lag_beta.mean(0) - b).max() < 0.01
    reach = least_squares.quantile(result.df) * result.se[:, 1:]
    covered = (np.abs(result.lag_beta - b) < reach).mean(0)
    assert ((covered > 0.92) & (covered < 0.97)).all()


@pytest.mark.slow
def test_in_a_short_text_the_coefficients_are_biased_towards_0():
    """Known of least squares on autoregressions, and told in the docs; 92 rows, as the post has."""
    short = norms.series(autoregression((4000,), 95, (0.5, 0.2), 0.6, seed=2)).regress(2, held_out=0)
    bias = short.lag_beta.mean(0) - (0.5, 0.2)
    assert -0.04 < bias[0] < -0.005
    assert -0.05 < bias[1] < -0.01


@pytest.mark.slow
def test_under_the_null_discoveries_are_as_rare_as_stated():
    """12 layers x 2 lags of noise, 300 times: 5% raw; after correction 5% of the texts have any discovery."""
    raw, any_left = [], []
    noise = autoregression((300, 12), 95, seed=3)
    for text in noise:
        result = norms.series(text).regress(2, held_out=0)
        raw.append(result.p[:, 1:] < 0.05)
        any_left.append((result.p_adjusted[:, 1:] < 0.05).any())
    assert 0.04 < np.mean(raw) < 0.06
    assert np.mean(any_left) < 0.09  # 0.05 and two and a half standard errors
    assert np.mean([text.any() for text in raw]) > 0.5  # what is found without it


@pytest.mark.slow
def test_clustered_errors_are_honest_where_documents_differ():
    documents = {f"{d}": autoregression((300,), 60, (0.3,), seed=d) * (0.3 + d / 10) for d in range(30)}
    result = norms.series(documents).regress(1)
    assert result.errors == "cluster"
    reach = least_squares.quantile(result.df) * result.se
    covered = (np.abs(result.lag_beta - result.lag_beta.mean(0)) < reach).mean()
    assert 0.91 < covered < 0.98


@pytest.mark.slow
def test_one_intercept_invents_lags_and_own_intercepts_do_not():
    generator = np.random.default_rng(4)
    levels = generator.standard_normal((20, 200)) * 0.8
    documents = {f"{d}": autoregression((200,), 100, seed=10 + d) + levels[d][:, None] for d in range(20)}
    found = norms.series(documents)
    trapped, avoided = (found.regress(2, pooled=pooled).lag_beta.mean(0) for pooled in (True, False))
    assert (trapped > 0.2).all()
    assert (np.abs(avoided) < 0.02).all()


def test_a_trend_invents_lags_and_the_position_takes_it():
    t = np.arange(400)
    y = autoregression((300,), 400, seed=5) + 2 * np.log(np.maximum(t, 1))
    found = norms.series(y)
    trapped, avoided = (found.regress(2, position=position).lag_beta.mean(0) for position in (False, True))
    assert (trapped > 0.3).all()
    assert (np.abs(avoided) < 0.02).all()


def test_residuals_that_remember_are_seen():
    y = autoregression((200,), 400, (0.4, 0.3), seed=6)
    too_few, enough = (norms.series(y).regress(lags) for lags in (1, 2))
    for name in ("ljung_box", "breusch_godfrey"):
        assert (getattr(too_few, name) < 0.05).mean() > 0.9
        assert 0.01 < (getattr(enough, name) < 0.05).mean() < 0.1
    best = norms.series(y).regress(5).bic.argmin(1)
    assert (best == 2).mean() > 0.9


def test_a_shuffled_order_has_no_memory():
    noise, memory = autoregression((40,), 120, seed=7), autoregression((4,), 120, (0.5,), seed=8)
    found = norms.series(np.concatenate([noise, memory]))
    result = found.regress(1, shuffles=99, seed=3)
    assert result.null.shape == (44, 99, 1)
    assert (result.p_shuffled[40:] <= 0.02).all()
    above = (result.null[3, :, 0] >= result.lag_beta[3, 0]).sum()
    assert result.p_shuffled[3, 0] == pytest.approx(min(1, 2 * (1 + min(above, 99 - above)) / 100))
    assert 0 <= (result.p_shuffled[:40] < 0.05).mean() < 0.15
    assert abs(result.null.mean() + 1 / 118) < 0.01  # of short series, shuffled or not: near -1 / rows
    np.testing.assert_array_equal(found.regress(1, shuffles=99, seed=3).null, result.null)
    assert "shuffled" in result.caption()
    assert np.isnan(found.regress(1).p_shuffled).all()


def test_shuffles_stay_inside_their_window():
    """Of windows that are each constant but for their level, every order is the same: nothing moves between them."""
    document = np.repeat([0, 0, 1], [7, 6, 8])
    window, position = np.repeat([0, 1, 0], [7, 6, 8]), np.concatenate([np.arange(n) for n in (7, 6, 8)])
    design = lay_out(document, window, position, 1, own=False, log_position=False, held_out=0.2)
    levels = np.where(position == 0, 50.0, 10.0 * document + 3.0 * window)
    real = np.linalg.lstsq(*[design.within(a) for a in (design.regressors(levels), levels[design.now])], rcond=None)[0]
    np.testing.assert_allclose(least_squares.shuffled(levels, design, 5, 0), real[None].repeat(5, 0))


# --- what cannot be regressed ---


def test_faults_are_named_and_the_rest_is_regressed():
    y = np.exp(autoregression((6,), 60, (0.3,), seed=9))
    y[1, 20], y[2, 5], y[3], y[4, 1:] = 0, np.nan, 7.5, np.inf
    y[0, 0] = np.nan  # at position 0, which is in no row
    result = norms.series(y, log=True, of="attn_out").regress(2)
    assert result.faults == [
        "",
        "0, whose log is infinite, at 1 of 59 positions",
        "NaN at 1 of 59 positions",
        "constant (7.5)",
        "infinite at 59 of 59 positions",
        "",
    ]
    assert np.isnan(result.beta[1:5]).all()
    assert np.isfinite(result.beta[[0, 5]]).all()
    assert np.isfinite(result.p_adjusted[:, 1:]).sum() == 4
    summary = result.summary()
    assert all(f"attn_out is {fault}" in summary for fault in result.faults if fault)
    assert set(result.table()["fault"]) == set(result.faults)
    with pytest.raises(InputError, match="no regression of layer 3: attn_out is constant"):
        result.ols(3)
    result.chart().to_dict()


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([-1.0, 1.0] * 20, "collinear with itself shifted"),
        (np.arange(40.0), "collinear with itself shifted"),
        ([2.0] * 40, "constant"),
    ],
)
def test_where_nothing_can_be_regressed_that_is_an_error(series, message):
    with pytest.raises(InputError, match=f"no layer can be regressed: series of layer 0 is {message}"):
        norms.series(np.array([series])).regress(2)


def test_a_zeroed_head_is_named(bundled):
    def without_one(value, ctx):
        value[:, :, 3] = 0
        return value

    with bundled.edited({"blocks.2.attn.z": without_one}):
        result = norms.regress(bundled, TEXT, "attn.result")
    [row] = [i for i, fault in enumerate(result.faults) if fault]
    assert (result.norms.layers[row], result.norms.heads[row]) == (2, 3)
    assert "attn.result is 0, whose log is infinite" in result.summary()
    assert result.ols(2, 4).nobs == result.design.rows
    result.chart().to_dict()


@pytest.mark.parametrize(
    ("length", "options", "message"),
    [
        (7, {}, "4 usable rows with lags=2: at least 5 were expected"),
        (3, {}, "0 usable rows with lags=2"),
        (10, {"position": True, "lags": 3}, None),
        (9, {"position": True, "lags": 3}, "5 usable rows with lags=3: at least 7 were expected"),
        (50, {"lags": 0}, "lags=0: a whole number of at least 1"),
        (50, {"lags": 2.5}, "lags=2.5"),
        (50, {"errors": "white"}, "errors='white' are unknown: 'ols', 'hac' or 'cluster'"),
        (50, {"errors": "cluster"}, "errors='cluster' needs several documents"),
        (50, {"held_out": 1.0}, r"held_out=1.0: a share"),
        (50, {"shuffles": -1}, "shuffles=-1"),
    ],
)
def test_mistakes_are_named(length, options, message):
    found = norms.series(autoregression((2,), length))
    if message is None:
        with pytest.raises(InputError, match="6 usable rows"):
            found.regress(**options)
        return
    with pytest.raises(InputError, match=message):
        found.regress(**options)


def test_rows_are_enough_from_coefficients_plus_two():
    assert norms.series(autoregression((2,), 8)).regress(2).design.rows == 5
    result = norms.series(autoregression((2, 3), 60)).regress(1)
    with pytest.raises(InputError, match=r"no regression of layer 5: there is one for each from head 0\.0 to "):
        result.ols(5)


def test_a_fit_on_too_few_rows_foretells_nothing():
    result = norms.series(autoregression((2,), 8)).regress(2)  # 5 rows, 4 of them to fit three coefficients
    assert np.isnan(result.held_out).all()
    assert np.isfinite(norms.series(autoregression((2,), 10)).regress(2).held_out).all()


def test_too_many_intercepts_for_statsmodels_are_refused(monkeypatch):
    monkeypatch.setattr("cutaway.analyses.norms.regression.DENSE", 100)
    with pytest.raises(InputError, match="4 documents and 203 rows are too many for statsmodels"):
        pooled().regress(2).ols(0)
