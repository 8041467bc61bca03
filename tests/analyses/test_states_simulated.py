"""What the numbers of `states` do on states whose distribution is known. Seeded; rates are allowed three standard
errors."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from cutaway.analyses.states import cosines, site
from cutaway.analyses.states.nulls import Chance
from cutaway.analyses.states.site import SiteSettings, measure_site
from cutaway.stats import Covariance, Keys, Moments, Sample

pytestmark = pytest.mark.slow

D, N, SAMPLE = 16, 1000, 160
DOCUMENTS = 40


def isotropic(generator, n):
    return torch.randn(n, D, generator=generator)


def steep(generator, n):
    """A spectrum of three orders of magnitude, and a mean as long as the states vary."""
    return isotropic(generator, n) * torch.logspace(0, -1.5, D) + torch.linspace(1, -1, D) / 2


def sparse(generator, n):
    """Each state along one axis, give or take: white, of mean 0, and far from Gaussian."""
    axes = torch.eye(D)[torch.randint(D, (n,), generator=generator)] * torch.randn(n, 1, generator=generator)
    return axes * 4 + isotropic(generator, n) * 0.3


def look(values, seed, centered=False, replicates=19, sample=SAMPLE):
    """One site's numbers of states that come from 40 documents."""
    n = len(values)
    keys = Keys(np.array([f"d{i % DOCUMENTS}" for i in range(n)]), np.arange(n))
    drawn, covariance, moments, projected = Sample(sample, seed), Covariance(), Moments(4), Moments(4)
    for statistic in (drawn, covariance, moments):
        statistic.add(values, None, keys)
    projected.add(values @ torch.eye(values.shape[1]))
    seen = {
        "x states": {"sample": drawn, "covariance": covariance, "moments": moments},
        "x projected": {"moments": projected},
    }
    settings = SiteSettings(values.shape[1], sample, replicates, 200, seed, torch.device("cpu"))
    return measure_site(seen, "x", settings, centered, drawn.result().keys)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("make", [isotropic, steep])
def test_gaussians_are_rejected_no_more_often_than_stated(make, centered):
    trials, level = 40, 0.05
    p = []
    for seed in range(trials):
        found = look(make(torch.Generator().manual_seed(seed), N), seed, centered).numbers
        p.append((found["p_gaussian"], found["p_ks_gaussian"]))
    for of in zip(*p, strict=True):
        rejected = sum(value <= level for value in of)
        assert rejected <= trials * level + 3 * math.sqrt(trials * level * (1 - level))
        assert 0.3 < np.mean(of) < 0.75  # and p-values are no formality: they spread over 0 to 1


def test_what_is_not_gaussian_is_rejected():
    p = [look(sparse(torch.Generator().manual_seed(seed), N), seed).numbers["p_gaussian"] for seed in range(10)]
    assert max(p) <= 0.05


def test_the_gaussian_is_that_of_the_states_outside_the_sample():
    """The sampled states lie far from the others, which shows whether moments were taken apart rightly."""
    values = isotropic(torch.Generator().manual_seed(0), N) + 3 * torch.eye(D)[0]
    keys = Keys(np.array([f"d{i % DOCUMENTS}" for i in range(N)]), np.arange(N))
    drawn = Sample(SAMPLE, 0)
    drawn.add(values, None, keys)
    at = drawn.result().keys.offsets
    values[at] += 6 * torch.eye(D)[1]
    outside = np.delete(values.numpy(), at, axis=0)
    generator = np.random.default_rng(0)
    a, b = (generator.multivariate_normal(outside.mean(0), np.cov(outside.T), 100_000) for _ in range(2))
    reference = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    c = cosines.halves(values[at]).numpy().ravel()
    expected = scipy.stats.wasserstein_distance(c, reference)
    assert look(values, 0).numbers["w1_gaussian"] == pytest.approx(expected, abs=0.006)


def with_documents(make, seed, n=DOCUMENTS * 12):
    """States with a part that a whole document shares, and their keys."""
    generator = torch.Generator().manual_seed(seed)
    shared = make(generator, DOCUMENTS) * 0.5
    documents = np.arange(n) % DOCUMENTS
    values = make(generator, n) + shared[documents]
    return values, Keys(np.array([f"d{i}" for i in documents]), np.arange(n))


@pytest.mark.parametrize("make", [isotropic, steep])
def test_intervals_over_documents_cover_at_their_rate(make):
    """The truth is that of fresh pairs: of other documents, which almost all pairs are of."""
    generator = torch.Generator().manual_seed(99)
    a, b = (make(generator, 4000) + make(generator, 4000) * 0.5 for _ in range(2))
    mean = make(generator, 200_000).mean(0) * 1.5
    truth = {
        "cross_document": float(cosines.cosines(a, b).mean()),
        "effective_dimension": cosines.effective_dimension(cosines.cosines(a - mean, b - mean)),
    }
    trials, inside = 150, dict.fromkeys(truth, 0)
    for seed in range(trials):
        values, keys = with_documents(make, seed)
        half = len(values) // 2
        # In hash order documents are mixed: halves share all of them.
        order = np.random.default_rng(seed).permutation(len(values))
        values, keys = values[order], keys[order]
        settings = SiteSettings(D, len(values), 1, 400, seed, torch.device("cpu"))
        raw, centred = cosines.halves(values), cosines.halves(values - mean)
        numbers = site._document_means(keys, raw, centred, half, settings)
        for name, true in truth.items():
            inside[name] += numbers[f"{name}_low"] <= true <= numbers[f"{name}_high"]
    for name, count in inside.items():
        # Where the mean is 0 pairs of documents cancel, and resampling them is known to err on the safe side.
        most = 1.0 if make is isotropic else 0.99
        assert 0.9 <= count / trials <= most, (name, count / trials)


@pytest.mark.parametrize("make", [isotropic, steep])
def test_effective_dimension_is_right_to_5_percent(make):
    generator = torch.Generator().manual_seed(0)
    values = make(generator, 20_000)
    found = look(values, 0, sample=2000, replicates=1).numbers
    mean = make(Chance(1).torch, 1_000_000).double().mean(0).float()
    a, b = (make(generator, 1_000_000) - mean for _ in range(2))
    truth = 1 / float(torch.nn.functional.cosine_similarity(a, b).double().square().mean())
    assert found["effective_dimension"] == pytest.approx(truth, rel=0.05)
    if make is isotropic:
        assert found["effective_dimension"] == pytest.approx(D, rel=0.05)
        assert found["participation_ratio"] == pytest.approx(D, rel=0.05)
