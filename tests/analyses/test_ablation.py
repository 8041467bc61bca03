"""Ablations against transformers with hooks, one component and one text at a time, and of heads written by hand."""

import contextlib
import functools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cutaway
from cutaway import ablation
from cutaway.analyses.ablation.metrics import BatchMetrics
from cutaway.analyses.ablation.replacements import Pool, SiteMean
from cutaway.errors import InputError, Interrupted, SiteError
from cutaway.model.architectures import gpt2
from cutaway.surveys.survey import feed
from cutaway.text.batches import Row, batches
from cutaway.text.corpus import open_corpus
from cutaway.text.tokens import Tokens
from tests import induction
from tests.model.reference import ODD, padded, random_gpt2

L, H, K = ODD["n_layer"], ODD["n_head"], ODD["n_embd"] // ODD["n_head"]
LENGTHS = [17, 9, 23, 2]
IDS, MASK = padded(LENGTHS, ODD["vocab_size"], seed=5)
TEXTS = Tokens(IDS, MASK)
SITES = ("embed", "blocks.1.ln1.out", "mlp.post", "blocks.{0,-1}.attn_out", "ln_final.normalized")
EVERYTHING = ("heads", "mlps", "layers", *SITES)


@pytest.fixture(scope="module")
def theirs():
    return random_gpt2(**ODD).double()


@pytest.fixture(scope="module")
def ours(theirs):
    return cutaway.load(theirs, device="cpu", dtype="float64")


def modules(model, cell):
    """Return a cell's modules, each with whether its input (not its output) is the cell's value."""
    body = model.transformer
    block = None if cell.layer is None else body.h[cell.layer]
    kind = cell.sites[0].split(".", 2)[-1] if cell.kind == "site" else cell.kind
    return {
        "head": lambda: [(block.attn.c_proj, True)],
        "mlp": lambda: [(block.mlp, False)],
        "layer": lambda: [(block.attn, False), (block.mlp, False)],
        "embed": lambda: [(body.wte, False)],
        "ln1.out": lambda: [(block.ln_1, False)],
        "mlp.post": lambda: [(block.mlp.act, False)],
        "attn_out": lambda: [(block.attn, False)],
    }[kind]()


@contextlib.contextmanager
def hooked(model, cell, change):
    """Put `change(value, i)` in place of the value of the cell's i-th module, inside the `with`."""

    def before(i):
        return lambda _, inputs: (change(inputs[0], i), *inputs[1:])

    def after(i):
        def hook(_, __, output):
            return (change(output[0], i), *output[1:]) if isinstance(output, tuple) else change(output, i)

        return hook

    handles = [
        module.register_forward_pre_hook(before(i)) if is_input else module.register_forward_hook(after(i))
        for i, (module, is_input) in enumerate(modules(model, cell))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def predict(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


def seen(model, cell, ids):
    """Return the values of the cell's modules on one text: [pos, ...] each."""
    found = {}
    with hooked(model, cell, lambda value, i: found.update({i: value[0].clone()}) or value):
        predict(model, ids)
    return [found[i] for i in sorted(found)]


def by_hooks(model, cell, rows, replacement):
    """Return sums of loss, KL, accuracy and rank over each text, less the whole model's: [text, 4].

    `replacement(row, i)` is [pos, ...] or a number, for the cell's i-th module.
    """
    total = np.zeros((len(rows), 4))
    for k, ids in enumerate(rows):

        def change(value, i, k=k):
            new = value.clone()
            part = slice(None) if cell.head is None else slice(cell.head * K, (cell.head + 1) * K)
            other = replacement(k, i)
            new[..., part] = other if isinstance(other, float) else other[..., part]
            return new

        whole = predict(model, ids)
        with hooked(model, cell, change):
            found = predict(model, ids)
        came, n = torch.tensor(ids[1:]), len(ids) - 1
        for sign, log_p in ((1, found[:-1]), (-1, whole[:-1])):
            score = log_p[range(n), came]
            rank = 1 + (log_p > score[:, None]).sum(-1)
            kl = (whole[:-1].exp() * (whole[:-1] - log_p)).sum(-1)
            total[k] += sign * np.array([-score.sum(), kl.sum(), (rank == 1).sum(), rank.sum()])
    return total


def expected(model, cell, how, seed=0):
    """Return by_hooks with means and donors' values taken from transformers, too."""
    rows = TEXTS.rows()
    if how == "zero":
        return by_hooks(model, cell, rows, lambda k, i: 0.0)
    values = [seen(model, cell, ids) for ids in rows]
    if how == "mean":
        first = [torch.stack([v[i][0] for v in values]).mean(0) for i in range(len(values[0]))]
        later = [torch.cat([v[i][1:] for v in values]).mean(0) for i in range(len(values[0]))]
        return by_hooks(model, cell, rows, lambda k, i: torch.stack([first[i]] + [later[i]] * (len(rows[k]) - 1)))
    windows = [Row(f"text {i + 1}", 0, np.array(ids), i) for i, ids in enumerate(rows)]
    donors = [Pool(iter(windows), seed).donor(window) for window in windows]
    lent = [seen(model, cell, donor.ids) for donor in donors]
    return by_hooks(model, cell, rows, lambda k, i: lent[k][i][donors[k].positions])


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_ablations_are_those_of_a_plain_loop_with_hooks(ours, theirs, how):
    components = [name for name in EVERYTHING if name != "ln_final.normalized"]
    found = ablation.run(ours, TEXTS, components, how, ["kl", "accuracy", "rank"], seed=3)
    assert len(found.cells) == L * H + L + L + 1 + 1 + L + 2
    n = sum(LENGTHS) - len(LENGTHS)
    assert (found.predicted, found.documents) == (n, 4)
    for cell, change in zip(found.cells, found.change, strict=True):
        by_document = expected(theirs, cell, how, seed=3)
        np.testing.assert_allclose(change, by_document.sum(0) / n, rtol=1e-9, atol=1e-11, err_msg=cell.name)
    whole = [predict(theirs, ids) for ids in TEXTS.rows()]
    losses = [-p[i, t] for p, ids in zip(whole, TEXTS.rows(), strict=True) for i, t in enumerate(ids[1:])]
    assert found.whole[0].item() == pytest.approx(np.mean(losses), rel=1e-12)


def test_on_real_text_with_means_of_a_reference(bundled64, hf):
    texts, reference = (
        {"a": "The people of the United States are free.", "b": "We ask the Congress to act."},
        [
            "The war in Cuba has come to an end.",
            "I have the honor to report.",
        ],
    )
    found = ablation.run(bundled64, texts, "heads", "mean", reference=reference)
    model, tokenizer = hf(torch.float64), bundled64.tokenizer
    rows, others = (tokenizer.encode(list(each))[0] for each in (texts.values(), reference))
    for i in (3, 21):
        cell, size = found.cells[i], bundled64.config.d_head
        values = [seen(model, cell, list(ids))[0] for ids in others]
        means = torch.stack([v[0] for v in values]).mean(0), torch.cat([v[1:] for v in values]).mean(0)
        part, change, n = slice(cell.head * size, (cell.head + 1) * size), 0.0, 0
        for ids in map(list, rows):

            def replace(value, _, part=part, means=means):
                new = value.clone()
                new[:, 0, part], new[:, 1:, part] = means[0][part], means[1][part]
                return new

            came = torch.tensor(ids[1:])[:, None]
            before = predict(model, ids)[:-1].gather(1, came).sum()
            with hooked(model, cell, replace):
                change += (before - predict(model, ids)[:-1].gather(1, came).sum()).item()
            n += len(came)
        assert found.change[i, 0].item() == pytest.approx(change / n, rel=1e-9)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_edits_in_force_hold_in_the_ablated_runs(ours, how):
    edits = {"blocks.1.attn_out": lambda value, _: value * 0.5, "blocks.2.resid_pre": lambda value, _: value + 1}
    found_short = ablation.run(ours, TEXTS, ("heads", "mlps", "layers"), how)
    with ours.edited(edits):
        found = ablation.run(ours, TEXTS, ("heads", "mlps", "layers"), how)
        if how == "zero":
            whole = ours.run(TEXTS).logits
            ablated = ours.run(TEXTS, edits={"blocks.1.mlp_out": 0.0}).logits
            counted = MASK[:, 1:].bool()
            losses = [
                -x.log_softmax(-1)[:, :-1].gather(-1, IDS[:, 1:, None])[..., 0][counted].mean()
                for x in (ablated, whole)
            ]
            assert found.of("mlps")[1].item() == pytest.approx((losses[0] - losses[1]).item(), rel=1e-9)
    assert (found.change - found_short.change).abs().max() > 0.01
    with ours.edited({"blocks.1.attn_out": lambda value, _: value}):  # which changes nothing: only the way is another
        long = ablation.run(ours, TEXTS, ("heads", "mlps", "layers"), how)
    torch.testing.assert_close(long.change, found_short.change, rtol=1e-9, atol=1e-11)
    assert long.token_layers > found_short.token_layers


@functools.cache
def at_once(model, how):
    return ablation.run(model, TEXTS, EVERYTHING, how, "kl")


@pytest.mark.slow
@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    budget=st.integers(1, 1 << 22), how=st.sampled_from(["zero", "mean", "resample"]), order=st.permutations(range(4))
)
def test_neither_batches_nor_the_budget_nor_the_order_matter(ours, budget, how, order):
    texts = {f"text {i + 1}": TEXTS.rows()[i] for i in order}
    found = ablation.run(ours, texts, EVERYTHING, how, "kl", budget=budget)
    whole = at_once(ours, how)
    torch.testing.assert_close(found.change, whole.change, rtol=1e-9, atol=1e-11)
    assert found.budget == budget


def test_logits_never_exceed_the_budget(ours, monkeypatch):
    sizes, plain = [], gpt2.unembed
    monkeypatch.setattr(gpt2, "unembed", lambda w, x: sizes.append(x[..., 0].numel() * 101 * 8) or plain(w, x))
    wide = ablation.run(ours, TEXTS, "heads", budget=1 << 24)
    most = max(sizes)
    sizes.clear()
    narrow = ablation.run(ours, TEXTS, "heads", budget=40_000)
    assert max(sizes) <= 20_000 < most
    assert narrow.at_once < wide.at_once == H
    torch.testing.assert_close(narrow.change, wide.change, rtol=1e-9, atol=1e-11)


def test_what_was_computed_is_counted(ours):
    n = sum(LENGTHS)
    heads = ablation.run(ours, TEXTS, "heads", "zero")
    assert heads.plain_token_layers == n * (L + L * H * L)
    assert heads.token_layers == n * (L + H * (3 + 2 + 1))
    mlps = ablation.run(ours, TEXTS, ("mlps", "layers"), "zero")
    assert mlps.token_layers == n * (L + 2 * (2 + 1 + 0))
    assert ablation.run(ours, TEXTS, "ln_final.out", "resample").token_layers == n * (L + L)


# --- what it finds ---


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_of_heads_written_by_hand_those_that_do_induction_are_found(how):
    found = ablation.run(induction.model(), induction.repetitions(24), "heads", how)
    heads = found.of("heads")
    for at in ((0, 0), (1, 1)):
        assert heads[at] > 1
        assert found.low[at[0] * 2 + at[1], 0] > 1
    for at in ((0, 1), (1, 0)):
        assert abs(heads[at]) < 0.01
    assert {cell.name for cell, _ in found.largest(2)} == {"head 0.0", "head 1.1"}


def test_intervals_resample_whole_documents(ours, theirs):
    found = ablation.run(ours, TEXTS, "mlps", "zero", resamples=4000)
    by_document = expected(theirs, found.cells[1], "zero")[:, 0]
    counts = np.array(LENGTHS) - 1
    draws = np.random.default_rng(0).integers(4, size=(20000, 4))
    plain = np.percentile(by_document[draws].sum(1) / counts[draws].sum(1), [2.5, 97.5])
    np.testing.assert_allclose([found.low[1, 0], found.high[1, 0]], plain, atol=0.05 * (plain[1] - plain[0]))
    one = ablation.run(ours, IDS[:1, :17], "mlps", "zero")
    assert one.low.isnan().all()
    assert "no interval" in one.summary()


def test_a_metric_of_ones_own(bundled64):
    states, nations = (bundled64.tokenizer.single(word) for word in (" States", " Nations"))
    texts = ["The people of the United", "The war with the United"]
    given = []

    def difference(log_p, places):
        given.append(places)
        return (log_p[:, states] - log_p[:, nations]).where(places.last, torch.nan)

    found = ablation.run(bundled64, texts, ("heads", "mlps"), "zero", ["kl", difference])
    assert found.metrics == ["loss", "kl", "difference"]
    for cell, change in [(found.cells[9], found.change[9]), (found.cells[-1], found.change[-1])]:
        sums = []
        for edits in (
            None,
            {
                cell.sites[0]: lambda v, _, h=cell.head: (
                    v * 0 if h is None else torch.cat([v[:, :, :h], v[:, :, h : h + 1] * 0, v[:, :, h + 1 :]], 2)
                )
            },
        ):
            logits = bundled64.run(texts, edits=edits, logits="last").logits[:, 0]
            sums.append((logits[:, states] - logits[:, nations]).mean())
        assert change[2].item() == pytest.approx((sums[1] - sums[0]).item(), rel=1e-9)
    assert set(given[0].document) == {"text 1", "text 2"}
    assert (given[0].next < 0).tolist() == given[0].last.tolist()
    assert "metric=['kl', difference]" in found.meta["call"]

    def wrong(log_p, places):
        return torch.zeros(2)

    with pytest.raises(InputError, match=r"metric 'wrong' returned \[2\]: a tensor \[\d+\]"):
        ablation.run(bundled64, texts, "mlps", metric=wrong)


def test_a_metric_may_write_into_what_it_is_given(bundled):
    """And changes neither its own numbers nor those of a metric after it."""

    def plainly(log_p, places):
        return (2 * log_p)[:, 5]

    def in_place(log_p, places):
        log_p *= 2
        return log_p[:, 5]

    text = "The people of the United States and the war"
    want, found = (
        ablation.run(bundled, text, "mlps", metric=[metric, "kl", "accuracy"]) for metric in (plainly, in_place)
    )
    torch.testing.assert_close(found.change, want.change, rtol=0, atol=0, equal_nan=True)


def test_table_layers_and_largest(bundled):
    found = ablation.run(
        bundled, ["The people of the United States", "We ask the Congress"], ("heads", "mlps"), metric="kl"
    )
    table = found.table()
    assert list(table)[:7] == ["component", "kind", "layer", "head", "loss_change", "low", "high"]
    assert list(table)[7:] == ["kl_change", "kl_low", "kl_high"]
    assert len(table) == 36
    layers = found.by_layer()
    heads = layers[layers["kind"] == "head"]
    np.testing.assert_allclose(heads["loss_change"], found.of("heads").mean(1))
    np.testing.assert_allclose(heads["largest_change"], found.of("heads").max(1).values)
    assert found.largest(1)[0][0].name == table.loc[table["loss_change"].abs().idxmax(), "component"]
    assert (table["kl_change"] >= 0).all()


# --- replacements ---


def rows_of(lengths, documents=None):
    """Windows of random ids: each of a document of its own, or of these, one after the other."""
    generator, ends, rows = np.random.default_rng(0), {}, []
    for i, n in enumerate(lengths):
        document = documents[i] if documents else f"d{i}"
        rows.append(Row(document, ends.get(document, 0), generator.integers(0, 50, n).astype(np.int32), i))
        ends[document] = ends.get(document, 0) + n
    return rows


def test_donors_are_other_documents_as_long_and_at_the_same_position():
    rows = rows_of([30, 40, 50, 20, 60, 1])
    pool = Pool(iter(rows), 0)
    for row in rows[:-1]:
        donor = pool.donor(row)
        [lender] = [other for other in rows if other.ids.tolist()[: len(donor.ids)] == donor.ids]
        assert lender is not row
        if len(row.ids) <= 50:
            assert len(donor.ids) == len(row.ids)
            assert donor.positions == list(range(len(row.ids)))
    long = pool.donor(rows[4])  # of 60: the longest other has 50
    assert long.positions == [*range(50), *range(1, 11)]
    again = Pool(iter(rows[::-1]), 0)
    assert [again.donor(row) for row in rows] == [pool.donor(row) for row in rows]
    other = Pool(iter(rows), 1)
    assert [other.donor(row) for row in rows] != [pool.donor(row) for row in rows]


def test_a_window_of_the_same_document_only_where_there_is_no_other():
    rows = rows_of([10, 10, 10], ["a", "a", "b"])
    pool = Pool(iter(rows), 0)
    assert pool.donor(rows[0]).ids == rows[2].ids.tolist()
    alone = Pool(iter(rows[:2]), 0)
    assert alone.donor(rows[0]).ids == rows[1].ids.tolist()
    with pytest.raises(InputError, match="give several documents, or a corpus as reference="):
        Pool(iter(rows[:1]), 0).donor(rows[0])


def test_donors_are_never_of_the_same_document_where_there_are_others():
    rows = rows_of([12] * 24, [f"d{i // 6}" for i in range(24)])
    pool, document_of = Pool(iter(rows), 0), {tuple(row.ids.tolist()): row.document for row in rows}
    lenders = [document_of[tuple(pool.donor(row).ids)] for row in rows]
    assert all(lender != row.document for lender, row in zip(lenders, rows, strict=True))
    assert len(set(lenders)) == 4


def test_a_pool_forgets_no_better_window(monkeypatch):
    monkeypatch.setattr("cutaway.analyses.ablation.replacements.POOL", 5)
    rows = rows_of([8] * 40)
    assert Pool(iter(rows), 0)._rows == Pool(iter(rows[::-1]), 0)._rows
    assert len(Pool(iter(rows), 0)._rows) == 5


def test_means_merge_and_come_back_from_their_state(bundled64):
    source = open_corpus(["The people of the United States", "We, the people, we.", "The war in Cuba", "a"])
    whole, left, right = (SiteMean("blocks.1.attn.z") for _ in range(3))
    for i, batch in enumerate(batches(source, bundled64.tokenizer, 8, 8)):
        feed(bundled64, batch, [whole])
        feed(bundled64, batch, [(left, right)[i % 2]])
    back = right.empty()
    back.load_state(right.state())
    left.merge(back)
    torch.testing.assert_close(left.result(), whole.result(), rtol=1e-12, atol=1e-15)
    assert whole.result().shape == (2, 8, 32)
    with pytest.raises(InputError, match="the site must be the same"):
        left.merge(SiteMean("blocks.2.attn.z"))


def test_an_iterator_is_read_twice_all_the_same(bundled):
    texts = ["The people of the United States", "We ask the Congress"]
    found = ablation.run(bundled, iter(texts), "mlps")
    torch.testing.assert_close(found.change, ablation.run(bundled, texts, "mlps").change)


# --- Ctrl-C ---


def interrupt_at(monkeypatch, call):
    calls, plain = [], BatchMetrics.sums

    def sums(self, states):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return plain(self, states)

    monkeypatch.setattr(BatchMetrics, "sums", sums)


def test_what_was_done_before_an_interruption_is_kept(ours, monkeypatch):
    whole = ablation.run(ours, TEXTS, "mlps", "zero", budget=1)  # a document a batch, the longest first
    interrupt_at(monkeypatch, 8)
    with pytest.raises(Interrupted, match="interrupted: 3 of 3 components, 40 tokens were done") as stopped:
        ablation.run(ours, TEXTS, "mlps", "zero", budget=1)
    assert stopped.value.result.documents == 2
    assert len(stopped.value.result.cells) == 3
    monkeypatch.undo()
    interrupt_at(monkeypatch, 3)
    with pytest.raises(Interrupted, match="2 of 3 components, 23 tokens") as stopped:
        ablation.run(ours, TEXTS, "mlps", "zero", budget=1)
    part = stopped.value.result
    assert [cell.name for cell in part.cells] == ["mlp 0", "mlp 1"]
    first = ablation.run(ours, Tokens(IDS[2:3], MASK[2:3]), "mlps", "zero")
    torch.testing.assert_close(part.change, first.change[:2])
    assert whole.documents == 4
    monkeypatch.undo()
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt) as plainly:
        ablation.run(ours, TEXTS, "mlps", "zero", budget=1)
    assert not isinstance(plainly.value, Interrupted)


# --- addresses ---


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_single_components_are_those_among_all(ours, how):
    """A head, MLP or layer by its address has the number that it has among all; a neuron that of an edit's loss."""
    every = ablation.run(ours, TEXTS, ("heads", "mlps", "layers"), how)
    some = ("head 1.2", "embed", "layer -1", "mlp 0", "head -3.4", "mlp 0", "heads")
    found = ablation.run(ours, TEXTS, some, how)
    expected = dict(zip([cell.name for cell in every.cells], every.change[:, 0], strict=True))
    assert [cell.name for cell in found.cells[:5]] == ["head 1.2", "embed", f"layer {L - 1}", "mlp 0", "head 0.4"]
    assert len(found.cells) == L * H + 3
    for cell, change in zip(found.cells, found.change[:, 0], strict=True):
        assert cell.name == "embed" or change.item() == pytest.approx(expected[cell.name].item(), rel=1e-9)
    torch.testing.assert_close(found.of("heads"), every.of("heads"))
    assert found.table()["component"].tolist() == [cell.name for cell in found.cells]


def test_a_neuron_is_ablated_as_by_a_hook(ours, theirs):
    found = ablation.run(ours, TEXTS, ["neuron 1.69", "neuron 1.0", "neuron -1.7"], "zero")
    assert [(cell.name, cell.kind, cell.index) for cell in found.cells] == [
        ("neuron 1.69", "neuron", 69), ("neuron 1.0", "neuron", 0), (f"neuron {L - 1}.7", "neuron", 7)
    ]  # fmt: skip
    rows, body = TEXTS.rows(), theirs.transformer
    for cell, change in zip(found.cells, found.of("neurons"), strict=True):
        total = 0.0
        for ids in rows:
            whole = predict(theirs, ids)

            def hook(_, __, output, cell=cell):
                output[..., cell.index] = 0.0

            handle = body.h[cell.layer].mlp.act.register_forward_hook(hook)
            try:
                cut = predict(theirs, ids)
            finally:
                handle.remove()
            came = torch.tensor(ids[1:])
            total += float((whole - cut)[:-1][range(len(came)), came].sum())
        assert change.item() == pytest.approx(total / found.predicted, rel=1e-6)
    assert found.table()["head"].isna().all()
    found.chart()


def test_a_wrong_address_is_named(bundled):
    with pytest.raises(SiteError) as error:
        ablation.run(bundled, "a b c", ["heads", "head 4.1"])
    expected = "no component is called 'head 4.1': this model has layers 0..3 with heads 0..7; near: 'head 3.1'"
    assert str(error.value) == expected
    with pytest.raises(InputError) as error:
        ablation.run(bundled, "a b c", "head 3.1 q")
    assert str(error.value) == "'head 3.1 q' is a part of a head: heads are ablated whole, as 'head 3.1'"


# --- mistakes ---


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: ablation.run(m, "a b", how="none"), InputError, "how='none' is unknown: zero, mean, resample"),
        (lambda m: ablation.run(m, "a b", "neurons"), SiteError, "no site matches 'neurons'"),
        (lambda m: ablation.run(m, "a b", ()), InputError, "components are heads, mlps, layers or site patterns"),
        (lambda m: ablation.run(m, "a b", "attn.pattern"), InputError, r"'blocks.0.attn.pattern' is B H P P: heads"),
        (lambda m: ablation.run(m, "a b", "logits"), InputError, "'logits' is B P V"),
        (lambda m: ablation.run(m, "a b", metric="f1"), InputError, "no metric is called 'f1': there are loss, kl"),
        (lambda m: ablation.run(m, "a b", budget=0), InputError, "budget=0"),
        (lambda m: ablation.run(m, "a b", how="resample"), InputError, "there is no other: give several documents"),
        (lambda m: ablation.run(m, " "), InputError, "the text is empty"),
        (lambda m: ablation.run(m, "a"), InputError, "there is nothing to predict"),
        (lambda m: ablation.run(m, "a b"), InputError, "one token is predicted, from position 0"),
        (
            lambda m: ablation.run(m, "a b c").of("layers"),
            InputError,
            "no 'layers' were ablated: there are heads, mlps",
        ),
        (lambda m: ablation.run(m, "a b c").of("heads", "kl"), InputError, "'kl' was not measured: there are loss"),
    ],
)
def test_mistakes_are_named(bundled, make, error, message):
    with pytest.raises(error, match=message):
        make(bundled)


def test_edits_at_the_logits_are_refused(bundled):
    with bundled.edited({"logits": 0.0}), pytest.raises(InputError, match="an edit at 'logits' is in force"):
        ablation.run(bundled, "a b")
