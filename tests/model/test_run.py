"""Capturing: every site, and no more computed than was asked for."""

import pytest
import torch
import torch.nn.functional as F

from cutaway.errors import InputError
from cutaway.model.architectures import gpt2
from cutaway.text.tokens import Tokens
from tests.model.reference import ALL, LENGTHS, TOKENS, add_noise

SIZES = {"B": 3, "P": 7, "H": 5, "D": 60, "K": 12, "M": 70, "V": 101, "1": 1}


def calls(monkeypatch, module, name):
    """Count the calls of a function while it does its work; the list grows with each."""
    real, seen = getattr(module, name), []

    def counted(*args, **kwargs):
        seen.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return seen


def test_captures_have_the_stated_shape(plain, odd):
    for site in odd.sites():
        assert list(plain[site.name].shape) == [SIZES[letter] for letter in site.shape.split()], site.name
        assert plain[site.name].dtype == torch.float32
        assert not plain[site.name].requires_grad


def test_capturing_changes_nothing(odd, bare, site):
    run = odd.run(TOKENS, capture=site.name)
    torch.testing.assert_close(run.logits, bare, atol=1e-5, rtol=0)


def test_writing_into_a_capture_changes_nothing_else(odd, plain, site):
    """resid_post is the next block's resid_pre, and mlp_in is resid_mid, but each capture is the caller's own."""
    run = odd.run(TOKENS, capture=ALL)
    run[site.name].select(-2, 0).fill_(-7.0)  # of one position, head or query alone
    for name, value in run.items():
        same = value == plain[name]
        assert same.all() if name != site.name else same[..., 1:, :].all() and not same[..., 0, :].any(), name


@pytest.mark.parametrize(
    "as_edit", [lambda kept: kept, lambda kept: lambda value, ctx: kept], ids=["tensor", "function"]
)
def test_writing_into_the_capture_of_an_edited_site_leaves_the_edit(odd, plain, as_edit):
    kept = plain["blocks.1.mlp_out"].clone()
    run = odd.run(TOKENS, edits={"blocks.1.mlp_out": as_edit(kept)}, capture="blocks.1.mlp_out")
    run["mlp_out"].fill_(-7.0)
    assert torch.equal(kept, plain["blocks.1.mlp_out"])
    stream = plain["blocks.1.resid_mid"].clone()
    later = odd.run(TOKENS, edits={"blocks.1.resid_mid": as_edit(stream)}, capture="blocks.1.mlp_in")  # the same tensor
    later["mlp_in"].fill_(-7.0)
    assert torch.equal(stream, plain["blocks.1.resid_mid"])


def test_ids_that_are_written_to_later_leave_the_run_that_read_them(odd):
    ids = torch.tensor([[5, 6, 7]])
    runs = [odd.run(given) for given in (ids, ids.numpy(), Tokens(ids, torch.ones_like(ids)))]
    ids[0, 1] = 9
    assert [run.tokens.ids.tolist() for run in runs] == [[[5, 6, 7]]] * 3


@pytest.mark.parametrize("where", ["resid_pre", "attn.scores", "attn.pattern"])
def test_padding_and_the_future_do_not_reach_a_token(odd, where):
    changed = TOKENS.ids.clone()
    changed[0, 4:] = torch.tensor([5, 6, 8])
    plain, run = (odd.run(Tokens(ids, TOKENS.mask), capture=where) for ids in (TOKENS.ids, changed))
    for name in (name for name in run if name.endswith(where)):
        before = (slice(None), slice(0, 4), slice(0, 4)) if where.startswith("attn") else slice(0, 4)
        torch.testing.assert_close(run[name][0][before], plain[name][0][before], atol=1e-6, rtol=0)
    assert (run.logits[0, 4:] - plain.logits[0, 4:]).abs().min(-1).values.max() > 0


def test_the_parts_add_up(odd, plain):
    for i, block in enumerate(odd.weights.blocks):
        at = {name.removeprefix(f"blocks.{i}."): value for name, value in plain.items()}
        torch.testing.assert_close(at["attn.result"].sum(2), at["attn_out"] - block.b_O, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            at["resid_pre"] + at["attn_out"] + at["mlp_out"], at["resid_post"], atol=1e-5, rtol=0
        )
        assert (at["attn.pattern"].sum(-1) - 1).abs().max() < 1e-5
        future = torch.ones(7, 7, dtype=torch.bool).triu(1)
        assert (at["attn.scores"][..., future] == -torch.inf).all()
        assert (at["attn.pattern"][..., future] == 0).all()


# --- what is computed ---


def test_a_run_stops_after_the_last_site_asked_for(odd, monkeypatch):
    blocks = calls(monkeypatch, gpt2, "block")
    unembeddings = calls(monkeypatch, gpt2, "unembed")
    mlps = calls(monkeypatch, gpt2, "mlp")

    def count(**wanted):
        for seen in (blocks, mlps, unembeddings):
            seen.clear()
        odd.run(TOKENS, **wanted)
        return len(blocks), len(mlps), len(unembeddings)

    assert count(capture="pos_embed", logits=None) == (0, 0, 0)
    assert count(capture="blocks.0.attn.q", logits=None) == (1, 0, 0)
    assert count(capture=["blocks.0.resid_post", "embed"], logits=None) == (1, 1, 0)
    assert count(capture="blocks.1.mlp_in", logits=None) == (2, 1, 0)
    assert count(capture="ln_final.out", logits=None) == (3, 3, 0)
    assert count(capture="embed", edits={"blocks.1.resid_pre": 0.0}, logits=None) == (2, 1, 0)
    assert count(capture="logits", logits=None) == (3, 3, 1)
    assert count(capture="embed") == (3, 3, 1)


def test_no_logits_unless_wanted(odd, bare):
    run = odd.run(TOKENS, capture="embed", logits=None)
    with pytest.raises(InputError, match=r"^this run kept no logits: call run\(\.\.\., logits='all'\)"):
        run.logits  # noqa: B018
    assert torch.equal(odd.run(TOKENS, capture="logits", logits=None).logits, bare)
    with pytest.raises(InputError, match="nothing was asked for"):
        odd.run(TOKENS, logits=None)


def test_scores_and_split_streams_only_where_asked_for(odd, monkeypatch):
    fused = calls(monkeypatch, F, "scaled_dot_product_attention")
    einsums = calls(monkeypatch, torch, "einsum")

    def count(*capture, **edits):
        fused.clear(), einsums.clear()
        odd.run(TOKENS, capture=capture, edits=edits.get("edits"))
        return len(fused), len(einsums)

    assert count() == (3, 0)
    assert count("resid_post", "attn.q", "attn.z", "attn_out", "mlp.post", "ln1.out") == (3, 0)
    assert count("blocks.1.attn.pattern") == (2, 0)
    assert count("attn.scores") == (0, 0)
    assert count("blocks.0.attn.result") == (3, 1)
    assert count("q_input") == (3, 0)  # a look at a stream, which is the residual, costs nothing
    assert count(edits={"blocks.2.q_input": add_noise}) == (3, 3)
    assert count(edits={"blocks.2.attn.pattern": add_noise}) == (2, 0)


def test_last_logits_unembed_one_position(odd, monkeypatch):
    seen = calls(monkeypatch, gpt2, "unembed")
    odd.run(TOKENS, logits="last")
    assert [x.shape for _, x in seen] == [(3, 1, 60)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"capture": "ln_final.out"},
        {"capture": "ln_final.scale", "edits": {"ln_final.normalized": add_noise}},
        {"capture": "logits"},
        {"edits": {"logits": torch.arange(7.0)[:, None] * torch.arange(101.0)}},
        {"edits": {"logits": lambda value, ctx: value * (1 + ctx.positions[..., None])}, "capture": ["logits"]},
        {"edits": {"blocks.2.resid_post": add_noise}},
    ],
)
def test_last_logits_are_the_last_of_all(odd, options):
    every, last = (odd.run(TOKENS, logits=logits, **options) for logits in ("all", "last"))
    assert last.logits.shape == (3, 1, 101)
    want = torch.stack([row[n - 1 : n] for row, n in zip(every.logits, LENGTHS, strict=True)])
    torch.testing.assert_close(last.logits, want, atol=1e-5, rtol=0)
    assert last.keys() == every.keys()
    for name in every:
        torch.testing.assert_close(last[name], every[name], atol=1e-5, rtol=0)
