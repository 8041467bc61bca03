"""Cosines of states, against NumPy and SciPy computed plainly from captures."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from cutaway.analyses.states import blocks as document_blocks
from cutaway.analyses.states import cosines, nulls
from cutaway.analyses.states.sinks import ContextSample
from cutaway.errors import InputError, SiteError
from cutaway.results.bootstrap import draw_weights
from cutaway.surveys.survey import survey
from cutaway.text import corpus
from tests.analyses.conftest import captured_rows

pytestmark = pytest.mark.slow

SAMPLE = 400
SITES = ["blocks.1.attn_out", "blocks.3.attn_out"]
CHOSEN = {"kinds": "attn_out", "layers": [1, -1], "sample": SAMPLE, "replicates": 19, "resamples": 100}


@pytest.fixture(scope="module")
def texts():
    return {document.id: document.text[:9000] for document in corpus.bundled()[:4]}


@pytest.fixture(scope="module", params=[False, True])
def found(request, bundled, texts):
    return cutaway.states.measure(bundled, texts, centered=request.param, **CHOSEN)


@pytest.fixture(scope="module")
def states(bundled, texts):
    """Every state by site, float64, and by (document, offset) its row; windows' first positions left out."""
    return captured_rows(bundled, texts, SITES)


@pytest.fixture
def plain(found, states):
    """For each site: the sampled states in the result's order, all states, and those outside the sample."""
    values, rows = states
    chosen = [rows[place] for place in found.places]
    outside = np.setdiff1d(np.arange(len(rows)), chosen)
    return {site: (values[site][chosen], values[site], values[site][outside]) for site in SITES}


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pairs(sampled, centre=0.0):
    half = len(sampled) // 2
    return unit(sampled[:half] - centre) @ unit(sampled[half:] - centre).T


def drawn(found, plain, site):
    sampled, _, outside = plain[site]
    return pairs(sampled, outside.mean(0) if found.meta["parameters"]["centered"] else 0.0)


def row(found, site):
    return found.table().set_index("site").loc[site]


def test_the_sample_is_that_of_the_survey(found, bundled, texts):
    again = survey(bundled, texts, {"x": ContextSample(SAMPLE, 0)}, batch_tokens=700)["x"]
    assert again.sample.result().keys.offsets.tolist() == [offset for _, offset in found.places]
    assert found.tokens == again.count == sum(map(len, tokens_of(bundled, texts))) - windows(bundled, texts)
    assert all(offset % bundled.config.n_ctx for _, offset in found.places)


def tokens_of(model, texts):
    return model.tokenizer.encode(list(texts.values()))[0]


def windows(model, texts):
    return sum(math.ceil(len(ids) / model.config.n_ctx) for ids in tokens_of(model, texts))


@pytest.mark.parametrize("site", SITES)
def test_means_and_dimensions(found, plain, site):
    c, numbers = drawn(found, plain, site), row(found, site)
    sampled, every, outside = plain[site]
    documents = np.array([document for document, _ in found.places])
    same = documents[: SAMPLE // 2, None] == documents[None, SAMPLE // 2 :]
    assert numbers["mean_cosine"] == pytest.approx(c.mean(), abs=1e-5)
    assert numbers["same_document"] == pytest.approx(c[same].mean(), abs=1e-5)
    assert numbers["cross_document"] == pytest.approx(c[~same].mean(), abs=1e-5)
    centred = pairs(sampled, outside.mean(0))
    assert numbers["effective_dimension"] == pytest.approx(1 / (centred**2).mean(), rel=1e-4)
    for name in ("mean_cosine", "same_document", "cross_document", "effective_dimension", "distance"):
        assert numbers[f"{name}_low"] <= numbers[name] <= numbers[f"{name}_high"]
    variances = np.sort(every.var(0))[::-1]
    for k in (1, 3, 10):
        assert numbers[f"top_{k}_share"] == pytest.approx(variances[:k].sum() / variances.sum(), rel=1e-5)
    kurtosis = scipy.stats.kurtosis(every, axis=0)
    assert numbers["kurtosis"] == pytest.approx(np.sort(kurtosis)[(len(kurtosis) - 1) // 2], rel=1e-4)
    assert numbers["kurtosis_largest"] == pytest.approx(kurtosis.max(), rel=1e-4)


@pytest.mark.parametrize("site", SITES)
def test_histogram_and_distances(found, plain, site):
    c, numbers, i = drawn(found, plain, site), row(found, site), SITES.index(site)
    expected, _ = np.histogram(c, bins=np.linspace(-1, 1, 200), density=True)
    np.testing.assert_allclose(found.density[i, 0], expected, atol=0.02)  # a pair or two on the edge of a bin
    for name, d in (("isotropic", found.width), ("effective", numbers["effective_dimension"])):
        beta = scipy.stats.beta((d - 1) / 2, (d - 1) / 2, loc=-1, scale=2)  # of a direction's coordinate, and a cosine
        assert numbers[f"ks_{name}"] == pytest.approx(scipy.stats.ks_1samp(c.ravel(), beta.cdf).statistic, abs=2e-3)
        many = beta.ppf((np.arange(200_000) + 0.5) / 200_000)
        assert numbers[f"w1_{name}"] == pytest.approx(scipy.stats.wasserstein_distance(c.ravel(), many), abs=1e-3)
        assert numbers[f"p_{name}"] == 0.05  # no draw came near
    _, _, outside = plain[site]
    centered = found.meta["parameters"]["centered"]
    factor = np.linalg.cholesky(np.cov(outside.T, bias=True) + 1e-9 * np.eye(found.width)).astype(np.float32)
    mean = 0.0 if centered else outside.mean(0).astype(np.float32)
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((100_000, found.width), np.float32) @ factor.T + mean for _ in range(2))
    reference = (unit(a) * unit(b)).sum(1)
    expected = scipy.stats.wasserstein_distance(c.ravel(), reference)
    assert numbers["w1_gaussian"] == pytest.approx(expected, abs=0.006)
    assert numbers["distance"] == pytest.approx(expected / reference.std(), rel=0.1)


def test_the_distances_interval_is_196_errors_of_a_plain_bootstrap(found, plain):
    site = SITES[0]
    c, numbers = drawn(found, plain, site), row(found, site)
    _, _, outside = plain[site]
    factor = np.linalg.cholesky(np.cov(outside.T, bias=True) + 1e-9 * np.eye(found.width)).astype(np.float32)
    mean = 0.0 if found.meta["parameters"]["centered"] else outside.mean(0).astype(np.float32)
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((100_000, found.width), np.float32) @ factor.T + mean for _ in range(2))
    reference = (unit(a) * unit(b)).sum(1)
    names, codes = np.unique([document for document, _ in found.places], return_inverse=True)
    first, second = codes[: SAMPLE // 2, None], codes[None, SAMPLE // 2 :]
    distances = []
    for times in draw_weights(len(names), 100, 0).numpy():
        # A document drawn twice is two documents, and the pairs of each with itself are kept.
        weights = np.where(first == second, times[first], times[first] * times[second])
        distances.append(scipy.stats.wasserstein_distance(c.ravel(), reference, weights.ravel()))
    error = np.std(distances, ddof=1) / reference.std()
    assert numbers["distance_high"] - numbers["distance"] == pytest.approx(1.96 * error, rel=0.1)
    assert numbers["distance_low"] == pytest.approx(max(0, 2 * numbers["distance"] - numbers["distance_high"]))


def test_pairs_are_those_of_their_rank_and_show_their_texts(found, plain, bundled, texts):
    ids = dict(zip(texts, tokens_of(bundled, texts), strict=True))
    site, context = SITES[0], bundled.config.n_ctx
    c = drawn(found, plain, site)
    ranked = np.sort(c.ravel())[np.round(np.linspace(0, c.size - 1, 201)).astype(int)]
    np.testing.assert_allclose(found.quantile_cosines[0], ranked, atol=1e-5)
    a, b = found.quantile_pairs[0].T
    np.testing.assert_allclose(c[a, b - SAMPLE // 2], ranked, atol=1e-5)
    for (document, offset), shown in list(zip(found.places, found.contexts, strict=True))[:50]:
        row, start = ids[document], offset - offset % context
        end = min(start + context, len(row))
        decode = bundled.tokenizer.decode
        following = f"[{decode([row[offset + 1]])}]" if offset + 1 < end else "<END>"
        assert shown == decode(row[max(start, offset - 9) : offset + 1]) + following
    cosine, first, second = found.pair(site, 1.0)
    assert cosine == pytest.approx(c.max(), abs=1e-5)
    assert [first, second] == [found.contexts[i] for i in found.quantile_pairs[0, -1]]
    with pytest.raises(InputError, match=r"^'blocks\.2\.attn_out' was not measured: "):
        found.pair("blocks.2.attn_out", 0.5)
    with pytest.raises(InputError, match=r"^quantile 2: 0 to 1"):
        found.pair(site, 2)


def test_too_few_tokens_for_the_gaussian_are_said(bundled):
    few = {"a": corpus.bundled()[0].text[:3000], "b": corpus.bundled()[1].text[:3000]}
    result = cutaway.states.measure(bundled, few, layers=[0], sample=200, replicates=19, resamples=10)
    assert result.table()["verdict"].tolist() == ["too few tokens to test"] * 3
    assert "too few tokens outside the sample" in result.summary()
    result.chart()
    with pytest.raises(InputError, match=r"at least 2,000 were expected for the sample; give more text, or sample=\d+"):
        cutaway.states.measure(bundled, few, layers=[0])
    with pytest.raises(SiteError):
        cutaway.states.measure(bundled, few, layers=[9])
    with pytest.raises(InputError, match=r"'blocks\.0\.mlp\.post' is B P M: states of width d_model"):
        cutaway.states.measure(bundled, few, kinds=["mlp.post"])


# --- the parts ---


@pytest.mark.parametrize("d", [2, 3, 7, 256])
def test_the_isotropic_nulls_density(d):
    edges = np.linspace(-1, 1, cosines.FINE + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    density = (1 - middles**2) ** ((d - 3) / 2)
    expected = np.cumsum(density) / density.sum()
    np.testing.assert_allclose(nulls.isotropic(d).numpy(), expected, atol=0.01 if d == 2 else 1e-3)


@given(
    n=st.integers(1, 60),
    m=st.integers(1, 60),
    steps=st.sampled_from([0, 1, 7]),
    count=st.integers(2, 30),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_pairs_at_ranks_are_those_of_a_sort(n, m, steps, count, seed):
    c = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    c = (c * steps).round() / steps if steps else c  # with ties, and with both ends
    values, rows, columns = cosines.quantile_pairs(c, count)
    expected = np.sort(c.numpy().ravel())[np.round(np.linspace(0, n * m - 1, count)).astype(int)]
    assert values.tolist() == expected.tolist() == c.numpy()[rows, columns].tolist()


def test_refitted_moments_are_those_of_draws():
    """The Wishart shortcut against drawing the states: means and spreads of what is refitted, entry by entry."""
    chance = nulls.Chance(0)
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    null = nulls.Gaussian.fit(torch.tensor([1.0, -2.0]), covariance)
    short, plain = [], []
    for _ in range(3000):
        again = null.refitted(40, chance)
        short.append([*again.mean, *(again.factor @ again.factor.T).flatten()])
        states = null.draw(40, chance)
        plain.append([*states.mean(0), *torch.cov(states.T).flatten()])
    short, plain = np.array(short), np.array(plain)
    np.testing.assert_allclose(short.mean(0), plain.mean(0), atol=4 * (plain.std(0) / np.sqrt(3000)).max())
    np.testing.assert_allclose(short.std(0), plain.std(0), rtol=0.08)


def test_a_participation_ratio_without_the_plug_in_ones_bias():
    """The plug-in reads 889 of 1,600 dimensions at 2,000 states."""
    states = torch.randn(2000, 1600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    S = torch.cov(states.T, correction=0)
    assert float(S.trace() ** 2 / S.square().sum()) == pytest.approx(889, rel=0.01)
    assert cosines.participation_ratio(S, 2000) == pytest.approx(1600, rel=0.01)


def test_documents_drawn_twice_are_not_paired_with_their_copies():
    """Against writing the resample out."""
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, 30), generator.integers(0, 5, 20)
    c = torch.tensor(generator.uniform(-1, 1, (30, 20)))
    blocks = document_blocks.Blocks(first, second, 5)
    weights = draw_weights(5, 8, 0)
    totals = blocks.total(blocks.sums(c), weights)
    knots = torch.tensor([-0.5, 0.0, 0.7], dtype=torch.float64)
    below = blocks.total(blocks.below(c, knots), weights)
    for w, total, counts in zip(weights.int().tolist(), totals, below, strict=True):
        copies = [(d, k) for d in range(5) for k in range(w[d])]
        kept = [
            c[i, j]
            for d, k in copies
            for e, m in copies
            for i in np.flatnonzero(first == d)
            for j in np.flatnonzero(second == e)
            if d != e or k == m
        ]
        assert float(total) == pytest.approx(float(sum(kept)))
        assert counts.tolist() == [sum(value <= knot for value in kept) for knot in knots]


def test_more_documents_than_groups():
    documents = np.array([f"d{i % 700:03}" for i in range(2100)])
    codes, groups, count = document_blocks.grouped(documents)
    assert (groups, count) == (document_blocks.MOST_GROUPS, 700)
    assert all(len(set(codes[documents == d])) == 1 for d in set(documents))


# --- the baseline ---


def test_the_gaussian_baseline():
    found = cutaway.states.gaussian(300, [2, 30, 300], samples=1000, seed=3)
    rows = torch.randn(1000, 300, generator=torch.Generator().manual_seed(3)).numpy()
    for d, density in zip(found.dimensions, found.density, strict=True):
        c = pairs(rows[:, :d])
        expected, _ = np.histogram(c, bins=np.linspace(-1, 1, 200), density=True)
        np.testing.assert_allclose(density, expected, atol=0.05)
    assert found.mean_square == pytest.approx([1 / 2, 1 / 30, 1 / 300], rel=0.02)
    assert found.meta["call"] == "cutaway.states.gaussian(300, dimensions=[2, 30, 300], samples=1000, seed=3)"
    assert cutaway.states.gaussian(64).dimensions[0] == 2
    assert cutaway.states.gaussian(64).dimensions[-1] == 64
    for wrong in (1, 301, []):
        with pytest.raises(InputError, match=r"live dimensions: 2 to 300 were expected"):
            cutaway.states.gaussian(300, wrong)
