"""Patching against a plain loop over transformers with hooks, autograd through transformers, and a model whose
mechanism is written by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from cutaway import patching
from cutaway.analyses.patching.cells import Cell
from cutaway.analyses.patching.choice import choose_cells
from cutaway.analyses.patching.engine import Engine
from cutaway.errors import InputError, Interrupted, SiteError, TokenizerError
from cutaway.text.tokens import Tokens
from tests import induction
from tests.analyses import plain_patching
from tests.model.reference import ODD, random_gpt2

CLEAN, CORRUPTED = "The Soviet Union and the free", "The Indian Union and the free"
IDS = torch.tensor([[5, 17, 3, 44, 9, 21, 60]]), torch.tensor([[5, 17, 8, 44, 9, 33, 60]])  # differ at 2 and 5
KINDS = list(plain_patching.PLACES)
OTHERS = ["resid_mid", "mlp_in", "ln1.out", "ln1.scale", "ln1.normalized", "ln2.out", "ln2.scale", "ln2.normalized",
          "mlp.pre", "attn.scores", "attn.result", "attn_in", "q_input", "k_input", "v_input"]  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    return random_gpt2(**ODD, bos_token_id=None, eos_token_id=None)


@pytest.fixture(scope="module")
def ours(theirs):
    return cutaway.load(theirs, device="cpu")


def difference(logits, answer, versus):
    return (logits[answer] - logits[versus]).item()


@pytest.mark.parametrize("sites", ["resid_pre", "attn.z"])
def test_a_metric_may_write_into_its_logits(ours, sites):
    """And changes no other number: logits of one run stand for many cells."""

    def in_place(logits):
        logits *= 2
        return logits[:, 7]

    for measure in (patching.run, patching.attribution):
        want = measure(ours, *IDS, sites, lambda logits: 2 * logits[:, 7])
        found = measure(ours, *IDS, sites, in_place)
        torch.testing.assert_close(found.values, want.values)
        assert (found.clean_value, found.corrupted_value) == (want.clean_value, want.corrupted_value)


# --- against the plain loop ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("together", [True, False])
def test_cells_are_those_of_a_plain_loop_with_hooks(ours, theirs, kind, direction, together):
    found = patching.run(
        ours, *IDS, kind, "logit difference", direction, 3, 4, together=together, positions=[0, 2, 4, -1]
    )
    base, other = reversed(IDS) if direction == "restore" else IDS
    for cell, value in list(zip(found.cells, found.values.tolist(), strict=True))[:: 1 if together else 3]:
        logits = plain_patching.patched(theirs, base, other, kind, cell.layer, cell.positions, cell.index)
        assert value == pytest.approx(difference(logits, 3, 4), abs=1e-5)
    for name, ids in (("clean_value", IDS[0]), ("corrupted_value", IDS[1])):
        with torch.no_grad():
            assert getattr(found, name) == pytest.approx(difference(theirs(ids).logits[0, -1], 3, 4), abs=1e-5)
    heads = 1 if kind in ("resid_pre", "attn_out", "mlp_out", "resid_post", "mlp.post") else 5
    assert len(found.cells) == 3 * heads * (1 if together else 4)
    assert found.token_layers < found.plain_token_layers == (2 + len(found.cells)) * 7 * 3


def test_neurons(ours, theirs):
    chosen = [(0, 3), (2, 69), (1, 0)]
    for together in (None, False):
        found = patching.run(ours, *IDS, "mlp.post", answer=3, versus=4, neurons=chosen, together=together)
        assert len(found.cells) == (3 if together is None else 21)
        for cell, value in zip(found.cells, found.values.tolist(), strict=True):
            logits = plain_patching.patched(theirs, IDS[1], IDS[0], "mlp.post", cell.layer, cell.positions, cell.index)
            assert value == pytest.approx(difference(logits, 3, 4), abs=1e-5)
    every = patching.attribution(
        ours, *IDS, "mlp.post", answer=3, versus=4, neurons=[(i, j) for i in range(3) for j in range(70)]
    )
    top = patching.run(ours, *IDS, "mlp.post", answer=3, versus=4, neurons=4)
    best = [cell for cell, _ in every.largest(4)]
    assert [(cell.layer, cell.index) for cell in top.cells] == [(cell.layer, cell.index) for cell in best]


MIXED = ["neuron -1.69", "mlp 1", "head 2.4", "head 0.1 q", "blocks.0.attn_out", "neuron 2.3", "head 0.1 q"]


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_single_components_are_those_of_a_plain_loop_with_hooks(ours, theirs, direction):
    base, other = reversed(IDS) if direction == "restore" else IDS
    options = {"direction": direction, "answer": 3, "versus": 4, "positions": [2, -1]}
    found = patching.run(ours, *IDS, MIXED, **options)
    names = ["head 0.1 q", *["blocks.0.attn_out"] * 2, *["mlp 1"] * 2, "head 2.4", "neuron 2.3", "neuron 2.69"]
    assert [cell.name for cell in found.cells] == found.table()["component"].tolist() == names
    for cell, value in zip(found.cells, found.values.tolist(), strict=True):
        logits = plain_patching.patched(theirs, base, other, cell.site.kind, cell.layer, cell.positions, cell.index)
        assert value == pytest.approx(difference(logits, 3, 4), abs=1e-5)
    estimates = patching.attribution(ours, *IDS, MIXED, **options, exact=True)
    torch.testing.assert_close(estimates.exact, found.values)
    for result in (found, estimates):
        result.chart()
    each = patching.run(ours, *IDS, ["head 2.4", "neuron 2.3"], **options, together=False)
    assert [(cell.name, cell.positions) for cell in each.cells] == [
        ("head 2.4", (2,)), ("head 2.4", (6,)), ("neuron 2.3", (2,)), ("neuron 2.3", (6,)),
    ]  # fmt: skip


def test_all_heads_and_mlps_are_their_sites(ours):
    found = patching.run(ours, *IDS, ["heads", "mlps"], metric="kl")
    sites = patching.run(ours, *IDS, ["attn.z", "mlp_out"], metric="kl")
    assert found.table().equals(sites.table())


def test_a_site_and_neurons_of_it_are_drawn_apart(ours):
    found = patching.run(ours, *IDS, ["blocks.1.mlp.post", "neuron 1.3"], metric="kl", together=True)
    assert [cell.name for cell in found.cells] == ["blocks.1.mlp.post", "neuron 1.3"]
    drawn = [
        name for values in found.chart().to_dict()["datasets"].values() for name in {r.get("name") for r in values}
    ]
    assert sorted(filter(None, drawn)) == ["blocks.1.mlp.post", "neuron 1.3"]


def test_every_name_of_a_component_is_read_as_that_component(ours):
    """What a table calls a head, an MLP or a neuron can be given back."""
    found = patching.run(ours, *IDS, ["attn.z", "attn.q", "attn.k", "attn.v", "mlp_out"], metric="kl", together=True)
    for cell in found.cells:
        [again] = patching.run(ours, *IDS, cell.name, metric="kl", together=True).cells
        assert again == cell


@pytest.mark.parametrize("kind", OTHERS)
def test_other_sites_are_whole_runs_with_edits(ours, kind):
    base, other = IDS[1], IDS[0]
    found = patching.run(ours, *IDS, kind, answer=3, versus=4, together=False)
    there = ours.run(other, capture=kind)
    for cell, value in list(zip(found.cells, found.values.tolist(), strict=True))[::3]:

        def edit(value, ctx, cell=cell):
            value[0][cell.at(value[0])] = there[ctx.site][0][cell.at(value[0])]
            return value

        logits = ours.run(base, edits={cell.site.name: edit}, logits="last").logits[0, 0]
        assert value == pytest.approx(difference(logits, 3, 4), abs=1e-5)


def test_metrics(bundled, hf):
    ids = [bundled.tokenizer.tokens(text).ids for text in (CLEAN, CORRUPTED)]
    with torch.no_grad():
        clean, corrupted = (hf()(row).logits[0, -1].double().log_softmax(-1) for row in ids)
    answer, versus = clean.argmax().item(), corrupted.argmax().item()
    logits = plain_patching.patched(hf(), ids[1], ids[0], "resid_pre", 2, [5]).double().log_softmax(-1)

    def rank(logits):
        return -(logits > logits[:, answer : answer + 1]).sum(-1)

    expected = {
        "logit difference": lambda p: (p[answer] - p[versus]).item(),
        "probability": lambda p: p[answer].exp().item(),
        "log-probability": lambda p: p[answer].item(),
        "kl": lambda p: (clean.exp() * (clean - p)).sum().item(),
        rank: lambda p: float(rank(p[None])),
    }
    for metric, compute in expected.items():
        found = patching.run(bundled, CLEAN, CORRUPTED, metric=metric, layers=[2], positions=[5])
        assert found.values.item() == pytest.approx(compute(logits), abs=1e-5)
        assert found.clean_value == pytest.approx(compute(clean), abs=1e-5)
        assert found.corrupted_value == pytest.approx(compute(corrupted), abs=1e-5)
        scale = compute(clean) - compute(corrupted)
        assert found.normalized.item() == pytest.approx((compute(logits) - compute(corrupted)) / scale, abs=1e-4)
    assert "metric=rank" in found.meta["call"]
    nameless = patching.run(bundled, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 5], layers=[2])
    assert "metric=metric" in nameless.meta["call"]
    assert nameless.measured == "metric"


# --- what must hold ---


@pytest.mark.parametrize("kind", [*KINDS, "resid_mid", "attn.scores"])
def test_clean_into_clean_changes_nothing(ours, kind):
    """Every cell computed, none known beforehand."""
    tokens = Tokens(torch.cat([IDS[0], IDS[0]]), torch.ones(2, 7, dtype=torch.long))
    cells = choose_cells(ours, 7, kind, None, None, False)
    engine = Engine(ours, tokens, list({cell.site: None for cell in cells}))
    seen = []
    for numbers, logits in engine.run(cells, 1, known=False):
        seen += numbers
        torch.testing.assert_close(logits, engine.logits[:1].expand_as(logits), atol=2e-5, rtol=0)
    assert sorted(seen) == list(range(len(cells)))


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_patching_everything_gives_the_other_run_exactly(bundled, direction):
    found = patching.run(bundled, CLEAN, CORRUPTED, direction=direction, layers=[0], together=True)
    assert found.values.item() == (found.clean_value if direction == "restore" else found.corrupted_value)
    assert found.normalized.item() == 1 - found.base
    cells = choose_cells(bundled, 6, "resid_pre", [0, 2], None, True)
    tokens = bundled.tokens([CLEAN, CORRUPTED])
    engine = Engine(bundled, tokens, [cell.site for cell in cells])
    for _, logits in engine.run(cells, 1, known=False):  # and when it is computed
        torch.testing.assert_close(logits, engine.logits[:1].expand_as(logits), atol=2e-5, rtol=0)


def test_what_comes_before_the_first_difference_is_known(bundled):
    found = patching.run(bundled, "I like the House of", "I like the Senate of")
    early = [value for cell, value in zip(found.cells, found.values.tolist(), strict=True) if cell.positions[0] < 3]
    assert set(early) == {found.corrupted_value}
    # Of layer 0 all is known: at 4 the streams are equal, and elsewhere, but for 3. Those of 1, 2, 3 go up together.
    assert found.token_layers == 2 * 5 * 4 + 2 * (2 + 4 + 6)
    table = found.table()
    assert table["normalized"].between(-2, 2).all()
    assert table.loc[table["layer"] == 0, "normalized"].tolist() == [0, 0, 0, 1, 0]


def test_what_is_computed_is_counted(ours):
    """Of 7 positions the first two are equal; there are 3 layers and 5 heads. Counted are both runs, each head's own
    block (in the last one only the final position), and the blocks above."""
    found = patching.run(ours, *IDS, "attn.z", answer=3, versus=4)
    assert found.token_layers == 2 * 7 * 3 + 5 * (5 + 5 + 1) + 5 * 5 + 10 * 5
    with ours.edited({"blocks.0.attn_out": 0.0}):  # whole runs from the patched block up
        found = patching.run(ours, *IDS, answer=3, versus=4, layers=[1], positions=[2])
        assert found.token_layers == 2 * 7 * 3 + 7 * 2


def test_edits_in_force_hold_in_both_runs_and_in_every_cell(ours):
    def halved(value, ctx):
        return value * 0.5

    def mirrored(value, ctx):  # carries what comes later to earlier positions
        return value + value.flip(1)

    edits = {"blocks.1.attn_out": halved, "blocks.1.resid_pre": halved, "blocks.{0,2}.resid_post": mirrored}
    with ours.edited(edits):
        found = patching.run(ours, *IDS, ["resid_pre", "attn.z"], answer=3, versus=4, together=False)
        there = ours.run(IDS[0], capture=["resid_pre", "attn.z"])
        for cell, value in list(zip(found.cells, found.values.tolist(), strict=True))[::5]:

            def edit(value, ctx, cell=cell):
                value[0][cell.at(value[0])] = there[ctx.site][0][cell.at(value[0])]
                return value

            logits = ours.run(IDS[1], edits={cell.site.name: edit}, logits="last").logits[0, 0]
            assert value == pytest.approx(difference(logits, 3, 4), abs=1e-5)
    assert found.meta["edits"]


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    kinds=st.lists(st.sampled_from([*KINDS, "attn.result", "ln1.out"]), min_size=1, max_size=3, unique=True),
    budget=st.integers(0, 200_000),
    together=st.booleans(),
    row=st.sampled_from([0, 1]),
    known=st.booleans(),
)
def test_budget_and_batching_do_not_change_results(ours, kinds, budget, together, row, known):
    tokens = Tokens(torch.cat(IDS), torch.ones(2, 7, dtype=torch.long))
    cells = choose_cells(ours, 7, kinds, None, None, together)
    sites = list({cell.site: None for cell in cells})
    found = []
    for bytes_ in (budget, 1 << 28):
        engine = Engine(ours, tokens, sites, first=2, budget=bytes_)
        logits = torch.full((len(cells), ODD["vocab_size"]), torch.nan)
        for numbers, values in engine.run(cells, row, known):
            logits[numbers] = values
            assert known or len(numbers) <= engine.fitting(6)
        found.append(logits)
    torch.testing.assert_close(*found, atol=2e-5, rtol=0)


# --- a planted mechanism ---


def test_a_planted_mechanism_is_found():
    """An induction model: head 0.0 writes down each token's predecessor, head 1.1 looks for its own token there.

    A B ... A: what follows A depends on B through 1.1 alone, and through 0.0's note at B's place.
    """
    model = induction.model()
    model.weights.blocks[1].W_O[: model.config.d_head] = 0  # 1.0, which looks at equal tokens, says nothing here
    a, b, c = 3, 7, 11
    clean = torch.tensor([[1, a, 2, 4, 5, 6, 8, a]])
    # Another token before position 2: the query at 7 no longer finds its own kind noted there.
    corrupted = torch.tensor([[1, c, 2, 4, 5, 6, 8, a]])

    def attended(logits):  # the metric does not matter here: any that differs
        return logits[:, b] - logits[:, c]

    found = patching.run(model, clean, corrupted, "attn.pattern", metric=attended, direction="restore")
    moved = {(cell.layer, cell.index): abs(value) for cell, value in found.largest(4)}
    assert max(moved, key=moved.get) == (1, 1)
    assert moved[1, 1] > 20 * sorted(moved.values())[-2]
    # Only the queries of 1.1 at the end matter, and the keys at position 2, that head 0.0 wrote.
    keys = patching.run(model, clean, corrupted, "attn.k", metric=attended, together=False)
    cell, _ = keys.largest(1)[0]
    assert (cell.layer, cell.index, cell.positions) == (1, 1, (2,))
    sender = patching.run(model, clean, corrupted, "attn.z", metric=attended, together=False, layers=[0])
    cell, _ = sender.largest(1)[0]
    assert (cell.index, cell.positions) == (0, (2,))
    assert max(a, b, c) < induction.V


# --- attribution patching ---


def through_transformers(model, base, other, kind, layer, metric):
    """Return gradient x difference at a site, in the site's shape, by autograd through transformers."""
    held = []

    def hold(value):
        value.retain_grad()
        held.append(value)

    model.requires_grad_(True)
    try:
        hook = plain_patching.hooked(model, kind, layer, hold)
        metric(model(base, use_cache=False).logits[0, -1]).backward()
    finally:
        hook.remove()
        model.zero_grad()
        model.requires_grad_(False)
    there = plain_patching.values(model, other, kind, layer)
    return (held[0].grad * (there - held[0].detach()))[0].double()


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "attn.z", "attn.pattern", "mlp.post", "mlp_out"])
@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_attribution_is_autograd_through_transformers(ours, theirs, kind, direction):
    found = patching.attribution(ours, *IDS, kind, "logit difference", direction, 3, 4, together=False)
    base, other = reversed(IDS) if direction == "restore" else IDS
    start = found.corrupted_value if direction == "restore" else found.clean_value
    for layer in range(3):
        expected = through_transformers(theirs, base, other, kind, layer, lambda logits: logits[3] - logits[4])
        for cell, value in zip(found.cells, found.values.tolist(), strict=True):
            if cell.layer == layer:
                assert value - start == pytest.approx(expected[cell.at(expected)].sum().item(), abs=1e-4)


def test_attribution_of_the_last_stream_is_its_formula(bundled64):
    """A logit difference is linear in the final LayerNorm's output: its slope in the stream can be written down."""
    found = patching.attribution(
        bundled64, CLEAN, CORRUPTED, "resid_post", layers=[3], exact=True, answer=" world", versus=" people"
    )
    runs = bundled64.run([CLEAN, CORRUPTED], capture="blocks.3.resid_post")["blocks.3.resid_post"][:, -1]
    world, people = (bundled64.tokenizer.single(word) for word in (" world", " people"))
    w = bundled64.weights
    toward = w.ln_final.w * (w.W_U[world] - w.W_U[people])
    x = runs[1] - runs[1].mean()
    scale = (x.square().mean() + bundled64.config.eps).sqrt()
    slope = (toward - toward.mean() - x / scale * (toward @ x / scale / len(x))) / scale
    expected = found.corrupted_value + (slope @ (runs[0] - runs[1])).item()
    assert found.values[-1].item() == pytest.approx(expected, rel=1e-9)
    assert found.values[:-1].tolist() == [found.corrupted_value] * 5
    assert found.exact[-1].item() == pytest.approx(found.clean_value, rel=1e-9)


def test_agreement_is_scipys(bundled):
    from scipy import stats

    found = patching.attribution(bundled, CLEAN, CORRUPTED, "attn.z", exact=True)
    exact = patching.run(bundled, CLEAN, CORRUPTED, "attn.z")
    torch.testing.assert_close(found.exact, exact.values)
    torch.testing.assert_close(found.exact_normalized, exact.normalized, atol=1e-5, rtol=0)
    pearson = stats.pearsonr(found.normalized, exact.normalized).statistic
    spearman = stats.spearmanr(found.normalized, exact.normalized).statistic
    assert found.agreement() == pytest.approx((pearson, spearman))
    table = found.table()
    assert table["exact_normalized"].corr(table["normalized"]) == pytest.approx(pearson)
    alone = patching.attribution(bundled, CLEAN, CORRUPTED, "attn.z")
    assert all(map(math.isnan, alone.agreement()))
    assert "exact" not in alone.table()


# --- progress, interruption, results ---


def test_what_is_done_is_shown_and_kept(bundled):
    seen = []
    whole = patching.run(bundled, CLEAN, CORRUPTED, "attn.z", together=False, budget=1, each=seen.append)
    counts = [part.done for part in seen]
    assert counts == sorted(counts)
    assert counts[-1] == whole.done == len(whole.cells)
    assert len(seen) > 20

    def stop(part):
        if part.done > 100:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"interrupted: 1\d\d of 192 cells are done") as stopped:
        patching.run(bundled, CLEAN, CORRUPTED, "attn.z", together=False, budget=1, each=stop)
    part = stopped.value.result
    assert 100 < part.done < 192
    known = part.values.isfinite()
    torch.testing.assert_close(part.values[known], whole.values[known])
    assert "of 192: interrupted" in part.summary()
    assert "x fewer" not in part.summary()
    assert part.table()["value"].isna().sum() == 192 - part.done
    part.chart().to_dict()


def test_exact_numbers_that_were_stopped_are_kept(bundled, monkeypatch):
    inner = Engine._sweep

    def sweep(self, tasks, row):
        if self.token_layers > 100:
            raise KeyboardInterrupt
        return inner(self, tasks, row)

    monkeypatch.setattr(Engine, "_sweep", sweep)
    with pytest.raises(Interrupted, match=r"interrupted: \d+ of 24 exact numbers are done") as stopped:
        patching.attribution(bundled, CLEAN, CORRUPTED, exact=True, budget=1)
    part = stopped.value.result
    assert part.exact.isnan().any()
    assert part.values.isfinite().all()
    assert part.agreement()[0] > 0.9
    part.chart().to_dict()


def test_the_call_makes_the_result_again(bundled):
    for result in (
        patching.run(bundled, CLEAN, CORRUPTED, ["attn_out", "mlp_out"], layers=[0, -1], positions=[1, -1]),
        patching.run(bundled, CLEAN, CORRUPTED, "mlp.post", "kl", "corrupt", neurons=3, bos=True),
        patching.attribution(bundled, CLEAN, CORRUPTED, "attn.v", "probability", answer=" world", exact=True),
        patching.run(bundled, *(bundled.tokens(text).ids for text in (CLEAN, CORRUPTED)), layers=[1]),
    ):
        names = {"cutaway": cutaway, "torch": torch}
        *lines, last = result.meta["call"].splitlines()
        exec("\n".join([*lines, f"again = {last}"]), names)
        assert names["again"].to_dict() == result.to_dict()


def test_bos_and_single_tokens(bundled):
    found = patching.run(bundled, " war", " peace", bos=True)
    assert len(found.tokens) == 2
    assert found.values.isfinite().all()
    alone = patching.run(bundled, " war", " peace", metric="kl")
    assert alone.normalized.tolist() == [1.0] * 4


# --- mistakes ---

MISTAKES = {
    "length": (lambda m: patching.run(m, CLEAN, CORRUPTED + " and"),
               "clean has 6 tokens and corrupted 7; they part at position 1"),
    "prefix": (lambda m: patching.run(m, CLEAN, CLEAN + " world"),
               r"they part at position 6 \(nothing and ·world\): the same number of tokens was expected; choose words"),
    "same": (lambda m: patching.run(m, CLEAN, CLEAN), "clean and corrupted are the same 6 tokens"),
    "empty": (lambda m: patching.run(m, "", CORRUPTED), "the text is empty"),
    "two": (lambda m: patching.run(m, [CLEAN, CLEAN], CORRUPTED), "2 clean texts were given"),
    "metric": (lambda m: patching.run(m, CLEAN, CORRUPTED, metric="accuracy"), "metric='accuracy' is unknown: 'logit"),
    "returned": (lambda m: patching.run(m, CLEAN, CORRUPTED, metric=lambda logits: logits.sum()),
                 r"the metric returned a tensor \[\] for logits \[2, 8192\]"),
    "number": (lambda m: patching.run(m, CLEAN, CORRUPTED, metric=lambda logits: 1.0), "the metric returned float"),
    "position": (lambda m: patching.run(m, CLEAN, CORRUPTED, positions=[1, 6]),
                 r"positions=\[1, 6\]: 6 is not there; both texts have 6 tokens, 0 to 5"),
    "no position": (lambda m: patching.run(m, CLEAN, CORRUPTED, positions=[]), "leaves nothing to patch"),
    "layer": (lambda m: patching.run(m, CLEAN, CORRUPTED, layers=[4]), "4 is not there; the model has 4 layers"),
    "no layer": (lambda m: patching.run(m, CLEAN, CORRUPTED, "blocks.0.attn.z", layers=[1]), "none of the sites"),
    "direction": (lambda m: patching.run(m, CLEAN, CORRUPTED, direction="back"), "direction='back' is unknown"),
    "outside": (lambda m: patching.run(m, CLEAN, CORRUPTED, "embed"), "'embed' lies outside the blocks"),
    "versus": (lambda m: patching.run(m, CLEAN, CORRUPTED, metric="kl", versus=" a"), "is for the logit difference"),
    "answer": (lambda m: patching.run(m, CLEAN, CORRUPTED, metric="kl", answer=" a"), "the metric is kl"),
    "both": (lambda m: patching.run(m, CLEAN, CORRUPTED, answer=" a", versus=" a"), "are both ·a"),
    "choice": (lambda m: patching.run(m, "The people of the United", "The war of the United"),
               "difference would be of ·States from itself"),
    "nothing": (lambda m: patching.run(m, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 0] * 0), "after both"),
    "nan": (lambda m: patching.run(m, CLEAN, CORRUPTED, metric=lambda logits: logits[:, 0] / 0), "finite numbers"),
    "neurons": (lambda m: patching.run(m, CLEAN, CORRUPTED, neurons=3), "is for mlp.post and mlp.pre: resid_pre"),
    "neurons twice": (lambda m: patching.run(m, CLEAN, CORRUPTED, "neuron 3.7", neurons=3),
             "neurons=3 and 'neuron 3.7' both choose neurons: leave one of them out"),
    "count": (lambda m: patching.run(m, CLEAN, CORRUPTED, "mlp.post", neurons=0), "neurons=0: at least 1 was expected"),
    "neuron": (lambda m: patching.run(m, CLEAN, CORRUPTED, "mlp.post", neurons=[(0, 9999)]),
               r"neuron \(0, 9999\) is not among the sites"),
    "pair": (lambda m: patching.run(m, CLEAN, CORRUPTED, "mlp.post", neurons=[3, 5]),
             r"neurons holds 3: \(layer, neuron\) pairs were expected"),
    "half": (lambda m: patching.run(m, CLEAN, CORRUPTED, "mlp.post", neurons=[(0, 1.5)]), r"neurons holds \(0, 1\.5\)"),
    "no neurons": (lambda m: patching.run(m, CLEAN, CORRUPTED, "mlp.post", neurons=[]), "leaves nothing to patch"),
    "both kinds": (lambda m: patching.run(m, CLEAN, CORRUPTED, ["mlp.pre", "mlp.post"], neurons=3),
                   "mlp.post or mlp.pre was expected, both were given"),
    "one layer": (lambda m: patching.run(m, CLEAN, CORRUPTED, layers=2), "layers=2: whole numbers were expected, such"),
    "one position": (lambda m: patching.run(m, CLEAN, CORRUPTED, positions=[0.5]), r"positions=\[0\.5\]: whole"),
    "no site": (lambda m: patching.run(m, CLEAN, CORRUPTED, []), r"sites=\[\] leaves nothing to patch"),
    "no metric": (lambda m: patching.run(m, CLEAN, CORRUPTED, metric=None), "metric=None is unknown"),
    "gradient": (lambda m: patching.attribution(m, CLEAN, CORRUPTED, metric=lambda logits: logits.argmax(-1)),
                 "the metric has no gradient"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(bundled, name):
    make, message = MISTAKES[name]
    with pytest.raises(InputError, match=message) as error:
        make(bundled)
    assert "\n" not in str(error.value)


def test_sites_and_answers_that_are_not_there(bundled):
    for wrong, message in {
        "head 3.8": "no component is called 'head 3.8': this model has layers 0..3 with heads 0..7; near: 'head 3.7'",
        "layer 2": "'layer 2' is several sites: name 'blocks.2.attn_out' and 'blocks.2.mlp_out', or "
        "'blocks.2.resid_post'",
    }.items():
        with pytest.raises(SiteError) as error:
            patching.run(bundled, CLEAN, CORRUPTED, ["attn.z", wrong])
        assert str(error.value) == message
    with pytest.raises(SiteError, match=r"no site matches 'attn\.zz'"):
        patching.run(bundled, CLEAN, CORRUPTED, "attn.zz")
    with pytest.raises(TokenizerError, match="'Congress' is 3 tokens"):
        patching.run(bundled, CLEAN, CORRUPTED, answer="Congress")


def test_a_model_without_a_tokenizer(wordless):
    model, _ = wordless
    found = patching.run(model, *IDS, metric="kl")
    assert found.tokens[2] == "[3]"
    assert found.shown(2) == "[3]/[8]"
    with pytest.raises(InputError, match=r"corrupted 6; they part at position 6 \(\[60\] and nothing\)"):
        patching.run(model, IDS[0], IDS[0][:, :6])


def test_the_largest_effects_are_those_furthest_from_the_run(bundled):
    for direction, base in (("restore", 0.0), ("corrupt", 1.0)):
        found = patching.run(bundled, CLEAN, CORRUPTED, "attn.z", direction=direction)
        order = sorted(range(32), key=lambda i: -abs(found.normalized[i].item() - base))
        assert found.largest(3) == [(found.cells[i], found.normalized[i].item()) for i in order[:3]]
        assert ("blue where that destroys" if base else "orange where that brings") in found.caption()
    assert "32 cells, the largest" in found.summary()


def test_numbers_may_be_numpys_and_torchs(bundled):
    found = patching.run(bundled, CLEAN, CORRUPTED, layers=np.array([0, 2]), positions=torch.tensor([-1]))
    same = patching.run(bundled, CLEAN, CORRUPTED, layers=[0, 2], positions=[-1])
    assert found.to_dict() == same.to_dict()


def test_texts_that_no_string_has_are_spelled_as_ids(bundled):
    """They end inside a character."""
    clean, corrupted = (bundled.tokens(f"The {word} saw a 東京").first(6) for word in ("people", "war"))
    found = patching.run(bundled, clean, corrupted, metric="kl", layers=[1])
    again = eval(found.meta["call"].split("\n")[1], {"cutaway": cutaway, "torch": torch, "model": bundled})
    assert again.to_dict() == found.to_dict()


def test_cells_are_names(bundled):
    found = patching.run(bundled, CLEAN, CORRUPTED, "attn.z", positions=[1, 5])
    assert found.name(found.cells[3]) == "head 0.3 at 2 positions"
    assert isinstance(found.cells[0], Cell)
    assert found.measured == "logit difference ·world - ·people"
