"""The logit lens against transformers' states and SciPy's definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy

from cutaway import logit_lens
from cutaway.analyses.logits import ranks, top_k
from cutaway.errors import InputError, SiteError, TokenizerError

TEXT = "Fellow citizens of the Senate: the people of the United States are free and at peace."
METRICS = ["entropy", "kl", "js", "tv", "loss"]


@pytest.fixture(scope="module")
def lens(bundled64):
    return logit_lens.read(bundled64, TEXT, targets=[" States", " war"])


@pytest.fixture(scope="module")
def expected(hf, bundled64):
    """Log-probabilities [row, pos, V] through transformers' own modules, in float64."""
    model, states = hf(torch.float64), []
    hooks = [block.register_forward_hook(lambda m, a, out: states.append(out)) for block in model.transformer.h]
    ids = torch.tensor([bundled64.tokenizer.encode([TEXT])[0][0]])
    with torch.no_grad():
        model(ids)
        read = [model.lm_head(model.transformer.ln_f(state))[0].numpy() for state in states]
    for hook in hooks:
        hook.remove()
    return log_softmax(np.stack(read), axis=-1), ids[0].numpy()


def test_the_last_row_is_the_models_own_output(bundled64, lens):
    own = bundled64.run(TEXT).logits[0].log_softmax(-1)
    best = own.topk(10)
    assert torch.equal(lens.top_ids[-1], best.indices)
    torch.testing.assert_close(lens.top_probabilities[-1], best.values.exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(lens.loss[-1, :-1], -own[:-1].gather(1, torch.tensor(lens.ids[1:])[:, None])[:, 0])
    assert lens.kl[-1].max() < 1e-12
    assert lens.decided()[-1] <= 3


def test_every_metric_is_what_scipy_says(lens, expected):
    log_p, ids = expected
    own, p = np.exp(log_p[-1]), np.exp(log_p)
    close = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(lens.entropy, entropy(p, axis=-1), **close)
    np.testing.assert_allclose(lens.kl, rel_entr(own, p).sum(-1), **close)
    np.testing.assert_allclose(lens.js, np.array([jensenshannon(row, own, axis=-1) ** 2 for row in p]), **close)
    np.testing.assert_allclose(lens.tv, np.abs(p - own).sum(-1) / 2, **close)
    came = log_p[:, np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(lens.loss[:, :-1], -came, **close)
    assert lens.loss[:, -1].isnan().all()
    assert (lens.rank[:, -1] == 0).all()
    np.testing.assert_array_equal(lens.rank[:, :-1], 1 + (log_p[:, :-1] > came[..., None]).sum(-1))


def test_targets_have_their_probability_and_rank_everywhere(bundled64, lens, expected):
    log_p, _ = expected
    for i, target in enumerate(lens.targets):
        scores = log_p[..., bundled64.tokenizer.single(target)]
        np.testing.assert_allclose(lens.target_probability[..., i], np.exp(scores), rtol=1e-9)
        np.testing.assert_array_equal(lens.target_rank[..., i], 1 + (log_p > scores[..., None]).sum(-1))
    assert lens.table()["p( States)"].iloc[-1] == lens.target_probability[-1, -1, 0]


def test_targets_may_be_ids(bundled64, lens):
    single = bundled64.tokenizer.single
    by_id = logit_lens.read(bundled64, TEXT, targets=[single(target) for target in lens.targets])
    assert by_id.targets == lens.targets
    assert torch.equal(by_id.target_probability, lens.target_probability)
    assert torch.equal(by_id.target_rank, lens.target_rank)
    for outside in (-1, 8192):
        with pytest.raises(InputError, match="an id from 0 to 8191 was expected"):
            logit_lens.read(bundled64, TEXT, targets=[outside])


@pytest.mark.parametrize("metrics", [["rank"], ["entropy"], ["kl", "loss"], ["js"], ["tv"]])
def test_metrics_that_are_not_wanted_change_no_others(bundled64, lens, metrics):
    some = logit_lens.read(bundled64, TEXT, targets=lens.targets, metrics=metrics)
    for name in (*metrics, "loss", "rank", "top_ids", "top_probabilities", "target_probability"):
        torch.testing.assert_close(getattr(some, name), getattr(lens, name), rtol=0, atol=0, equal_nan=True)
    assert some.meta["parameters"]["metrics"] == metrics
    assert set(lens.meta["parameters"]["metrics"]) == {"kl", "js", "tv", "entropy", "loss", "rank"}
    left_out = {"kl", "js", "tv", "entropy"} - set(metrics) - ({"entropy"} if {"js", "tv"} & set(metrics) else set())
    assert all(getattr(some, name).isnan().all() for name in left_out)
    with pytest.raises(InputError, match="no metric is called 'entropies'"):
        logit_lens.read(bundled64, TEXT, metrics=["entropies"])


def test_a_pass_that_is_there_already_serves(bundled64, lens):
    run = bundled64.run(TEXT, capture=["resid_post", "resid_mid"])
    given = logit_lens.read(bundled64, TEXT, targets=lens.targets, run=run)
    assert given.to_dict() == lens.to_dict()
    with pytest.raises(InputError, match="over other tokens"):
        logit_lens.read(bundled64, TEXT, bos=True, run=run)
    with pytest.raises(SiteError, match="was not captured"):
        logit_lens.read(bundled64, TEXT, "attn_out", run=run)


@pytest.mark.parametrize("steps", [{"layer_norm": True}, {"layer_norm": True, "center_writing": True}])
def test_folding_changes_nothing(bundled64, lens, steps):
    folded = logit_lens.read(bundled64.fold(**steps), TEXT, targets=[" States", " war"])
    for name in (*METRICS, "top_probabilities", "target_probability"):
        torch.testing.assert_close(getattr(folded, name), getattr(lens, name), rtol=1e-9, atol=1e-10, equal_nan=True)
    assert torch.equal(folded.rank, lens.rank)


def test_chunks_and_batches_change_nothing(bundled64, lens, monkeypatch):
    monkeypatch.setattr("cutaway.analyses.logits.ELEMENTS", 8192 * 16)
    several = logit_lens.read(bundled64, ["The Congress", TEXT, "We"], targets=[" States", " war"])
    assert several.lengths == [len(row) for row in bundled64.tokenizer.encode(["The Congress", TEXT, "We"])[0]]
    start = several.lengths[0]
    part = slice(start, start + several.lengths[1])
    for name in (*METRICS, "top_probabilities"):
        got, want = getattr(several, name)[:, part], getattr(lens, name)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10, equal_nan=True)
    assert set(several.table()["text"]) == {0, 1, 2}


def test_what_attention_and_mlps_write_is_read_and_marked(bundled64, hf):
    written = logit_lens.read(bundled64, TEXT, at="blocks.1.mlp_out")
    assert written.writes
    assert not logit_lens.read(bundled64, TEXT, at="resid_mid").writes
    state = bundled64.run(TEXT, capture="blocks.1.mlp_out", logits=None)["blocks.1.mlp_out"]
    with torch.no_grad():
        model = hf(torch.float64)
        p = model.lm_head(model.transformer.ln_f(state))[0].softmax(-1).numpy()
    np.testing.assert_allclose(written.entropy[0], entropy(p, axis=-1), rtol=1e-9)
    assert "by itself" in written.caption()


def test_float32_is_close_to_float64(bundled, lens):
    single = logit_lens.read(bundled, TEXT)
    for name in METRICS:
        torch.testing.assert_close(getattr(single, name), getattr(lens, name), rtol=0, atol=3e-5, equal_nan=True)


def test_means_over_documents_are_plain_means(bundled64):
    texts = {"a": TEXT, "b": "We meet to-day, as the law requires.", "c": "The war in Cuba", "d": "a"}
    result = logit_lens.average(bundled64, texts, resamples=400)
    whole = logit_lens.read(bundled64, [texts[name] for name in "abc"])
    counted = whole.rank[0] > 0
    plain = [getattr(whole, name)[:, counted].mean(1) for name in ("loss", "entropy", "kl", "js", "tv")]
    torch.testing.assert_close(result.means[:, :5], torch.stack(plain, 1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(result.means[:, 5], (whole.rank == 1)[:, counted].double().mean(1))
    agrees = (whole.top_ids[:, :, 0] == whole.top_ids[-1, :, 0])[:, counted].double().mean(1)
    torch.testing.assert_close(result.means[:, 6], agrees)
    assert (result.documents, result.tokens) == (3, int(counted.sum()))
    assert "rough" in result.summary()


def test_chunks_leave_each_token_with_its_document(bundled64, monkeypatch):
    texts = ["We meet to-day, as the law requires.", TEXT, "The war in Cuba"]
    whole = logit_lens.average(bundled64, texts, resamples=50)
    monkeypatch.setattr("cutaway.analyses.logits.ELEMENTS", 8192 * 16)
    parts = logit_lens.average(bundled64, texts, resamples=50)
    for name in ("means", "low", "high"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-10)


def test_decided_from_which_layer_on(lens):
    top = lens.top_ids[:, :, 0].tolist()
    for i, found in enumerate(lens.decided()):
        stays = [layer for layer in range(4) if all(top[k][i] == top[3][i] for k in range(layer, 4))]
        assert found == min(stays)
    assert len(set(lens.decided())) > 1


def test_intervals_resample_whole_documents(bundled):
    """One document has no interval; those of several are a plain bootstrap's spread."""
    one = logit_lens.average(bundled, [TEXT], resamples=50)
    assert one.low.isnan().all()
    assert one.high.isnan().all()
    assert "nan" not in one.summary()
    assert "one document has no interval" in one.summary()
    texts = [TEXT[i : i + 40] for i in range(0, 80, 8)]
    many = logit_lens.average(bundled, texts, resamples=2000, seed=1)
    losses = [logit_lens.average(bundled, [text], resamples=1) for text in texts]
    sums = np.array([r.means[0, 0].item() * r.tokens for r in losses])
    counts = np.array([r.tokens for r in losses])
    draws = np.random.default_rng(0).integers(len(texts), size=(20000, len(texts)))
    plain = np.percentile(sums[draws].sum(1) / counts[draws].sum(1), [2.5, 97.5])
    spread = plain[1] - plain[0]
    np.testing.assert_allclose([many.low[0, 0], many.high[0, 0]], plain, atol=0.1 * spread)


def test_of_one_token_and_of_metrics_left_out_there_is_a_dash(bundled):
    lines = logit_lens.read(bundled, "a").summary().splitlines()
    assert [line.split()[3:5] for line in lines[1:5]] == [["-", "-"]] * 4
    assert lines[-1].startswith("means over 1 token (")
    assert len({line.rindex("-") for line in lines[1:5]}) == 1
    assert "nan" not in logit_lens.read(bundled, TEXT, metrics=["rank"]).summary()


def test_a_model_without_a_tokenizer_is_read_by_ids(wordless):
    model, theirs = wordless
    ids = torch.tensor([[3, 14, 15, 92, 65]])
    found = logit_lens.read(model, ids, top=2, targets=[7])
    with torch.no_grad():
        own = theirs(ids).logits[0].log_softmax(-1)
    torch.testing.assert_close(found.loss[-1, :-1].float(), -own[range(4), ids[0, 1:]], rtol=1e-4, atol=1e-4)
    assert found.tokens == found.display == ["[3]", "[14]", "[15]", "[92]", "[65]"]
    assert found.top_display[-1][-1][0] == f"[{int(own[-1].argmax())}]"
    assert found.targets == ["[7]"]
    assert found.meta["call"].endswith("[[3, 14, 15, 92, 65]]), top=2, targets=[7])")
    found.chart().to_dict()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"at": "attn.q"}, InputError, r"the lens reads states of width d_model, and 'blocks.0.attn.q' is B P H K"),
        ({"at": "resid"}, SiteError, "no site matches 'resid'"),
        ({"targets": [" the people"]}, TokenizerError, "is 2 tokens"),
        ({"top": 0}, InputError, "top=0"),
    ],
)
def test_mistakes_are_named(bundled, arguments, error, message):
    with pytest.raises(error, match=message):
        logit_lens.read(bundled, TEXT, **arguments)


@pytest.mark.parametrize(("V", "k"), [(8192, 10), (8191, 1), (50257, 10), (700, 7), (65, 65), (10, 3)])
def test_top_is_torchs_topk(V, k):
    logits = torch.randn(V, 9, generator=torch.Generator().manual_seed(V))
    values, indices = top_k(logits, k)
    assert torch.equal(values, logits.topk(k, 0).values)
    assert torch.equal(logits.gather(0, indices), values)
    assert all(len(set(column)) == k for column in indices.T.tolist())


@given(V=st.integers(2, 3000), data=st.data())
@settings(max_examples=100)
def test_top_finds_the_largest_wherever_they_are(V, data):
    """Among them the last tokens, which fill no whole block, and those of one block."""
    k = data.draw(st.integers(1, min(V, 12)))
    place = st.integers(0, V - 1) | st.integers(max(0, V - 20), V - 1)
    best = [data.draw(st.lists(place, min_size=1, max_size=k, unique=True)) for _ in range(3)]
    logits = torch.randn(V, 3, generator=torch.Generator().manual_seed(V))
    for column, places in enumerate(best):
        logits[places, column] += 100
    values, indices = top_k(logits, k)
    assert torch.equal(values, logits.topk(k, 0).values)
    assert torch.equal(indices, logits.topk(k, 0).indices)


def test_top_finds_the_last_tokens_of_gpt2s_vocabulary():
    """Of its 50,257 the last 17 fill no block of 64, and the very last is the end of text."""
    logits = torch.randn(50257, 2, generator=torch.Generator().manual_seed(0))
    logits[-17:, 0] = torch.arange(100.0, 117.0)
    logits[50256, 1] = 50
    indices = top_k(logits, 10)[1]
    assert indices[:, 0].tolist() == list(range(50256, 50246, -1))
    assert indices[0, 1] == 50256


def test_rank_counts_larger_logits():
    logits = torch.tensor([[1.0, 3.0], [2.0, 3.0], [2.0, -1.0]])
    assert ranks(logits, torch.tensor([2.0, -1.0])).tolist() == [1, 3]


def test_the_chart_holds_the_numbers(lens):
    spec = lens.chart().to_dict()
    cells = next(rows for rows in spec["datasets"].values() if "top" in rows[0])
    n = len(lens.ids)
    assert len(cells) == len(lens.sites) * n
    assert cells[n + 3]["kl"] == pytest.approx(lens.kl[1, 3].item(), rel=1e-3)
    assert cells[n + 3]["token"] == lens.top_display[1][3][0]
    assert "Layer" in str(spec)
