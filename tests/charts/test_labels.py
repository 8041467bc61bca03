"""No label is data: tokens, names and metrics that are a chart's own words, or each other's, do no harm."""

import dataclasses
from xml.etree import ElementTree

import pytest
import torch

import cutaway
from tests.charts.test_charts import data, find, holding

WORDS = " all all mean total null MLP start"  # what charts say of themselves; "all" twice
OTHER = " all all mean war null MLP start"


@pytest.fixture(scope="module")
def ids(bundled):
    """The two texts as ids, of as many tokens."""
    both = [bundled.tokenizer.encode([text])[0][0] for text in (WORDS, OTHER)]
    assert len(both[0]) == len(both[1])
    return both


def positions_drawn(chart):
    return {(row["position"], row["layer"]) for row in holding(chart, "position")}


def test_a_token_that_reads_all_is_a_token(bundled, ids):
    assert "\u00b7all" in [bundled.tokenizer.display(i) for i in ids[0]]
    found = cutaway.patching.run(bundled, WORDS, OTHER, "resid_pre", "kl")
    every = ["all"] * len(found.display)
    shown = dataclasses.replace(found, display=every, tokens=every, corrupted_display=every, corrupted_tokens=every)
    for result in (found, shown):
        chart = result.chart()
        assert {y["field"] for y in find(chart.to_dict(), "y") if "field" in y} == {"position"}
        n = len(ids[0])
        assert positions_drawn(chart) == {(p, layer) for p in range(n) for layer in range(4)}
    neurons = cutaway.patching.run(bundled, WORDS, OTHER, "mlp.post", "kl", neurons=4, together=False)
    rows = holding(neurons.chart(), "label")
    assert [row["k"] for row in rows] == list(range(len(rows)))
    assert all(" at " in row["label"] for row in rows)
    together = cutaway.patching.run(bundled, WORDS, OTHER, "resid_pre", "kl", together=True).chart()
    assert {y["field"] for y in find(together.to_dict(), "y") if "field" in y} == {"kind"}


def test_targets_that_read_alike_are_two_lines(bundled, tmp_path, monkeypatch):
    alike = cutaway.logit_lens.read(bundled, WORDS, targets=[" the", " of"])
    monkeypatch.setattr(type(alike), "display_targets", ["null", "null"])
    rows = holding(alike.chart(), "target")
    assert {row["target"] for row in rows} == {0, 1}
    assert {row["token"] for row in rows} == {"null"}
    alike.save(tmp_path / "lens.svg")
    written = [node.text for node in ElementTree.parse(tmp_path / "lens.svg").getroot().iter() if node.text]
    assert written.count("null") >= 2  # in the legend


def test_documents_that_read_alike_are_two_dots(bundled):
    found = cutaway.predictions.losses(bundled, {"a": "The people of the United", "b": "The people"})
    alike = dataclasses.replace(found, documents=["mean", "mean"])
    rows = holding(alike.chart(), "document")
    assert [row["k"] for row in rows] == [0, 1]
    assert rows[0]["loss"] < rows[1]["loss"]


@pytest.mark.parametrize("name", ["layer", "head", "name", "value", "a b:N"])
def test_a_metric_may_be_called_like_a_field(bundled, tmp_path, name):
    def metric(log_p, places):
        return torch.ones(len(log_p))

    metric.__name__ = name
    found = cutaway.ablation.run(bundled, WORDS, ["heads", "mlps"], metric=metric)
    drawn = {(row["layer"], row["head"]) for row in cells(found.chart()) if row["head"] is not None}
    assert drawn == {(layer, head) for layer in range(4) for head in range(8)}
    found.save(tmp_path / "chart.svg")  # Vega reads every field


def cells(chart):
    return [row for rows in data(chart) if "m1" in rows[0] for row in rows]
