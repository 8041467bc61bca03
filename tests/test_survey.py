"""One pass over a corpus: what sinks are given, resuming, and refusals. Numbers are of the bundled model in float64."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import InputError, SiteError
from cutaway.model.architectures import gpt2
from cutaway.stats import Counts, Covariance, Extremes, Histogram, Moments, Quantiles, Sample
from cutaway.surveys.sinks import SiteStatistics
from cutaway.surveys.survey import survey
from cutaway.text import corpus
from cutaway.text.batches import GROUP
from tests.sinks import FEW, Interrupt, count, same_sinks

SITES = ["blocks.0.attn_out", "blocks.1.resid_post"]
EVERY = {
    "blocks.1.resid_post": [Moments(4), Sample(40), Extremes(3), Covariance()],
    "blocks.0.attn_out": [Sample(40), Histogram([-1, 0, 1])],
    "ids": [Counts(8192)],
}


@pytest.fixture(scope="module")
def model():
    return cutaway.load(device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def texts():
    """Short pieces of the bundled documents, of many lengths; one is longer than the context."""
    pieces = {d.id: d.text[: 60 + 60 * i] for i, d in enumerate(corpus.bundled())}
    return pieces | {"long": corpus.bundled()[1].text[:3000]}


def sinks():
    vocabulary = {"ids": [Counts(8192)]}
    return {**EVERY, **vocabulary, "later": SiteStatistics(SITES[1], [Moments(), Sample(40)], first=False)}


@pytest.fixture(scope="module")
def whole(model, texts):
    return survey(model, texts, sinks(), batch_tokens=600)


def same(found, expected):
    """The same sample and extremes, the same numbers to 1e-9."""
    assert list(found) == list(expected)
    assert (found.documents, found.tokens) == (expected.documents, expected.tokens)
    same_sinks(found, expected)


def loop(model, texts, site):
    """Every state of a site with its (document, offset), one window at a time."""
    rows, keys, ids = [], [], []
    for document, text in texts.items():
        [whole], _ = model.tokenizer.encode([text])
        for start in range(0, len(whole), model.config.n_ctx):
            window = whole[start : start + model.config.n_ctx]
            run = model.run(torch.tensor([window]), capture=[site])
            rows.append(run[site][0].numpy())
            keys += [(document, start + i) for i in range(len(window))]
            ids += window
    return np.concatenate(rows), keys, ids


def test_numbers_are_those_of_a_plain_loop(model, texts, whole):
    rows, keys, ids = loop(model, texts, SITES[1])
    assert whole.tokens == len(rows)
    assert whole.documents == len(texts)
    moments = whole[SITES[1]]["moments"].result()
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-9)
    covariance = whole[SITES[1]]["covariance"].result().covariance.numpy()
    np.testing.assert_allclose(covariance, np.cov(rows.T, ddof=0), rtol=1e-9, atol=1e-9 * covariance.max())
    np.testing.assert_array_equal(whole["ids"]["counts"].result(), np.bincount(ids, minlength=8192))
    sample, at = whole[SITES[1]]["sample"].result(), {key: i for i, key in enumerate(keys)}
    places = list(zip(sample.keys.documents.tolist(), sample.keys.offsets.tolist(), strict=True))
    assert len(set(places)) == 40
    np.testing.assert_allclose(sample.values, rows[[at[place] for place in places]], rtol=1e-9, atol=1e-9)
    later = rows[[offset % model.config.n_ctx > 0 for _, offset in keys]]
    found = whole["later"]["moments"].result()
    assert found.count == len(later) < len(rows)
    np.testing.assert_allclose(found.mean, later.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.variance, later.var(0), rtol=1e-9)
    sample = whole["later"]["sample"].result()
    places = list(zip(sample.keys.documents.tolist(), sample.keys.offsets.tolist(), strict=True))
    assert all(offset % model.config.n_ctx for _, offset in places)
    np.testing.assert_allclose(sample.values, rows[[at[place] for place in places]], rtol=1e-9, atol=1e-9)
    extremes = whole[SITES[1]]["extremes"].result()
    np.testing.assert_allclose(extremes.largest[0], rows.max(0), rtol=1e-9)
    where = [keys[i] for i in rows.argmin(0)]
    assert list(zip(extremes.smallest_documents[0], extremes.smallest_offsets[0], strict=True)) == where


def test_samples_of_two_sites_are_of_the_same_tokens(whole):
    one, other = (whole[site]["sample"].result() for site in SITES)
    np.testing.assert_array_equal(one.keys.documents, other.keys.documents)
    np.testing.assert_array_equal(one.keys.offsets, other.keys.offsets)
    assert not torch.equal(one.values, other.values)


@pytest.mark.parametrize("budget", [1, 900, 6000])
def test_the_same_whatever_the_batch_budget(model, texts, whole, budget):
    same(survey(model, texts, sinks(), batch_tokens=budget), whole)


def test_the_same_when_parts_are_merged(model, texts, whole):
    names = list(texts)
    parts = [{name: texts[name] for name in part} for part in (names[7:], names[:3], names[3:7])]
    first, *others = [survey(model, part, sinks()) for part in parts]
    for other in others:
        for name in first:
            first[name].merge(other[name])
    same_sinks(first, whole)


def test_patterns_of_and_several_for_one_site(bundled):
    asked = {"resid_post": [Moments()], "blocks.0.resid_post": [Moments(), Quantiles()], "ids": [Moments()]}
    found = survey(bundled, FEW, {**asked, "norms": SiteStatistics("blocks.0.resid_post", [Moments()], of=norms)})
    layers = [f"blocks.{i}.resid_post" for i in range(bundled.config.n_layers)]
    assert set(found) == {*layers, "ids", "norms"}
    assert list(found[layers[0]].statistics) == ["moments", "moments 2", "quantiles"]
    rows, _, ids = loop(bundled, FEW, layers[0])
    lengths = np.linalg.norm(rows, axis=-1)
    assert found["norms"]["moments"].result().mean.item() == pytest.approx(lengths.mean(), rel=1e-5)
    assert found["ids"]["moments"].result().mean.item() == pytest.approx(np.mean(ids))
    assert repr(found).startswith(f"Survey of 2 documents, {len(ids)} tokens: norms, ")


def norms(values):
    return values.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("site", ["blocks.0.attn.q", "blocks.1.ln1.scale"])
def test_sites_of_other_shapes(bundled, site):
    rows, _, _ = loop(bundled, FEW, site)
    mean = survey(bundled, FEW, {site: [Moments()]})[site]["moments"].result().mean
    assert mean.shape == rows.shape[1:]
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (None, InputError, "^a survey needs sinks: site patterns with statistics"),
        ({}, InputError, "^a survey needs sinks"),
        (
            {"attn.pattern": [Moments()]},
            InputError,
            r"attn\.pattern' is B H P P: a site \[batch, pos, ...\] was expected",
        ),
        ({"nowhere": [Moments()]}, SiteError, "no site matches 'nowhere'"),
        (
            {"resid_post": Moments()},
            InputError,
            r"^'resid_post': Moments\(order=2\) is not a sink: put statistics in a list",
        ),
        (["resid_post"], InputError, "^list was given as sinks: a mapping from site patterns with statistics, such as"),
        ("resid_post", InputError, "^str was given as sinks: a mapping"),
        (Moments(), InputError, "^Moments was given as sinks: a mapping"),
        ({"resid_post": Moments}, InputError, "^'resid_post': the class Moments was given: statistics in a list"),
        ({"resid_post": [Moments]}, InputError, "^'resid_post': the class Moments was given: statistics in a list"),
        ({"resid_post": [Moments(), 3]}, InputError, "^'resid_post': 3 was given: statistics in a list"),
        ({"resid_post": "moments"}, InputError, "^'resid_post': 'moments' was given: statistics in a list"),
        ({"resid_post": None}, InputError, "^'resid_post': None was given: statistics in a list"),
        ({"resid_post": []}, InputError, r"^'resid_post': an empty list was given: statistics in a list, \[Moments"),
        ({"x": SiteStatistics}, InputError, "^'x': the class SiteStatistics was given: statistics in a list"),
        (
            {"resid_post": [Moments()], SITES[1]: SiteStatistics("ids", [Moments()])},
            InputError,
            "give the sink another",
        ),
        (
            {"x": SiteStatistics("ids", [Extremes(1)]), "ids": [Counts(5)]},
            InputError,
            "counts are of whole numbers from 0 to 4",
        ),
    ],
)
def test_sinks_that_make_no_sense_are_named(bundled, wrong, error, message):
    with pytest.raises(error, match=message):
        survey(bundled, FEW, wrong)


def test_only_what_is_needed_is_computed(bundled, monkeypatch):
    def never(*_):
        raise AssertionError("not needed")

    monkeypatch.setattr(gpt2, "unembed", never)
    captured, blocks = [], []

    class Look(Interrupt):
        sites = ("blocks.0.resid_post", "blocks.0.attn_out")

        def add(self, seen):
            captured.append(set(seen.run))

    monkeypatch.setattr(gpt2, "mlp", count(blocks, gpt2.mlp))
    survey(bundled, FEW, {"look": Look(), "blocks.0.resid_mid": [Moments()]})
    assert captured == [set(Look.sites)]  # resid_mid's values were seen as they arose, and not kept
    assert len(blocks) == 1
    monkeypatch.setattr(bundled, "run", never)  # ids alone need no model
    assert survey(bundled, FEW, {"ids": [Counts(8192)]})["ids"]["counts"].result().sum() > 5


def test_a_bos_is_a_place_of_its_own(bundled):
    window = bundled.config.n_ctx - 1
    text = corpus.bundled()[0].text
    found = survey(bundled, {"d": text}, {"ids": [Sample(10**5), Counts(8192)]}, bos=True)
    [ids], _ = bundled.tokenizer.encode([text])
    sample = found["ids"]["sample"].result()
    at = dict(zip(sample.keys.offsets.tolist(), sample.values[:, 0].tolist(), strict=True))
    assert [at.pop(i) for i in range(len(ids))] == ids
    assert at == {-1 - start: bundled.tokenizer.end_of_text for start in range(0, len(ids), window)}
    assert (found.documents, found.tokens) == (1, len(ids) + len(range(0, len(ids), window)))


def test_what_a_corpus_leaves_out_is_reported(bundled):
    found = survey(bundled, ["Some text.", "", None], {"ids": [Counts(8192)]})
    assert found.problems.counts == {"empty document": 1, "null where text was expected": 1}
    assert "left out: 1 empty document, 1 null" in repr(found)
    with pytest.raises(InputError, match="this survey has no 'resid_post': it has ids"):
        found["resid_post"]


def test_the_bar_knows_the_whole_corpus_from_its_first_documents(bundled, monkeypatch):
    """Of documents of one length, the tokens to come are the tokens of those that were read, times what is left."""
    advanced, totals = 0, []

    class Display:
        def add_task(self, *_, **__):
            return 0

        def update(self, task, advance, total):
            nonlocal advanced
            advanced += advance
            totals.append(total)

        def remove_task(self, task):
            pass

        def stop(self):
            pass

    monkeypatch.setattr("cutaway.progress._new_display", Display)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    given = ["The people"] * 2 * GROUP  # more than are read before the first are run
    found = survey(bundled, given, {"ids": [Counts(8192)]})
    assert advanced == found.tokens == 4 * GROUP
    assert totals == [4 * GROUP] * 4
    totals.clear()
    survey(bundled, (text for text in given[:4]), {"ids": [Counts(8192)]})
    assert set(totals) == {None}  # nobody knows how many are to come


def test_sinks_of_other_settings_do_not_merge():
    with pytest.raises(
        InputError,
        match=r"^SiteStatistics\('a', .* cannot merge with SiteStatistics\('b', .*site and statistics must be the same",
    ):
        SiteStatistics("a", [Moments()]).merge(SiteStatistics("b", [Moments()]))


class Norms:
    """A sink of our own: how it was given its values, and their sum."""

    def __init__(self, *sites):
        self.sites, self.ways, self.total = sites, set(), 0.0

    def take(self, values, seen):
        assert seen.run is None
        self.ways.add("streamed")
        self.total += float((values.norm(dim=-1) * seen.mask).sum())

    def add(self, seen):
        self.ways.add("kept")
        self.total += sum(float((seen.run[site].norm(dim=-1) * seen.mask).sum()) for site in self.sites)


def test_a_sink_of_one_site_that_can_take_it_is_streamed(model):
    sinks = {"one": Norms("transformer.h.1.mlp"), "two": Norms("blocks.1.mlp_out", "blocks.0.mlp_out")}
    found = survey(model, FEW, {**sinks, "other": Norms("blocks.0.mlp_out")})
    assert [found[name].ways for name in ("one", "two", "other")] == [{"streamed"}, {"kept"}, {"streamed"}]
    assert found["one"].total + found["other"].total == pytest.approx(found["two"].total)
