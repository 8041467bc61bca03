"""Norms against transformers' own hooks and plain numpy; what keeps them merges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from cutaway import norms
from cutaway.analyses.norms.sinks import SiteNorms, UpdateNorms, norm_sinks
from cutaway.errors import InputError, SiteError
from cutaway.surveys.sinks import Seen
from cutaway.surveys.survey import survey
from cutaway.text.batches import Batch, Row
from cutaway.text.tokens import Tokens

TEXT = "Fellow citizens of the Senate: the people of the United States are free and at peace."
LONG = "the state of the Union and of all its people " * 60  # more than one window


@pytest.fixture(scope="module")
def run(bundled):
    return bundled.run(TEXT, capture=["attn.result", "resid_pre", "resid_post"], logits=None)


@pytest.mark.parametrize("of", ["attn_out", "mlp_out"])
def test_norms_are_those_of_what_transformers_writes(bundled, hf, of):
    model, written = hf(), []
    parts = [block.attn if of == "attn_out" else block.mlp for block in model.transformer.h]
    pick = {"attn_out": lambda output: output[0], "mlp_out": lambda output: output}[of]
    hooks = [part.register_forward_hook(lambda m, i, output: written.append(pick(output))) for part in parts]
    found = norms.measure(bundled, TEXT, of)
    with torch.no_grad():
        model(torch.tensor([bundled.tokenizer.encode([TEXT])[0][0]]))
    for hook in hooks:
        hook.remove()
    expected = np.stack([np.linalg.norm(each[0].numpy(), axis=-1) for each in written])
    np.testing.assert_allclose(found.norms, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.values, np.log(found.norms))
    assert found.position.tolist() == list(range(expected.shape[1]))
    assert found.layers == [0, 1, 2, 3]


def test_heads_and_whole_blocks(bundled, run):
    heads = norms.measure(bundled, TEXT, "attn.result")
    expected = torch.linalg.vector_norm(run.stack("attn.result").double(), dim=-1)[:, 0]  # layer pos head
    np.testing.assert_allclose(heads.norms, expected.transpose(1, 2).flatten(0, 1), rtol=1e-12)
    assert (heads.layers[8], heads.heads[8], heads.heads[9]) == (1, 0, 1)
    whole = norms.measure(bundled, TEXT, "blocks.{1,-1}.resid_update")
    added = (run.stack("resid_post") - run.stack("resid_pre")).double()
    np.testing.assert_allclose(whole.norms, torch.linalg.vector_norm(added, dim=-1)[[1, 3], 0], rtol=1e-5)
    assert whole.layers == [1, 3]


def test_edits_are_seen(bundled):
    with bundled.edited({"blocks.2.attn_out": 0.5}):
        found = norms.measure(bundled, TEXT)
    np.testing.assert_allclose(found.norms[2], 0.5 * bundled.config.d_model**0.5)


def test_tables_of_heads_name_each_head(bundled):
    """As everything that takes a component reads it: the norm of an edited head is the edit's."""
    with bundled.edited({"head 2.5": 0.0}):
        found = norms.measure(bundled, TEXT, "attn.result", log=False)
    for table, column in ((found.table(), "norm"), (found.by_layer(), "mean")):
        assert list(table)[-1] == "component"
        assert set(table.loc[table[column] == 0, "component"]) == {"head 2.5"}
        assert table.groupby(["layer", "head"])["component"].nunique().eq(1).all()
        assert table["component"].nunique() == 32
    regressed = norms.regress(bundled, TEXT, "attn.result")
    for table in (regressed.table(), regressed.orders()):
        assert (table["component"] == "head " + table["layer"].astype(str) + "." + table["head"].astype(str)).all()
    assert "component" not in norms.measure(bundled, TEXT).table()


def test_documents_and_windows_are_told_apart(bundled):
    found = norms.measure(bundled, {"short": TEXT, "long": LONG, "one": "The"})
    assert found.documents == ["short", "long", "one"]
    ids = {name: bundled.tokenizer.encode([text])[0][0] for name, text in [("short", TEXT), ("long", LONG)]}
    context = bundled.config.n_ctx
    assert len(ids["long"]) > context
    alone = norms.measure(bundled, torch.tensor([ids["long"][context:]]))
    second = (found.document == 1) & (found.window == 1)
    np.testing.assert_array_equal(found.position[second], np.arange(len(ids["long"]) - context))
    np.testing.assert_allclose(found.norms[:, second], alone.norms, rtol=1e-5)
    np.testing.assert_allclose(found.norms[:, found.document == 0], norms.measure(bundled, TEXT).norms, rtol=1e-5)
    table = found.table()
    assert len(table) == 4 * (sum(map(len, ids.values())) + 1)
    row = table[(table["document"] == "long") & (table["window"] == 1) & (table["layer"] == 2)].iloc[5]
    assert row["norm"] == found.norms[2, np.flatnonzero(second)[5]]
    assert row["log_norm"] == np.log(row["norm"])
    assert row["position"] == 5


def test_a_bos_is_position_0(bundled):
    with_bos, without = norms.measure(bundled, TEXT, bos=True), norms.measure(bundled, TEXT)
    assert with_bos.norms.shape[1] == without.norms.shape[1] + 1
    assert with_bos.position[:2].tolist() == [0, 1]


def test_numbers_in_summaries_are_plain(bundled):
    found = norms.measure(bundled, TEXT, log=False)
    later = found.norms[1, 1:]
    [row] = found.by_layer().iloc[[1]].to_dict("records")
    assert row["mean"] == pytest.approx(later.mean())
    assert row["sd"] == pytest.approx(later.std(ddof=1))
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(later, [5, 95])))
    assert f"{later.mean():.3f}" in found.summary()


def test_what_is_not_finite_is_counted(bundled):
    with bundled.edited({"blocks.1.attn.z": 0.0}):
        found = norms.measure(bundled, TEXT, "attn.result")
    n = int((found.position > 0).sum())
    assert found.by_layer()["not_finite"].tolist() == [n if layer == 1 else 0 for layer in found.layers]
    assert f"{8 * n:,} values are not finite" in found.caption()
    assert f"{8 * n:,} are not finite" in found.summary()
    assert found.to_dict()["data"][8 * found.norms.shape[1]]["log_norm"] is None


@pytest.mark.parametrize(
    ("text", "of", "error", "message"),
    [
        (TEXT, "attn.pattern", InputError, r"'attn.pattern' is B H P P: norms are of a vector"),
        (TEXT, "ln1.scale", InputError, "'ln1.scale' is B P 1"),
        (TEXT, "embed", InputError, "'embed' is B P D: norms are of a vector at each position of each layer"),
        (TEXT, "blocks.*.*_out", InputError, r"names 2 kinds of sites \(attn_out, mlp_out"),
        (TEXT, "attention", SiteError, "no site matches 'attention'"),
        ("blocks.9.resid_update", "blocks.9.resid_update", SiteError, "no site matches 'blocks.9.resid_post'"),
        (" ", "attn_out", InputError, "the text is empty"),
        ([], "attn_out", InputError, "holds no text"),
    ],
)
def test_mistakes_are_named(bundled, text, of, error, message):
    with pytest.raises(error, match=message):
        norms.measure(bundled, text, of)


@pytest.mark.parametrize("array", [np.ones(5), np.ones((2, 2, 2, 2)), {"a": np.ones((2, 5)), "b": np.ones((3, 5))}, {}])
def test_series_of_other_shapes_are_refused(array):
    with pytest.raises(InputError, match=r"arrays \[layer, pos\] or \[layer, head, pos\]"):
        norms.series(array)


def test_the_call_makes_it_again(bundled):
    found = norms.measure(bundled, TEXT, "mlp_out", log=False).regress(1)
    lines = found.meta["call"].splitlines()
    names = {"cutaway": cutaway}
    exec(lines[0], names)
    again = eval(lines[1], names)
    np.testing.assert_array_equal(again.beta, found.beta)
    direct = norms.regress(bundled, TEXT, "mlp_out", 1, log=False)
    np.testing.assert_array_equal(direct.beta, found.beta)
    assert direct.meta["call"] == found.meta["call"]


# --- sinks ---


def seen(rows, width=9):
    """A batch of rows [(document, offset, length)], whose values are vectors [1, ... per token] of known norms."""
    made = [Row(f"d{n}", offset, np.zeros(length, dtype=np.int32), n) for n, offset, length in rows]
    batch = Batch(made, Tokens.from_lists([[0] * length for *_, length in rows]), 0, 0)
    mask = torch.tensor([[i < length for i in range(width)] for *_, length in rows])
    values = torch.tensor([[[3.0 * n, 4.0 * offset + i] for i in range(width)] for n, offset, _ in rows])
    return Seen(None, batch, None, mask, None, mask, None), values


PLACES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(1, 9)),
    unique_by=lambda place: place[:2],
    min_size=1,
    max_size=8,
)


@given(PLACES, st.integers(0, 8), st.booleans())
@settings(max_examples=30, deadline=None)
def test_parts_merge_to_the_whole_and_states_come_back(places, cut, swapped):
    def taken(rows):
        sink = SiteNorms("blocks.0.attn_out")
        for row in rows:
            batch, values = seen([row])
            sink.take(values, batch)
        return sink

    whole, parts = taken(places), [taken(places[:cut]), taken(places[cut:])]
    one, other = parts[::-1] if swapped else parts
    back = one.empty()
    back.load_state(one.state())
    back.merge(other)
    assert back.windows.keys() == whole.windows.keys()
    for window, expected in whole.windows.items():
        np.testing.assert_array_equal(back.windows[window], expected)
        places_of = [(3.0 * window.number) ** 2 + (4.0 * window.offset + i) ** 2 for i in range(len(expected))]
        np.testing.assert_allclose(expected, np.sqrt(places_of))


def test_sinks_of_other_places_do_not_merge():
    for one, other in [
        (SiteNorms("a"), SiteNorms("b")),
        (UpdateNorms(1), UpdateNorms(2)),
        (SiteNorms("a"), UpdateNorms(1)),
    ]:
        with pytest.raises(InputError, match="the site must be the same"):
            one.merge(other)


@pytest.mark.parametrize("of", ["attn_out", "resid_update", "attn.result"])
def test_a_survey_of_two_halves_is_that_of_the_whole(bundled, of):
    texts = {"a": TEXT, "b": LONG, "c": "We meet to-day, as the law requires.", "d": "The"}
    whole = survey(bundled, texts, norm_sinks(bundled, of))
    halves = [survey(bundled, {k: texts[k]}, norm_sinks(bundled, of)) for k in texts]
    for name in whole:
        merged = whole[name].empty()
        for number, half in enumerate(halves):
            part = {w._replace(number=number): a for w, a in half[name].windows.items()}
            half[name].windows = part
            merged.merge(half[name])
        assert merged.windows.keys() == whole[name].windows.keys()
        for window, expected in whole[name].windows.items():
            np.testing.assert_allclose(merged.windows[window], expected, rtol=2e-5)
        again = merged.empty()
        again.load_state(merged.state())
        assert again.windows.keys() == merged.windows.keys()
