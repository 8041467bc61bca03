"""Every chart: a valid specification whose data are the result's numbers, and a picture that shows them."""

import base64
import dataclasses
import struct
import xml.etree.ElementTree as ElementTree
import zlib

import altair as alt
import numpy as np
import pytest
import torch
import vl_convert
from PIL import Image

import cutaway
from cutaway.analyses.ablation.components import Ablated
from cutaway.pages.page import page
from tests import results as all_results

pytestmark = pytest.mark.slow


@pytest.fixture(params=all_results.NAMES)
def result(request, bundled):
    return all_results.make(bundled)[request.param]


def find(node, key):
    """Every value of a key anywhere in a specification."""
    if isinstance(node, dict):
        yield from ([node[key]] if key in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from find(child, key)


def data(chart):
    """The tables that a chart carries, in the order of its parts."""
    spec = chart.to_dict()
    inline = [rows for rows in find(spec, "values") if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    return inline + list(spec.get("datasets", {}).values())


def holding(chart, field):
    """The one table of a chart that has a field; several layers may share it."""
    [*tables] = [rows for rows in data(chart) if field in rows[0]]
    assert tables
    assert all(rows == tables[0] for rows in tables)
    return tables[0]


def column(rows, name):
    return [row[name] for row in rows]


def test_every_chart_is_valid_names_its_axes_in_words_with_their_units_and_renders(result, tmp_path):
    chart = result.chart()
    assert isinstance(chart, alt.TopLevelMixin)
    spec = chart.to_dict()  # Altair checks it against Vega-Lite's schema
    assert spec["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
    vega = vl_convert.vegalite_to_vega(spec)
    assert list(find(vega, "marks"))
    titles = {axis["title"] for axes in find(vega, "axes") for axis in axes if "title" in axis}
    assert titles == AXES[result.analysis]
    result.save(tmp_path / "chart.png")
    width, height, distinct = picture(tmp_path / "chart.png")
    assert 600 < width < 3000
    assert 100 < height < 3000
    assert distinct > 60


AXES = {
    "predictions.next_tokens": {"Probability"},
    "predictions.along": {"Probability"},
    "predictions.losses": {"Loss (nats a token)"},
    "anatomy.read": {"Parameters"},
    "anatomy.tokens": set(),
    "verify": {"Largest difference"},
    "logit_lens.read": {
        "Layer",
        "Nats, mean over tokens",
        "Probability at the last position",
        "Rank at the last position",
    },
    "logit_lens.average": {"Layer"},
    "attribution.direct": {"Head", "Layer", "Logit", "After layer", "Logit difference"},
    "attribution.gradient": {"Position", "Attribution (logit)"},
    "attribution.integrated": {"Position", "Attribution (logit)"},
    "patching.run": {"Layer", "Head", "Position"},
    "patching.attribution": {"Layer", "Head", "Estimate by gradients", "Patched"},
    "patching.path": {"Layer", "Head"},
    "attention.read": {"Layer", "Head", "Key: the token looked at", "Query: the token that looks"},
    "attention.average": {"Layer", "Head"},
    "causal_trace.trace": {"Layer", "Middle of 2 layers"},
    "causal_trace.average": {"Layer", "Mean effect"},
    "ablation.run": {"Layer", "Head", "Change"},
    "states.measure": {"Layer", "Cosine", "Density"},
    "states.gaussian": {"Cosine", "Density"},
    "norms.measure": {"Layer", "Log norm of attn_out", "Tokens in bin"},
    "norms.regress": {"Layer", "Coefficient", "R²"},
    "unigram.read": {"Probability under the bias alone"},
    "unigram.compare": {"Logit from the final bias", "Natural logarithm of p", "KL from p (nats)"},
    "unigram.claim": {"Explained of the unigram distribution", "Change of loss from 9.179 (nats a token)"},
    "unigram.edit": {"Change of log-probability (nats)"},
    "unigram.edit_effects": {
        "Achieved change of ·the (nats)",
        "Collateral (nats)",
        "Achieved (nats)",
        "Repeated 4-grams",
        "Different 2-grams",
        "Perplexity, unedited model",
    },
}


def picture(path):
    """(width, height, distinct bytes) of a PNG."""
    raw = path.read_bytes()
    chunks, at = {}, 8
    while at < len(raw):
        (length,), kind = struct.unpack(">I", raw[at : at + 4]), raw[at + 4 : at + 8]
        chunks[kind] = chunks.get(kind, b"") + raw[at + 8 : at + 8 + length]
        at += 12 + length
    return (*struct.unpack(">II", chunks[b"IHDR"][:8]), len(set(zlib.decompress(chunks[b"IDAT"]))))


def words(result, tmp_path):
    """All that is written in a chart."""
    result.save(tmp_path / "chart.svg")
    return [node.text for node in ElementTree.parse(tmp_path / "chart.svg").iter() if node.text and node.text.strip()]


def test_next_tokens(bundled, tmp_path):
    result = all_results.make(bundled)["predictions.next_tokens"]
    shown = data(result.chart())
    assert [column(rows, "id") for rows in shown] == result.ids
    assert [column(rows, "probability") for rows in shown] == result.probabilities
    assert [column(rows, "token") for rows in shown] == result.display
    written = words(result, tmp_path)
    assert {"The people of the United", "·States", "95.3%"} <= set(written)
    assert written.count("Probability") == len(result.prompts)


def test_along(bundled, tmp_path):
    result = all_results.make(bundled)["predictions.along"]
    n, k = result.top_ids.shape
    strip = holding(result.chart(), "loss")
    assert column(strip, "prefix") == list(range(1, n + 1))
    assert column(strip, "token") == result.display
    assert column(strip, "loss") == [None, *result.next_loss.tolist()]
    assert column(strip, "rank") == [None, *result.next_rank.tolist()]
    assert column(strip, "expected") == ["", *(row[0] for row in result.top_display[:-1])]
    bars = holding(result.chart(), "came")
    for i in range(n):
        rows = [row for row in bars if row["prefix"] == i + 1]
        assert column(rows[:k], "id") == result.top_ids[i].tolist()
        assert column(rows[:k], "probability") == result.top_probabilities[i].tolist()
        came = [row for row in rows if row["came"]]
        if i < n - 1:
            assert column(came, "id") == [result.ids[i + 1]]
            assert column(came, "rank") == [result.next_rank[i].item()]
            assert column(came, "probability") == pytest.approx([result.next_probability[i].item()], rel=1e-6)
        assert len(rows) == k + (i < n - 1 and result.ids[i + 1] not in result.top_ids[i])
        assert bool(came) == (i < n - 1)
    [slider] = find(result.chart().to_dict(), "bind")
    assert (slider["min"], slider["max"], slider["step"]) == (1, n, 1)
    written = words(result, tmp_path)
    assert f"Expected after {n // 4} tokens" in written
    assert f"{result.top_probabilities[n // 4 - 1, 0]:.1%}" in " ".join(written)


def test_losses(bundled, tmp_path):
    result = all_results.make(bundled)["predictions.losses"]
    rows = holding(result.chart(), "loss")
    assert column(rows, "document") == result.documents
    assert column(rows, "loss") == result.loss
    assert column(rows, "predicted") == result.predicted
    assert holding(result.chart(), "mean") == [{"mean": result.mean}]
    written = words(result, tmp_path)
    assert f"mean of all tokens {result.mean:.2f}" in written
    assert {f"{loss:.2f}" for loss in result.loss} <= set(written)


def test_of_a_long_name_the_end_is_written(bundled, tmp_path):
    name = "/home/someone/a/long/path/to/some/folder/of/notes/the_file_itself.txt"
    written = words(cutaway.predictions.losses(bundled, {name: "The people", "short": "of the"}), tmp_path)
    [cut] = [text for text in written if text.endswith("the_file_itself.txt")]
    assert cut.startswith("…")
    assert len(cut) == 40


def test_anatomy(bundled, tmp_path):
    result = all_results.make(bundled)["anatomy.read"]
    rows = holding(result.chart(), "parameters")
    assert [(row["part"], row["parameters"]) for row in rows] == [(p.name, p.parameters) for p in bundled.parts()]
    assert "2,097,152 (38.9%)" in [" ".join(text.split()) for text in words(result, tmp_path)]


def test_tokens(bundled):
    result = all_results.make(bundled)["anatomy.tokens"]
    rows = holding(result.chart(), "token_id")
    assert column(rows, "token_id") == result.ids
    assert column(rows, "display") == result.display
    assert [(row["start"], row["end"]) for row in rows] == result.offsets


def test_verification(bundled):
    result = all_results.make(bundled)["verify"]
    rows = holding(result.chart(), "measured")
    assert column(rows, "claim") == [item.claim for item in result.items]
    assert column(rows, "measured") == [item.measured for item in result.items]
    assert all(row["at"] > 0 and row["limit"] > 0 for row in rows)  # an exact zero has its place on a log axis


def test_norms(bundled):
    result = all_results.make(bundled)["norms.measure"]
    later = result.values[:, result.position > 0]
    points, bins = holding(result.chart(), "aside"), holding(result.chart(), "count")
    for layer in range(4):
        mine = [row["value"] for row in points if row["layer"] == layer]
        np.testing.assert_allclose(mine, later[layer], rtol=1e-4)
        counts, edges = np.histogram(later[layer], bins="fd")
        rows = [row for row in bins if row["layer"] == layer]
        assert column(rows, "count") == counts.tolist()
        np.testing.assert_allclose(column(rows, "middle"), (edges[1:] + edges[:-1]) / 2)
    [medians] = [row for row in data(result.chart()) if "median" in row[0]]
    np.testing.assert_allclose(column(medians, "median"), np.median(later, axis=1))


def test_many_norms_are_sampled_and_their_bins_counted_whole():
    series = np.exp(np.random.default_rng(0).standard_normal((48, 3000)))
    series[0, 1] = 0
    chart = cutaway.norms.series(series, log=True).chart()
    assert len(holding(chart, "aside")) == 48 * 125
    assert sum(column(holding(chart, "count"), "count")) == 48 * 2999 - 1
    assert "A sample of 125 tokens of each layer" in str(chart.to_dict())


def test_regressions(bundled):
    result = all_results.make(bundled)["norms.regress"]
    rows = holding(result.chart(), "beta")
    table = result.table()
    np.testing.assert_allclose(column(rows, "beta"), table["beta"], rtol=1e-4)
    np.testing.assert_allclose(column(rows, "p_adjusted"), table["p_adjusted"], rtol=1e-4)
    np.testing.assert_allclose(column(rows, "null_low"), np.percentile(result.null, 2.5, axis=1).ravel(), rtol=1e-4)
    explained = holding(result.chart(), "what")
    assert [row["value"] for row in explained if row["what"] == "of the fit"] == result.r_squared.tolist()


def test_regressions_of_heads_are_cells_and_name_what_is_missing(bundled, tmp_path):
    with bundled.edited({"blocks.0.attn.z": lambda value, ctx: value * (torch.arange(8) != 2)[:, None]}):
        result = cutaway.norms.regress(bundled, all_results.HARD, "attn.result", lags=3)
    of_lags = [rows for rows in data(result.chart()) if "beta" in rows[0] and rows[0]["beta"] is not None]
    for lag in (1, 2, 3):
        [rows] = {str(r): r for r in of_lags if r[0]["lag"] == lag}.values()
        good = np.isfinite(result.lag_beta[:, lag - 1])
        np.testing.assert_allclose(column(rows, "beta"), result.lag_beta[good, lag - 1], rtol=1e-4)
        assert (~good).tolist() == [(at == (0, 2)) for at in zip(result.norms.layers, result.norms.heads, strict=True)]
    assert words(result, tmp_path).count("–") == 3


@pytest.mark.parametrize(("layers", "heads"), [(12, 0), (48, 0), (12, 12), (48, 25)])
@pytest.mark.parametrize("lags", [0, 2, 7])
def test_charts_of_any_model_fit_the_page(layers, heads, lags, tmp_path):
    shape = (layers, heads, 60) if heads else (layers, 60)
    found = cutaway.norms.series(np.random.default_rng(0).standard_normal(shape))
    (found.regress(lags) if lags else found).save(tmp_path / "chart.svg")
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    assert 500 < float(root.get("width")) <= 950


def test_layers_run_upward(result):
    """Wherever layers are rows, the last one is on top."""
    for y in find(result.chart().to_dict(), "y"):
        if isinstance(y, dict) and y.get("field") in ("layer", "l") and y["type"] == "ordinal":
            sort = y["sort"]
            assert sort == "descending" or (len(sort) > 1 and sort == sorted(sort, reverse=True)), y


def test_a_picture_names_what_its_menu_chose(bundled, tmp_path):
    made = all_results.make(bundled)
    assert "Previous token" in words(made["attention.read"], tmp_path)
    assert "Previous token" in words(made["attention.average"], tmp_path)
    assert "KL from the output (nats)" in words(made["logit_lens.read"], tmp_path)
    assert "Heads: Loss (nats)" in words(made["ablation.run"], tmp_path)


def test_every_target_of_a_lens_has_a_colour_of_its_own(bundled, tmp_path):
    found = cutaway.logit_lens.read(bundled, "The people", targets=[" the", " of", " a", " war", " to", " in"])
    found.save(tmp_path / "chart.svg")
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}path"
    lines = [path for path in root.iter(svg) if path.get("aria-roledescription") == "line mark"]
    assert len({path.get("stroke") for path in lines[-6:]}) == 6
    assert float(root.get("width")) <= 950


def test_attention(bundled, tmp_path):
    result = all_results.make(bundled)["attention.read"]
    rows = holding(result.chart(), "weight")
    n = min(len(result.ids), 48)
    assert len(rows) == 4 * 8 * n
    row = next(row for row in rows if (row["layer"], row["head"], row["query"]) == (2, 5, 9))
    np.testing.assert_allclose(row["weight"], result.patterns[2, 5, 9, :10], atol=6e-4)
    [scores] = {str(rows): rows for rows in data(result.chart()) if "previous" in rows[0]}.values()
    assert column(scores, "previous") == pytest.approx(result.score("previous").flatten().tolist())
    binds = list(find(result.chart().to_dict(), "bind"))
    assert [bind.get("max") for bind in binds] == [None, 3, 7]
    pictures = holding(result.chart(), "url")
    picture_of = {(row["layer"], row["head"]): row["url"] for row in pictures}
    path = tmp_path / "head.png"
    path.write_bytes(base64.b64decode(picture_of[2, 5].partition(",")[2]))
    alpha = np.asarray(Image.open(path))[..., 3]
    times = len(alpha) // n
    np.testing.assert_allclose((alpha[::times, ::times] / 255) ** 2, result.patterns[2, 5, :n, :n], atol=5e-3)


@pytest.mark.parametrize(("layers", "heads", "n"), [(1, 1, 1), (4, 8, 3), (12, 12, 300), (48, 25, 80)])
def test_attention_of_any_model_fits_the_page(bundled, layers, heads, n, tmp_path):
    made = all_results.make(bundled)["attention.read"]
    patterns = torch.rand(layers, heads, n, n).tril()
    patterns /= patterns.sum(-1, keepdim=True)
    words = [f"·word{i}" for i in range(n)]
    result = dataclasses.replace(
        made, ids=[0] * n, tokens=words, display=words, patterns=patterns, scores=torch.rand(layers, heads, 6).double()
    )
    result.save(tmp_path / "chart.svg")
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    assert float(root.get("width")) <= 950
    assert len(str(result.chart().to_dict())) < 8e6
    assert any("of 300 tokens" in text for text in words_of(root)) == (n == 300)
    means = dataclasses.replace(
        all_results.make(bundled)["attention.average"], scores=result.scores, low=result.scores, high=result.scores
    )
    means.save(tmp_path / "means.svg")
    assert float(ElementTree.parse(tmp_path / "means.svg").getroot().get("width")) <= 950


def test_ablation(bundled, tmp_path):
    result = all_results.make(bundled)["ablation.run"]
    tables = {rows[0]["name"]: rows for rows in data(result.chart()) if "m1_text" in rows[0]}
    assert list(tables) == ["head 0.0", "mlp 0", "layer 0", "embed"]
    table = result.table().set_index("component")
    for rows in tables.values():
        for row in rows:
            found = table.loc[row["name"]]
            assert row["m0"] == pytest.approx(found["loss_change"], rel=1e-4)
            assert row["m1"] == pytest.approx(found["kl_change"], rel=1e-4)
            assert (row["m0_low"], row["m1_high"]) == (found["low"], found["kl_high"])
            assert row["m1_text"].startswith(f"{found['kl_change']:+.4g} (")
    assert [len(rows) for rows in tables.values()] == [32, 4, 4, 1]
    written = words(result, tmp_path)
    titles = {f"{kind}: Loss (nats)" for kind in ("Heads", "MLPs", "Whole layers", "Sites")}
    assert titles | {f"{result.of('heads')[0, 3]:+.3f}".replace("-", "−")} <= set(written)


@pytest.mark.parametrize(("mlps", "labelled"), [(["mlp 2"], 2), (["mlp 3"], 1)])
def test_bars_say_their_layers_where_they_are_not_the_heads(bundled, tmp_path, mlps, labelled):
    result = cutaway.ablation.run(bundled, "The people of the United", ["head 3.1", *mlps])
    assert list(words(result, tmp_path)).count("Layer") == labelled


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (12, 12), (48, 25)])
def test_ablations_of_any_model_fit_the_page(bundled, layers, heads, tmp_path):
    cells = [Ablated("head", i, h, ("z",)) for i in range(layers) for h in range(heads)]
    cells += [Ablated(kind, i, None, (kind,)) for kind in ("mlp", "layer") for i in range(layers)]
    change = torch.randn(len(cells), 1, generator=torch.Generator().manual_seed(0)).double() ** 3
    made = dataclasses.replace(
        all_results.make(bundled)["ablation.run"],
        cells=cells,
        metrics=["loss"],
        change=change,
        low=change - 1,
        high=change + 1,
        layers=layers,
        heads=heads,
    )
    made.save(tmp_path / "chart.svg")
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    assert float(root.get("width")) <= 950
    numbers = [text for text in words_of(root) if text.startswith(("+", "−")) and len(text) > 5]
    assert (len(numbers) > layers * heads / 2) == (heads < 25)
    assert max(map(len, numbers), default=0) <= 7


def words_of(root):
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_causal_trace(bundled, tmp_path):
    result = all_results.make(bundled)["causal_trace.trace"]
    n = len(result.ids)
    tables = [rows for rows in data(result.chart()) if "restored" in rows[0]]
    for k, kind in enumerate(result.kinds):
        rows = tables[k]
        assert [(row["i"], row["layer"]) for row in rows] == [(i, layer) for i in range(n) for layer in range(4)]
        for name, levels in (
            ("probability", (result.corrupted, result.clean)),
            ("log_probability", (result.corrupted_log_probabilities.mean(), result.clean_log_probability)),
        ):
            scores = getattr(result, name)
            reach = max((scores - levels[0]).abs().max().item(), abs(levels[1] - levels[0]))
            want = (scores[k].flatten() - levels[0]) / reach  # nothing at the corrupted level, full at the furthest
            np.testing.assert_allclose(column(rows, name), want, atol=1e-4)
        assert rows[-1]["restored"] == ("layer 3" if kind == "resid_post" else "layers 2 to 3")
    written = words(result, tmp_path)
    scale = [row for rows in data(result.chart()) for row in rows if row.get("of") == "probability"]
    known = [*result.probability.flatten().tolist(), result.clean, result.corrupted]
    for row in scale:
        if "mark" in row:
            value = getattr(result, row["level"])
            assert row["at"] == pytest.approx((value - min(known)) / (max(known) - min(known)))
    assert sum("shade" in row for row in scale) == 60
    assert f"corrupted {result.corrupted:.1%}" in written
    assert f"clean {result.clean:.1%}" in written
    assert "Probability of ·the" in written
    starred = [text for text in written if text.endswith(" *")]
    assert len(starred) == len(result.subject)
    assert starred[0] == f"{result.display[result.subject[0]]} *"


def test_a_trace_that_is_not_finished_shows_what_is_missing(bundled, tmp_path):
    seen = []
    cutaway.causal_trace.trace(bundled, "The people of the United", "people", samples=2, each=seen.append)
    for size in ("probability", "log_probability"):
        rows = [table for table in data(seen[1].chart()) if "restored" in table[0]][2]
        assert [row[size] is None for row in rows] == [False] * 12 + [True] * 8
    assert rows[-1]["p"] == "not done"
    seen[1].save(tmp_path / "part.svg")
    grey = (tmp_path / "part.svg").read_text().count("#88888850")
    assert grey == 3 * 8
    seen[-1].save(tmp_path / "whole.svg")
    assert "#88888850" not in (tmp_path / "whole.svg").read_text()


@pytest.mark.parametrize(("layers", "n"), [(4, 5), (12, 20), (48, 40), (48, 200)])
def test_traces_of_any_model_fit_the_page(bundled, layers, n, tmp_path):
    made = all_results.make(bundled)["causal_trace.trace"]
    words = [f"·internationalisation{i}" for i in range(n)]
    scores = torch.randn(3, n, layers, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 9
    about = {"ids": [0] * n, "tokens": words, "display": words, "subject": range(1, 3), "windows": [1, 4, 4]}
    result = dataclasses.replace(made, log_probabilities=scores, **about)
    result.save(tmp_path / "chart.svg")
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    assert 500 < float(root.get("width")) <= 950
    assert float(root.get("height")) <= 1100
    assert len(str(result.chart().to_dict())) < 8e6
    other = all_results.make(bundled)["causal_trace.average"]
    many = torch.rand(3, 6, layers, 3, dtype=torch.float64)
    means = dataclasses.replace(other, means=many, low=many, high=many, prompts=[9] * 6)
    means.save(tmp_path / "means.svg")
    assert float(ElementTree.parse(tmp_path / "means.svg").getroot().get("width")) <= 950


def test_trace_means(bundled):
    result = all_results.make(bundled)["causal_trace.average"]
    tables = {rows[0]["role"]: rows for rows in data(result.chart()) if "role" in rows[0]}
    assert list(tables) == [role for role, prompts in zip(result.roles, result.prompts, strict=True) if prompts]
    for role, rows in tables.items():
        r = result.roles.index(role)
        assert column(rows, "mean") == result.means[:, r, :, 1].flatten().tolist()
        for bound in ("low", "high"):
            values = getattr(result, bound)[:, r, :, 1].flatten().tolist()
            assert column(rows, bound) == [None if value != value else value for value in values]
    layers = [layer["encoding"] for chart in result.chart().to_dict()["concat"] for layer in chart["layer"]]
    bands = [(layer["y"]["field"], layer["y2"]["field"]) for layer in layers if "y2" in layer]
    assert set(bands) == {("low", "high")}


def test_unigram_read(bundled):
    result = all_results.make(bundled)["unigram.read"]
    rows = holding(result.chart(), "rank")
    assert column(rows, "id") == result.ids
    assert column(rows, "probability") == result.probabilities
    assert column(rows, "kind") == ["likeliest"] * 4 + ["asked for"] * 2
    assert {"even": 1 / 8192} in holding(result.chart(), "even")


def test_unigram_compare(bundled, tmp_path):
    result = all_results.make(bundled)["unigram.compare"]
    rows = holding(result.chart(), "rank")
    assert len(rows) == 8192  # every token can be found
    assert column(rows, "token") == result.display
    assert column(rows, "u") == pytest.approx(result.u.tolist(), abs=1e-4)
    assert column(rows, "p") == pytest.approx(result.p.log().tolist(), abs=1e-4)
    assert column(rows, "n") == result.counts.tolist()
    yardsticks = holding(result.chart(), "explained")
    assert dict(zip(column(yardsticks, "name"), column(yardsticks, "kl"), strict=True)) == result.kl
    assert {"·war", "·wars"} <= set(words(result, tmp_path))  # what is looked for at first is named
    [search] = find(result.chart().to_dict(), "bind")
    assert search["input"] == "search"


def test_unigram_claim(bundled):
    result = all_results.make(bundled)["unigram.claim"]
    losses = holding(result.chart(), "loss")
    moved = {name: one for name, one in result.interventions.items() if name != "as it is"}
    assert column(losses, "name") == list(moved)
    assert column(losses, "value") == [one.change.value for one in moved.values()]
    assert column(losses, "kl") == [one.kl for one in moved.values()]
    [shares] = [rows for rows in data(result.chart()) if rows[0]["name"] == "bias alone"]
    assert column(shares, "low")[:3] == [result.parts[name].low for name in ("bias", "mean_residual", "both")]


def test_unigram_edit(bundled):
    result = all_results.make(bundled)["unigram.edit"]
    rows = holding(result.chart(), "wanted")
    assert column(rows, "change") == result.achieved
    assert column(rows, "wanted") == [0.5, -0.2, *[None] * 10]
    assert column(rows, "token") == result.display


def test_unigram_edit_effects(bundled):
    result = all_results.make(bundled)["unigram.edit_effects"]
    [curves] = [rows for rows in data(result.chart()) if "perplexity" not in rows[0]]
    assert [(r["method"], r["achieved"], r["collateral"]) for r in curves] == result.curves
    texts = holding(result.chart(), "perplexity")
    assert [row["perplexity"] for row in texts if row["achieved"] > 0] == result.perplexity[1:]
    assert sum(row["achieved"] == 0 for row in texts) == 3  # the unedited model, where each line begins


def test_what_is_no_number_is_null(bundled):
    with bundled.edited({"ln_final.out": float("nan")}):
        chart = cutaway.predictions.along(bundled, "The people").chart()
    assert column(holding(chart, "came"), "probability") == [None] * len(holding(chart, "came"))
    page("a page", [{"spec": chart.to_dict(), "title": "", "summary": "", "caption": "", "call": "", "model": {}}])


def test_a_chart_holds_more_rows_than_altairs_limit(bundled):
    result = cutaway.predictions.next_tokens(bundled, "The", top=8000)
    assert len(data(result.chart())[0]) == 8000


def test_patching(bundled, tmp_path):
    result = all_results.make(bundled)["patching.run"]
    table = result.table()
    stream, heads = (table[table["kind"] == kind] for kind in ("resid_pre", "attn.z"))
    rows = {row["name"]: row for rows in data(result.chart()) for row in rows if "normalized" in row}
    assert len(rows) == len(stream) + len(heads) == 12 + 32
    names = [result.name(cell) for cell in result.cells]
    expected = dict(zip(names, result.normalized.tolist(), strict=True))
    assert {name: row["normalized"] for name, row in rows.items()} == pytest.approx(expected, rel=1e-4, abs=1e-9)
    written = words(result, tmp_path)
    assert {"Residual stream before the layer", "Head outputs z", "0: as corrupted, 1: as clean"} <= set(written)
    assert any(word.startswith("·end/·war") for word in written)


def test_patching_at_positions_of_neurons_and_together(bundled, tmp_path):
    pair = "The Soviet Union and the free", "The Indian Union and the free"
    for direction, base in (("corrupt", 1), ("restore", 0)):
        each = cutaway.patching.run(bundled, *pair, "attn.z", direction=direction, together=False, layers=[0, 1])
        bars = holding(each.chart(), "effect")
        assert column(bars, "position") == list(range(6))
        half = max(abs(row["effect"]) for row in bars)
        for row in bars:
            here = each.table().query(f"position == {row['position']}")["normalized"] - base
            assert abs(row["effect"]) == pytest.approx(here.abs().max(), abs=1e-4)
        assert holding(each.chart(), "half")[0]["half"] == pytest.approx(half, abs=1e-4)
    assert {"Largest effect of a head", "·Soviet/·Indian  1"} <= set(words(each, tmp_path))
    neurons = cutaway.patching.run(bundled, *pair, "mlp.post", direction="corrupt", neurons=50)
    shown = holding(neurons.chart(), "effect")
    effects = sorted((neurons.normalized - 1).abs().tolist(), reverse=True)
    assert [abs(row["effect"]) for row in shown] == pytest.approx(effects[:40], abs=1e-4)
    assert "Single neurons (40 of 50, the largest)" in words(neurons, tmp_path)
    at_once = cutaway.patching.run(bundled, *pair, ["attn_out", "mlp_out"], together=True)
    written = words(at_once, tmp_path)
    assert {
        "All the chosen positions at once",
        *(f"{v:.2f}".replace("-", "\u2212") for v in at_once.normalized),
    } <= set(written)


def test_only_positions_that_were_patched_can_be_chosen(bundled):
    pair = "The Soviet Union and the free", "The Indian Union and the free"
    for positions, bound in (([1, 5], {"options": [1, 5]}), ([3, 4, 5], {"min": 3, "max": 5})):
        some = cutaway.patching.run(bundled, *pair, "attn.z", together=False, positions=positions)
        [position] = some.chart().to_dict()["params"]
        assert position["bind"].items() >= bound.items()
        assert position["value"] in positions


def test_what_is_one_is_said_as_one(bundled):
    pair = "The Soviet Union and the free", "The Indian Union and the free"
    one = cutaway.patching.run(bundled, *pair, "mlp_out", layers=[0], positions=[5])
    assert "; 1 cell, the largest" in one.summary()
    assert "both tokens are shown" in one.caption()
    assert "both tokens are shown" not in cutaway.patching.run(bundled, *pair, "attn.z").caption()
    assert "from 1 sender to" in cutaway.patching.path(bundled, *pair, "mlp 0").summary()
    drawn = cutaway.causal_trace.trace(bundled, "The people of the", "people", samples=1)
    assert "with one draw of the noise" in drawn.caption()
    assert "1 sample," in drawn.summary()


def test_patching_of_long_texts_shows_where_something_happens(bundled, tmp_path):
    text = "the war " * 40
    result = cutaway.patching.run(bundled, text + "Soviet", text + "peace", metric="kl", layers=[0, 3])
    shown = {row["position"] for row in holding(result.chart(), "normalized")}
    assert len(shown) == 60 < len(result.tokens)
    assert len(result.tokens) - 1 in shown
    assert any("60 of" in word for word in words(result, tmp_path))


def test_attribution_patching_beside_the_exact_numbers(bundled, tmp_path):
    result = all_results.make(bundled)["patching.attribution"]
    points = holding(result.chart(), "exact")
    assert column(points, "estimate") == pytest.approx(result.normalized.tolist(), rel=1e-4, abs=1e-9)
    assert column(points, "exact") == pytest.approx(result.exact_normalized.tolist(), rel=1e-4, abs=1e-9)
    assert any(word.startswith("Pearson") for word in words(result, tmp_path))
    alone = cutaway.patching.attribution(bundled, "The Soviet Union", "The Indian Union", metric="kl")
    assert not any("exact" in row for rows in data(alone.chart()) for row in rows)


def test_path_patching_has_mlps_as_a_column(bundled):
    result = all_results.make(bundled)["patching.path"]
    rows = holding(result.chart(), "normalized")
    assert [row["name"] for row in rows if row["head"] == "MLP"] == ["mlp 0", "mlp 1", "mlp 2", "mlp 3"]
    assert column(rows, "normalized") == pytest.approx(result.normalized.tolist(), rel=1e-4, abs=1e-9)


def test_what_a_notebook_set_in_altair_changes_no_file(bundled, tmp_path):
    result = all_results.make(bundled)["predictions.next_tokens"]
    for name in ("a.html", "a.svg"):
        result.save(tmp_path / name)
        with alt.theme.enable("dark"), alt.data_transformers.enable("vegafusion"):
            result.save(tmp_path / f"again-{name}")
            assert alt.theme.active == "dark"
            alt.data_transformers.enable("json")
            result.save(tmp_path / f"third-{name}")
        assert (tmp_path / name).read_text() == (tmp_path / f"again-{name}").read_text()
        assert (tmp_path / name).read_text() == (tmp_path / f"third-{name}").read_text()
