"""Merging equals one pass, in any order and grouping; states and files keep everything; mistakes are named."""

import functools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway import stats
from cutaway.errors import InputError
from cutaway.stats import Counts, Covariance, Extremes, Histogram, Keys, Moments, Quantiles, Sample

ALL = [
    Moments(2), Moments(4), Covariance(), Counts(30), Histogram([-1, 0, 0.5, 1e6]), Extremes(4), Sample(9, 3),
    Quantiles(4000),
]  # fmt: skip
statistics = pytest.mark.parametrize("setting", ALL, ids=str)


def numbers(found):
    """A result as NumPy arrays by name."""
    if isinstance(found, torch.Tensor):
        return {"": found.numpy()}
    if isinstance(found, stats.quantiles.QuantilesResult):  # exact while all values fit
        return {"count": np.array(found.count), "quantiles": found.quantile([0.0, 0.1, 0.5, 0.9, 1.0])}
    whole = {name: value for name, value in vars(found).items() if value is not None}
    whole |= vars(whole.pop("keys")) if "keys" in whole else {}
    return {name: np.asarray(value) for name, value in whole.items()}


def same(a, b, rtol=0.0, scale=1.0):
    assert a.keys() == b.keys()
    for name in a:
        if a[name].dtype.kind == "f" and rtol:
            np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=rtol * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def rows(setting, n, seed, drift=0.0, offset=0.0, dtype=torch.float64):
    """n rows of three coordinates and their keys; the mean drifts by `drift` a row."""
    draw = np.random.default_rng(seed)
    where = Keys(np.array([f"d{i % 4}" for i in range(n)], dtype=str), np.arange(n))
    if isinstance(setting, Counts):
        return torch.tensor(draw.integers(0, 30, size=(n, 3))), where
    values = draw.gamma(2.0, size=(n, 3)) + offset + drift * np.arange(n)[:, None]
    return torch.tensor(values).to(dtype), where


def one_pass(setting, values, where, mask=None):
    statistic = setting.empty()
    statistic.add(values, mask, where)
    return statistic


@st.composite
def cut(draw):
    """Where to cut, in which order the parts come, and a seed for how they are grouped."""
    n = draw(st.integers(1, 60))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=6)))  # equal cuts: empty parts
    parts = list(zip([0, *cuts], [*cuts, n], strict=True))
    return n, draw(st.permutations(parts)), draw(st.integers(0, 99))


@statistics
@settings(max_examples=25, deadline=None)
@given(
    cut=cut(),
    drift=st.sampled_from([0.0, 0.5, 100.0]),
    offset=st.sampled_from([0.0, 1e6, -1e6]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16]),
)
def test_merging_in_any_order_and_grouping_equals_one_pass(setting, cut, drift, offset, dtype):
    n, parts, seed = cut
    if dtype == torch.float16:
        drift, offset = min(drift, 0.5) * 10, offset / 50  # where float16 has numbers
    values, where = rows(setting, n, seed, drift, offset, dtype)
    whole = one_pass(setting, values, where)
    pieces = [one_pass(setting, values[a:b], where[a:b]) for a, b in parts]
    draw = random.Random(seed)
    while len(pieces) > 1:  # any two of them, in either role
        taken = pieces.pop(draw.randrange(len(pieces)))
        kept = pieces[draw.randrange(len(pieces))]
        before = {name: array.copy() for name, array in taken.state().items()}
        kept.merge(taken)
        same(taken.state(), before)
    added = setting.empty()
    for a, b in parts:
        added.add(values[a:b], None, where[a:b])
    if isinstance(setting, Moments | Covariance):
        agree(setting, values, pieces[0], whole)
        agree(setting, values, added, whole)
    else:
        same(numbers(pieces[0].result()), numbers(whole.result()))
        same(numbers(added.result()), numbers(whole.result()))


def agree(setting, values, merged, whole):
    """To 1e-9, and with NumPy's two passes in extended precision."""
    found, expected = merged.result(), whole.result()
    exact = values.to(torch.float64).numpy().astype(np.longdouble)
    centred = exact - exact.mean(0)
    spread = centred.T @ centred / len(exact)
    np.testing.assert_allclose(found.mean, exact.mean(0).astype(float), rtol=1e-9)
    ours = found.covariance if isinstance(setting, Covariance) else found.variance
    theirs = spread if isinstance(setting, Covariance) else spread.diagonal()
    # Off the diagonal numbers are as exact as the variances are large.
    np.testing.assert_allclose(ours, theirs.astype(float), rtol=1e-9, atol=1e-9 * float(spread.max()) + 1e-20)
    if isinstance(setting, Moments) and setting.order == 4 and float(spread.diagonal().min()) > 0:
        # A mean is known to its own rounding, which a small spread makes large.
        rounding = np.finfo(float).eps * np.abs(exact).max() / np.sqrt(float(spread.diagonal().min()))
        for name in ("skewness", "kurtosis"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 + 100 * float(rounding), err_msg=name)


def test_drifting_means_the_case_that_a_misscaled_update_gets_wrong():
    """baukit's Variance is wrong where the means of batches differ; this is that case."""
    values = torch.arange(1000.0).reshape(-1, 1) + torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    parts = [one_pass(Moments(4), part, None) for part in values.split(100)]
    merged = functools.reduce(lambda a, b: (a.merge(b), a)[1], parts)
    np.testing.assert_allclose(merged.result().variance, values.double().numpy().var(0), rtol=1e-12)


@statistics
def test_states_and_files_keep_everything(setting, tmp_path):
    values, where = rows(setting, 40, 0)
    statistic = one_pass(setting, values[:30], where[:30])
    statistic.save(tmp_path / "saved.npz")
    with np.load(tmp_path / "saved.npz", allow_pickle=False) as file:
        assert {"about", *statistic.state()} == set(file.files)
    loaded = stats.load(tmp_path / "saved.npz")
    assert loaded == setting
    copied = one_pass(setting, values[30:], where[30:])  # what it has seen gives way
    copied.load_state(statistic.state())
    for other in (loaded, copied):
        same(other.state(), statistic.state())
        same(numbers(other.result()), numbers(statistic.result()))
        other.add(values[30:], None, where[30:])
        same(numbers(other.result()), numbers(one_pass(setting, values, where).result()), 1e-9)


@statistics
def test_one_that_saw_nothing(setting, tmp_path):
    empty = setting.empty()
    values, where = rows(setting, 0, 0)
    empty.add(values, None, where)
    empty.add(values.reshape(0, 4, 3), torch.ones(0, 4), where)
    if not isinstance(setting, Counts | Histogram):
        with pytest.raises(InputError, match=f"^{setting.kind}: nothing was counted yet$"):
            empty.result()
    empty.save(tmp_path / "empty.npz")
    seen = one_pass(setting, *rows(setting, 5, 0))
    seen.load_state(stats.load(tmp_path / "empty.npz").state())
    same(seen.state(), setting.empty().state())


def test_a_sample_keeps_its_type(tmp_path):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        statistic = one_pass(Sample(5), *rows(Sample(5), 9, 0, dtype=dtype))
        statistic.save(tmp_path / "sample.npz")
        loaded = stats.load(tmp_path / "sample.npz").result()
        assert loaded.values.dtype == dtype
        assert torch.equal(loaded.values, statistic.result().values)


def test_files_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    one_pass(Moments(), torch.ones(2, 2), None).save("~/m.npz")
    assert stats.load("~/m.npz").result().count == 2


@pytest.mark.parametrize("kind", ["absent", "text", "npy", "truncated", "other npz", "list", "folder"])
def test_what_is_no_statistic_is_named(tmp_path, kind):
    path = tmp_path / "file.npz"
    if kind == "text":
        path.write_text("hello")
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif kind == "truncated":
        one_pass(Moments(), torch.ones(200, 20), None).save(path)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "other npz":
        np.savez(path, weights=np.ones(3))
    elif kind == "list":
        stats.base.save_arrays(path, {}, ["a list"])
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(
        InputError, match=r"file\.npz (cannot be read as saved statistics|holds no statistic): "
    ) as caught:
        stats.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 5, 1)])
def test_a_mask_of_another_shape_is_named(shape):
    with pytest.raises(
        InputError, match=r"^a mask \[.*\] was given for values \[2, 3, 5\]: their leading shape was expected$"
    ):
        Moments().add(torch.ones(2, 3, 5), torch.ones(shape))


@pytest.mark.parametrize("setting", [Sample(), Extremes()], ids=str)
def test_keys_are_needed(setting):
    with pytest.raises(InputError, match=f"^{setting.kind} needs a key for each of 4 entries, got none$"):
        setting.empty().add(torch.ones(4, 2))
    with pytest.raises(InputError, match=r"each of 2 entries, got 4$"):
        setting.empty().add(torch.ones(4, 2), torch.tensor([1, 0, 1, 0]), rows(setting, 4, 0)[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Moments(2), Moments(4)),
        (Moments(2), Covariance()),
        (Counts(3), Counts(4)),
        (Histogram([0, 1]), Histogram([0, 2])),
        (Extremes(1), Extremes(2)),
        (Sample(10), Sample(10, seed=1)),
        (Quantiles(200), Quantiles(300)),
    ],
    ids=str,
)
def test_what_cannot_be_merged_is_named(one, other):
    with pytest.raises(InputError, match=r"cannot merge with .*: kind and settings must be the same$"):
        one.merge(other)


@pytest.mark.parametrize("setting", [Moments(), Covariance(), Extremes(), Sample()], ids=str)
def test_other_coordinates_than_before_are_named(setting):
    values, where = rows(setting, 4, 0)
    statistic = one_pass(setting, values, where)
    with pytest.raises(InputError, match=r" of .*3.* got .*2"):
        statistic.add(values[:, :2], None, Keys(where.documents, where.offsets + 100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Moments(3), "moments of order 3: 2"),
        (lambda: Extremes(0), "the 0 most extreme values: at least 1"),
        (lambda: Sample(0), "a sample of 0: at least 1"),
        (lambda: Quantiles(7), "quantiles with k = 7: 8 to 65,535"),
        (
            lambda: Covariance().add(torch.ones(2, 3, 4), torch.ones(2)),
            r"covariance is of vectors: observations \[3, 4\]",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
