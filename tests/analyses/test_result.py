"""What every result can do: data, files, the call that made it."""

import dataclasses
import json
import math
import re
from html import unescape

import pandas as pd
import pytest
import torch

import cutaway
from cutaway.errors import OutputError
from cutaway.pages import page
from cutaway.results.call import LONGEST
from cutaway.results.saving import plain
from cutaway.text.tokens import Tokens
from tests import results as all_results

pytestmark = pytest.mark.slow

DATA = [".json", ".csv", ".parquet"]
MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<svg", ".html": b"<!doctype html>"}


@pytest.fixture(params=all_results.NAMES)
def result(request, bundled):
    return all_results.make(bundled)[request.param]


def test_all_are_named(bundled):
    assert list(all_results.make(bundled)) == all_results.NAMES


def test_frozen(result):
    field = dataclasses.fields(result)[1].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, field, None)


def same(found, expected):
    """Equal tables, up to what a file cannot tell: None and NaN, int and Int64."""
    assert list(found.columns) == list(expected.columns)
    for column in expected:
        for a, b in zip(found[column], expected[column], strict=True):
            assert (pd.isna(a) and pd.isna(b)) or a == b, (column, a, b)


def test_to_dict_is_json_of_the_table(result):
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(data) == ["analysis", "version", "meta", "data"]
    assert data["analysis"] == result.analysis
    assert data["version"] == 1
    assert list(data["meta"]) == ["model", "input", "parameters", "edits", "versions", "call"]
    same(pd.DataFrame(data["data"], columns=result.table().columns), result.table())


@pytest.mark.parametrize("ending", DATA)
def test_saved_data_reads_back_equal(result, ending, tmp_path):
    path = tmp_path / f"new folder/result{ending.upper() if ending == '.csv' else ending}"
    result.save(path)
    if ending == ".json":
        assert json.loads(path.read_text(encoding="utf-8")) == result.to_dict()
    elif ending == ".csv":
        same(pd.read_csv(path, keep_default_na=False, na_values={c: [""] for c in NUMBERS}), fill(result.table()))
    else:
        same(pd.read_parquet(path), result.table())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


NUMBERS = [
    *["next_id", "next_probability", "next_rank", "loss", "rank", "kl", "asked", "layer", "index"],
    *["mean", "low", "high", "position", "head", "neuron"],
]


def fill(table):
    """What an empty cell reads as: a string, but in the columns of numbers."""
    return table.assign(**{c: table[c].astype(object).fillna("") for c in table if c not in NUMBERS})


@pytest.mark.parametrize("ending", MAGIC)
@pytest.mark.parametrize("name", ["predictions.along", "patching.run"])
def test_saved_charts_are_of_their_kind(bundled, name, ending, tmp_path):
    """Of two results, as all are saved in one way: tests/charts draws every chart, tests/test_page every page."""
    path = tmp_path / f"chart{ending}"
    all_results.make(bundled)[name].save(path)
    assert path.read_bytes().startswith(MAGIC[ending])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_not_a_number_is_null(bundled, tmp_path):
    with bundled.edited({"ln_final.out": float("nan")}):
        result = cutaway.predictions.along(bundled, "The people")
    assert result.table()["probability"].isna().all()
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))["data"][0]
    assert record["probability"] is None
    assert record["loss"] is None
    for ending in (".html", ".png", ".json", ".csv", ".parquet"):
        result.save(tmp_path / f"result{ending}")
    assert re.search(r"\bNaN\b", page.page("t", [page.figure(result)]).split('id="data"')[1]) is None


def test_plain_data_of_every_kind():
    import numpy as np

    given = {
        1: (np.int64(2), np.float32(0.5), np.bool_(True)),
        "none": [None, float("nan"), -math.inf, pd.NA, np.float64("nan")],
        "text": np.str_("a"),
        "path": {"deep": [pd.Timestamp(0)]},
    }
    assert plain(given) == {
        "1": [2, 0.5, True],
        "none": [None] * 5,
        "text": "a",
        "path": {"deep": ["1970-01-01 00:00:00"]},
    }


def mistakes(folder):
    (folder / "file").write_text("kept")
    (folder / "sub.json").mkdir()
    return {
        "result.pdf": r"result\.pdf ends in '\.pdf': one of \.html .* was expected",
        "result": "has no ending: one of",
        "sub.json": r"sub\.json is a folder: the path of a file was expected",
        "file/result.json": r"file/result\.json cannot be written: a part of its path is a file",
        "file/below/result.png": r"result\.png cannot be written: a part of its path is a file",
    }


@pytest.mark.parametrize("path", ["result.pdf", "result", "sub.json", "file/result.json", "file/below/result.png"])
def test_a_place_that_cannot_be_written_is_named(bundled, tmp_path, path):
    message = mistakes(tmp_path)[path]
    with pytest.raises(OutputError, match=message):
        all_results.make(bundled)["anatomy.read"].save(tmp_path / path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "sub.json"]
    assert (tmp_path / "file").read_text() == "kept"


def rerun(call):
    """The table that a call makes: its lines are run as they stand, the last one's value kept."""
    *setup, last = call.splitlines()
    indent = re.match(" *", last)[0]
    scope = {"cutaway": cutaway, "torch": torch, "Tokens": Tokens}
    exec("\n".join([*setup, f"{indent}result = {last.strip()}"]), scope)
    return scope["result"]


def test_the_call_makes_the_same_again(result):
    again = rerun(result.meta["call"])
    pd.testing.assert_frame_equal(again.table(), result.table(), rtol=1e-5)
    assert again.meta == result.meta
    assert again.summary() == result.summary()


@pytest.mark.parametrize(
    "make",
    [
        lambda m: cutaway.predictions.next_tokens(m, ["a", "The people"], top=3, bos=True),
        lambda m: cutaway.predictions.next_tokens(m, m.tokenizer.tokens("The people of the United").first(3)),
        lambda m: cutaway.predictions.along(m, '"It\'s" a\\b\n', bos=True),
        lambda m: cutaway.predictions.losses(m, ["The people", "of the United"], bos=True),
        lambda m: cutaway.anatomy.tokens(m, m.tokenizer.tokens("The people of").first(2)),
    ],
)
def test_the_call_carries_parameters_dtype_and_edits(make):
    model = cutaway.load(device="cpu", dtype="float64")
    edits = {"blocks.0.attn_out": 0.5, "blocks.{1,2}.mlp_out": 0}
    with model.edited(edits), model.edited({"blocks.0.attn_out": 0.25}):
        result = make(model)
    assert result.meta["edits"] == [
        {"blocks.0.attn_out": "0.5", "blocks.{1,2}.mlp_out": "0"},
        {"blocks.0.attn_out": "0.25"},
    ]
    again = rerun(result.meta["call"])
    assert again.meta == result.meta
    pd.testing.assert_frame_equal(again.table(), result.table(), rtol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda m, x: cutaway.attention.read(m, x, repeats=1),
        lambda m, x: cutaway.attribution.direct(m, x),
        lambda m, x: cutaway.attribution.gradient(m, x),
        lambda m, x: cutaway.attribution.integrated(m, x, steps=2),
        lambda m, x: cutaway.logit_lens.read(m, x),
        lambda m, x: cutaway.ablation.run(m, x, "mlps", "zero"),
    ],
)
def test_the_call_of_ids_reads_the_very_same_ids(bundled, make):
    """Ids that no text is cut into; tokens of less than their whole text, or with one in front."""
    drawn = torch.randint(0, 8192, (1, 9), generator=torch.Generator().manual_seed(3))
    inputs = bundled.tokens("The people of the United States", bos=True), bundled.tokens("the café 東京").first(4)
    for given in (drawn, *inputs):
        result = make(bundled, given)
        again = rerun(result.meta["call"])
        pd.testing.assert_frame_equal(again.table(), result.table(), rtol=1e-5)
        assert again.meta == result.meta


def test_the_call_of_several_texts_in_ids(bundled):
    several = Tokens.from_lists([[5, 99, 3000], [7]], tokenizer=bundled.tokenizer)
    for make in (cutaway.logit_lens.read, cutaway.ablation.run):
        result = make(bundled, several)
        assert "Tokens.from_lists([[5, 99, 3000], [7]])" in result.meta["call"]
        pd.testing.assert_frame_equal(rerun(result.meta["call"]).table(), result.table(), rtol=1e-5)
    long = torch.full((1, 400), 99)
    assert "\nids = ...  # token ids [batch, pos]\n" in cutaway.logit_lens.read(bundled, long).meta["call"]
    texts = ["The people", "of the United"]
    assert cutaway.logit_lens.read(bundled, bundled.tokens(texts)).meta["input"] == texts


def test_what_a_call_cannot_hold_is_left_open(bundled, documents):
    def halve(value, ctx):
        return value / 2

    texts = dict(list(documents.items())[:2])
    texts = {name: text[:LONGEST] for name, text in texts.items()}
    with bundled.edited({"embed": halve}):
        call = cutaway.predictions.losses(bundled, texts).meta["call"]
    assert call.splitlines() == [
        "model = cutaway.load()",
        f"texts = ...  # 2 texts of {2 * LONGEST:,} characters in all",
        "with model.edited({'embed': ...}):",
        "    cutaway.predictions.losses(model, texts)",
    ]
    with pytest.raises(cutaway.errors.EditError, match="embed"):
        rerun(call)


def test_in_a_notebook_it_is_text_and_a_page_in_a_frame(result):
    bundle = result._repr_mimebundle_()
    assert bundle["text/plain"] == repr(result) == result.summary()
    html = bundle["text/html"]
    assert html.startswith("<iframe srcdoc=")
    document = unescape(html.split('"')[1])  # all of it stands in one attribute
    assert document.startswith("<!doctype html>")
    assert document.rstrip().endswith("</html>")
    assert html.count("<") == 2  # the frame alone: its document is escaped
    assert html.count(">") == 2


def test_every_result_has_a_caption_and_facts(result):
    assert len(result.caption()) > 40
    assert result.caption().endswith(".")
    assert all(isinstance(text, str) for fact in result.facts() for text in fact)
