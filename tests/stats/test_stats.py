"""Statistics against NumPy, SciPy and naive loops."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch

from cutaway.errors import InputError
from cutaway.stats import Counts, Covariance, Extremes, Histogram, Keys, Moments, Quantiles, Sample
from cutaway.stats.sample import hashes

RNG = np.random.default_rng(0)


def keys(n, documents=3):
    """n distinct keys, in no order."""
    order = np.random.default_rng(n).permutation(n)
    return Keys(np.array([f"document {i % documents}" for i in order]), order // documents)


@pytest.mark.parametrize("shape", [(40, 5), (8, 5, 5), (2, 4, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_moments_are_scipys(shape, dtype):
    values = torch.tensor(RNG.gamma(2.0, size=shape)).to(dtype)
    statistic = Moments(order=4)
    statistic.add(values)
    found, flat = statistic.result(), values.double().numpy().reshape(-1, 5)
    assert found.count == len(flat)
    for ours, theirs in [
        (found.mean, flat.mean(0)),
        (found.variance, flat.var(0)),
        (found.std, flat.std(0)),
        (found.skewness, scipy.stats.skew(flat)),
        (found.kurtosis, scipy.stats.kurtosis(flat)),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_moments_of_order_two_have_no_others():
    statistic = Moments()
    statistic.add(torch.ones(3, 2))
    assert statistic.result().skewness is None
    assert statistic.result().kurtosis is None


def test_covariance_is_numpys():
    values = torch.tensor(RNG.normal(size=(6, 7, 4)) @ RNG.normal(size=(4, 4)) + 3)
    statistic = Covariance()
    statistic.add(values[:2])
    statistic.add(values[2:])
    flat = values.numpy().reshape(-1, 4)
    np.testing.assert_allclose(statistic.result().covariance, np.cov(flat.T, ddof=0), rtol=1e-9)
    np.testing.assert_allclose(statistic.result().mean, flat.mean(0), rtol=1e-9)


@pytest.mark.parametrize("make", [Moments, Covariance])
def test_sums_beyond_float16_do_not_overflow(make):
    values = torch.full((3000, 2), 60000.0, dtype=torch.float16)
    values[::2] = -50000
    statistic = make()
    statistic.add(values)
    found = statistic.result()
    spread = found.variance if make is Moments else found.covariance.diagonal()
    exact = values.double().numpy()
    np.testing.assert_allclose(found.mean, exact.mean(0))
    np.testing.assert_allclose(spread, exact.var(0))


def test_moments_of_more_entries_than_their_products_fit_in_64_bits():
    statistic = Moments(order=4)
    statistic.add(torch.tensor([[0.0], [1.0], [1.0], [3.0]]))
    for _ in range(22):
        statistic.merge(statistic)
    found = statistic.result()
    assert found.count == 4 * 2**22
    assert found.kurtosis.item() == pytest.approx(scipy.stats.kurtosis([0, 1, 1, 3]))


def test_a_mask_picks_entries_and_features_may_have_several_dimensions():
    values = torch.tensor(RNG.normal(size=(3, 4, 2, 5)))
    mask = torch.tensor(RNG.integers(0, 2, size=(3, 4)))
    statistic = Moments()
    statistic.add(values, mask)
    flat = values.numpy()[mask.numpy() == 1]
    assert statistic.result().mean.shape == (2, 5)
    np.testing.assert_allclose(statistic.result().mean, flat.mean(0))
    np.testing.assert_allclose(statistic.result().variance, flat.var(0))


def test_counts_are_numpys():
    ids = torch.tensor(RNG.integers(0, 50, size=(4, 9, 1)))
    mask = torch.tensor(RNG.integers(0, 2, size=(4, 9)))
    statistic = Counts(60)
    statistic.add(ids, mask)
    statistic.add(ids[:0], mask[:0])
    chosen = ids[..., 0].numpy()[mask.numpy() == 1]
    np.testing.assert_array_equal(statistic.result(), np.bincount(chosen, minlength=60))


@pytest.mark.parametrize("wrong", [[[-1]], [[60]], [[1.5]]])
def test_counts_are_of_ids_in_range(wrong):
    with pytest.raises(InputError, match="counts are of whole numbers from 0 to 59"):
        Counts(60).add(torch.tensor(wrong))


def test_histogram_is_numpys_with_what_lies_outside():
    edges = [-1.0, -0.5, 0.0, 2.0]
    values = torch.tensor([-2, -1, -0.75, -0.5, 0, 1, 2, 2.5, np.inf, -np.inf, np.nan, np.nan, np.nextafter(2, 0)])
    statistic = Histogram(edges)
    statistic.add(values[:5])
    statistic.add(values[5:])
    found = statistic.result()
    counts, _ = np.histogram(values[~values.isnan()].numpy(), edges)
    np.testing.assert_array_equal(found.counts, counts)
    assert (found.below, found.above, found.nan) == (2, 2, 2)
    assert (found.density * found.edges.diff()).sum().item() == pytest.approx(1)


@pytest.mark.parametrize("edges", [[], [1.0], [1.0, 1.0], [2.0, 1.0], [0.0, float("nan"), 1.0]])
def test_edges_ascend(edges):
    with pytest.raises(InputError, match="at least two edges, ascending"):
        Histogram(edges)


@pytest.mark.parametrize("nan", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("parts", [1, 4, 30])
@pytest.mark.parametrize("infinite", [1, 9])
def test_extremes_are_those_of_a_sort_by_value_and_key(nan, parts, infinite):
    values = RNG.integers(-4, 5, size=(30, 3)).astype(float)  # many ties
    values[:infinite, 0], values[infinite : 2 * infinite, 0] = np.inf, -np.inf
    values[RNG.random(size=values.shape) < nan] = np.nan
    where, statistic = keys(30), Extremes(6)
    for rows in np.array_split(np.arange(30), parts):
        statistic.add(torch.tensor(values[rows]), None, where[rows])
    found = statistic.result()
    for column in range(3):
        entries = [
            (v, d, o) for v, d, o in zip(values[:, column], where.documents, where.offsets, strict=True) if v == v
        ]
        for sign, ours in (
            (-1, (found.largest, found.largest_documents, found.largest_offsets)),
            (1, (found.smallest, found.smallest_documents, found.smallest_offsets)),
        ):
            expected = sorted(entries, key=lambda e: (sign * e[0], e[1], e[2]))[:6]
            got = list(zip(*(np.asarray(part)[:, column].tolist() for part in ours), strict=True))
            assert got[: len(expected)] == expected
            assert all(np.isnan(v) and d == "" and o == -1 for v, d, o in got[len(expected) :])


def test_extremes_of_a_wide_batch_are_those_of_a_stable_sort():
    """Numbers as half precision has them: a few hundred different ones, so that every boundary is a tie."""
    values = torch.randn(700, 40, generator=torch.Generator().manual_seed(0)).bfloat16().double().round(decimals=1)
    where = keys(700)
    statistic = Extremes(10)
    statistic.add(values, None, where)
    found = statistic.result()
    order = np.lexsort((where.offsets, where.documents))
    for sign, numbers, offsets in (
        (-1, found.largest, found.largest_offsets),
        (1, found.smallest, found.smallest_offsets),
    ):
        first = np.argsort(sign * values.numpy()[order], axis=0, kind="stable")[:10]
        np.testing.assert_array_equal(numbers, np.take_along_axis(values.numpy()[order], first, 0))
        np.testing.assert_array_equal(offsets, where.offsets[order][first])


def naive_hash(seed, document, offset):
    """The hash of a token in whole numbers alone."""
    root = int.from_bytes(hashlib.blake2b(f"{seed}\0{document}".encode(), digest_size=8).digest(), "little")
    z = (root + offset * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("size", [1, 20, 500])
def test_a_sample_is_the_entries_with_the_smallest_hashes(size, seed):
    where = keys(200)
    where = Keys(where.documents, where.offsets - 1)  # a BOS stands before offset 0
    values = torch.arange(200.0).reshape(-1, 1)
    statistic = Sample(size, seed)
    for rows in (slice(0, 150), slice(150, 150), slice(150, 200)):
        statistic.add(values[rows], None, where[rows])
    entries = zip(where.documents.tolist(), where.offsets.tolist(), range(200), strict=True)
    expected = sorted((naive_hash(seed, d, o), d, o, v) for d, o, v in entries)[:size]
    found = statistic.result()
    columns = (found.hashes, found.keys.documents, found.keys.offsets, found.values[:, 0].int())
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


def test_documents_and_seeds_draw_apart_and_hashes_are_uniform():
    n = 4000
    where = Keys(np.array([f"d{i % 7}" for i in range(n)]), np.arange(n) // 7)
    first, second = hashes(where, 0), hashes(where, 1)
    assert len({*first.tolist(), *second.tolist()}) == 2 * n
    for drawn in (first, second, first[::2] ^ second[::2]):
        assert scipy.stats.chisquare(np.bincount(drawn >> np.uint64(58), minlength=64)).pvalue > 1e-3
    # The two halves of a sample are random halves: documents fall into each about alike.
    statistic = Sample(1000)
    statistic.add(torch.zeros(n, 1), None, where)
    documents = statistic.result().keys.documents
    halves = [[Counter(half.tolist())[f"d{i}"] for i in range(7)] for half in (documents[:500], documents[500:])]
    assert scipy.stats.chi2_contingency(halves).pvalue > 1e-3


def test_a_rank_counts_what_is_equal():
    statistic = Quantiles()
    statistic.add(torch.tensor([[1.0], [2.0], [2.0], [3.0]]))
    found = statistic.result()
    assert [found.rank(value) for value in (0.5, 1.0, 2.0, 2.5, 3.0)] == [0, 0.25, 0.75, 0.75, 1]


@pytest.mark.parametrize("parts", [1, 3])
def test_quantiles_are_within_their_rank_error(parts):
    """The bound holds for 99 of 100 answers; the sketch draws lots, so several are asked."""
    values = RNG.lognormal(size=20000)
    ordered, fractions, errors = np.sort(values), np.linspace(0.01, 0.99, 25), []
    for _ in range(8):
        merged = Quantiles(200)
        for part in np.array_split(values, parts):
            statistic = Quantiles(200)
            statistic.add(torch.tensor([*part, np.nan]))
            merged.merge(statistic)
        found = merged.result()
        assert (found.count, found.minimum, found.maximum) == (20000, ordered[0], ordered[-1])
        assert found.rank_error < 0.02
        answers = found.quantile(fractions)
        errors += list(np.searchsorted(ordered, answers) / 20000 - fractions)
        errors += [found.rank(value) - np.searchsorted(ordered, value, "right") / 20000 for value in answers]
    assert (np.abs(errors) <= found.rank_error).mean() > 0.9
    assert np.abs(errors).max() < 2 * found.rank_error


def test_a_result_stays_as_it_was_when_more_is_counted():
    for statistic in (Quantiles(), Moments(4), Covariance(), Counts(9), Extremes(3), Sample(3)):
        few = torch.tensor([[1], [2], [3]]) if isinstance(statistic, Counts) else torch.tensor([[1.0], [2.0], [3.0]])
        statistic.add(few, None, keys(3))
        state = statistic.state()
        before = {name: array.copy() for name, array in state.items()}
        result = statistic.result()
        half = result.quantile(0.5) if isinstance(statistic, Quantiles) else None
        shown = repr(result) if half is None else None
        statistic.add(few * 2, None, Keys(np.array(["z"] * 3), np.arange(3)))
        assert half is None or result.quantile(0.5) == half
        assert shown is None or repr(result) == shown
        assert all((state[name] == before[name]).all() for name in state), statistic
