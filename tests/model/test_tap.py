"""Capturing and editing: every site, every kind of edit, and nothing that was not asked for."""

import re

import pytest
import torch
import torch.nn.functional as F

from cutaway.errors import EditError, InputError, SiteError
from cutaway.model import gpt2
from cutaway.model.sites import Sites
from cutaway.tokens import Tokens
from tests.model.reference import ODD, padded

LENGTHS = [7, 1, 5]
IDS, MASK = padded(LENGTHS, ODD["vocab_size"])
TOKENS = Tokens(IDS, MASK)
ALL = ["*", "ln_final.*", "blocks.*.*", "blocks.*.*.*"]
SIZES = {"B": 3, "P": 7, "H": 5, "D": 60, "K": 12, "M": 70, "V": 101, "1": 1}
SPLIT = {"attn_in", "q_input", "k_input", "v_input"}
LAYER = 1


def kinds():
    """Each site once, those of a block in the middle one."""
    from cutaway.model.config import Config

    every = Sites(Config(n_layers=3, n_heads=5, d_model=60, d_mlp=70, d_vocab=101, n_ctx=37))
    return [site for site in every if site.layer in (None, LAYER)]


def noise(value):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(value.shape, generator=generator, dtype=value.dtype)


def add_noise(value, ctx):
    return value + noise(value)


@pytest.fixture(scope="module")
def plain(odd):
    return odd.run(TOKENS, capture=ALL)


@pytest.fixture(scope="module")
def bare(odd):
    """The logits of a run that nothing is asked of."""
    return odd.run(TOKENS).logits


@pytest.fixture(params=kinds(), ids=lambda site: site.kind)
def site(request):
    return request.param


def calls(monkeypatch, module, name):
    """Count the calls of a function while it does its work; the list grows with each."""
    real, seen = getattr(module, name), []

    def counted(*args, **kwargs):
        seen.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return seen


# --- capture ---


def test_captures_have_the_stated_shape(plain, odd):
    for site in odd.sites():
        assert list(plain[site.name].shape) == [SIZES[letter] for letter in site.shape.split()], site.name
        assert plain[site.name].dtype == torch.float32
        assert not plain[site.name].requires_grad


def test_capturing_changes_nothing(odd, bare, site):
    run = odd.run(TOKENS, capture=site.name)
    torch.testing.assert_close(run.logits, bare, atol=1e-5, rtol=0)


@pytest.mark.parametrize("where", ["resid_pre", "attn.scores", "attn.pattern"])
def test_padding_and_the_future_do_not_reach_a_token(odd, where):
    changed = IDS.clone()
    changed[0, 4:] = torch.tensor([5, 6, 8])
    plain, run = (odd.run(Tokens(ids, MASK), capture=where) for ids in (IDS, changed))
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
    blocks = calls(monkeypatch, gpt2, "run_block")
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


# --- edits ---


@pytest.mark.parametrize("identity", [lambda value, ctx: value, lambda value, ctx: None], ids=["same", "None"])
def test_an_identity_edit_changes_nothing(odd, bare, site, identity):
    run = odd.run(TOKENS, edits={site.name: identity}, capture=site.name)
    torch.testing.assert_close(run.logits, bare, atol=1e-5, rtol=0)
    assert torch.equal(run[site.name], odd.run(TOKENS, capture=site.name)[site.name])


def test_an_edit_changes_what_comes_after_and_nothing_before(odd, plain, site):
    run = odd.run(TOKENS, edits={site.name: add_noise}, capture=ALL)
    order = {s.name: i for i, s in enumerate(odd.sites())}
    for name, value in run.items():
        if order[name] < order[site.name]:
            torch.testing.assert_close(value, plain[name], atol=1e-6, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(run[site.name], plain[site.name] + noise(plain[site.name]), atol=1e-5, rtol=1e-5)
    changed = (run.logits - plain.logits).abs().amax(-1)[MASK.bool()]
    if site.kind in ("attn.q", "attn.k", "attn.scores", "q_input", "k_input"):
        changed = changed[[i for i in range(len(changed)) if i not in (0, 7, 8)]]  # position 0 sees itself alone
    assert changed.min() > 1e-3


@pytest.mark.parametrize("kind", ["resid_pre", "q_input", "ln1.out", "attn.v", "attn.scores", "attn.z", "mlp.post"])
def test_an_edit_at_one_position_leaves_earlier_ones(odd, plain, kind):
    def at_4(value, ctx):
        index = (slice(None), slice(None), 4) if "scores" in kind else (slice(None), 4)
        value[index] += noise(value[index])
        return value

    run = odd.run(TOKENS, edits={kind: at_4})
    torch.testing.assert_close(run.logits[:, :4], plain.logits[:, :4], atol=1e-5, rtol=0)
    assert (run.logits[0, 4:] - plain.logits[0, 4:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("kind", ["attn_out", "mlp_out", "resid_post", "ln1.out", "embed", "ln_final.out"])
def test_an_edit_equals_the_same_hook_in_transformers(odd, odd_gpt2, kind):
    """The module's output, halved and shifted, there and here."""
    [site] = odd.sites().match(kind if kind.startswith(("embed", "ln_final")) else f"blocks.{LAYER}.{kind}")

    def hook(module, inputs, output):
        return (output[0] / 2 + 1, *output[1:]) if isinstance(output, tuple) else output / 2 + 1

    handle = odd_gpt2.get_submodule(site.hugging_face).register_forward_hook(hook)
    try:
        with torch.no_grad():
            want = odd_gpt2(IDS, attention_mask=MASK, use_cache=False).logits
    finally:
        handle.remove()
    run = odd.run(TOKENS, edits={site.name: lambda value, ctx: value / 2 + 1})
    torch.testing.assert_close(run.logits[MASK.bool()], want[MASK.bool()], atol=2e-5, rtol=0)


def test_split_inputs_steer_their_own_projection_alone(odd, plain):
    for name in "qkv":
        run = odd.run(TOKENS, edits={f"blocks.1.{name}_input": add_noise}, capture=["attn.*", "ln1.*"])
        for other in "qkv":
            difference = (run[f"blocks.1.attn.{other}"] - plain[f"blocks.1.attn.{other}"]).abs().max()
            assert difference > 0.1 if other == name else difference < 1e-5
        torch.testing.assert_close(run["blocks.1.ln1.out"], plain["blocks.1.ln1.out"])
    one_head = odd.run(
        TOKENS, edits={"blocks.1.q_input": lambda v, ctx: v.index_fill(2, torch.tensor(3), 0.0)}, capture="attn.q"
    )
    difference = (one_head["blocks.1.attn.q"] - plain["blocks.1.attn.q"]).abs().amax((0, 1, 3))
    assert (difference > 0.1).tolist() == [False, False, False, True, False]


def test_the_kinds_of_edit(odd):
    row = torch.arange(60.0)
    whole = odd.run(TOKENS, capture="blocks.0.resid_post")["resid_post"] + row
    for edit, want in [
        (0, torch.zeros(3, 7, 60)),
        (2.5, torch.full((3, 7, 60), 2.5)),
        (whole, whole),
        (row, row.expand(3, 7, 60)),
        (torch.tensor(3.0), torch.full((3, 7, 60), 3.0)),
        (whole[:1], whole[:1].expand(3, 7, 60)),
        (lambda value, ctx: value + row, whole),
    ]:
        run = odd.run(TOKENS, edits={"transformer.h.0": edit}, capture=["blocks.0.resid_post", "blocks.1.resid_pre"])
        assert torch.equal(run["blocks.0.resid_post"], want)
        assert torch.equal(run["blocks.1.resid_pre"], want)


def test_a_function_may_write_into_its_value(odd, plain):
    def write(value, ctx):
        value.zero_()

    def write_and_return(value, ctx):
        return value.zero_()

    run = odd.run(TOKENS, edits={"mlp_in": write, "attn_in": write}, capture=ALL)
    torch.testing.assert_close(run.logits, plain.logits, atol=1e-5, rtol=0)
    run = odd.run(TOKENS, edits={"mlp_in": write_and_return}, capture=ALL)
    assert (run["blocks.0.mlp_in"] == 0).all()
    assert torch.equal(run["blocks.0.resid_mid"], plain["blocks.0.resid_mid"])


def test_what_the_function_is_told(odd):
    seen = []
    odd.run(TOKENS, edits={"{embed,attn_out}": lambda value, ctx: seen.append(ctx)})
    assert [(ctx.site, ctx.layer) for ctx in seen] == [
        ("embed", None),
        *((f"blocks.{i}.attn_out", i) for i in range(3)),
    ]
    for ctx in seen:
        assert torch.equal(ctx.tokens, IDS)
        assert torch.equal(ctx.mask, MASK)
        assert ctx.positions.tolist() == [list(range(7)), [0] * 7, [0, 1, 2, 3, 4, 0, 0]]


def test_edits_apply_in_the_order_given(odd):
    def add(n):
        return lambda value, ctx: value + n

    def times(n):
        return lambda value, ctx: value * n

    with odd.edited({"blocks.0.mlp_out": 1.0, "mlp_out": add(2)}), odd.edited({"blocks.0.mlp_out": times(10)}):
        run = odd.run(TOKENS, edits={"blocks.0.hook_mlp_out": add(0.5)}, capture="mlp_out")
    assert (run["blocks.0.mlp_out"] == 30.5).all()
    run = odd.run(TOKENS, edits={"blocks.0.mlp_out": add(2), "hook_mlp_out": 1.0}, capture="mlp_out")
    assert (run.stack("mlp_out") == 1).all()


def test_edited_nests_and_undoes_itself(odd, bare):
    def logits():
        return odd.run(TOKENS).logits

    with odd.edited({"blocks.0.mlp_out": 0.0}) as same:
        assert same is odd
        outer = logits()
        with odd.edited({"blocks.1.mlp_out": 0.0}):
            assert not torch.equal(logits(), outer)
            assert odd.active_edits == {"blocks.0.mlp_out": "0.0", "blocks.1.mlp_out": "0.0"}
        assert torch.equal(logits(), outer)
        with pytest.raises(ZeroDivisionError), odd.edited({"blocks.1.mlp_out": 0.0}):
            raise ZeroDivisionError
        with pytest.raises(SiteError), odd.edited({"blocks.1.mlp_out": 0.0, "mlp_uot": 0.0}):
            pytest.fail("it was let in")
        assert torch.equal(logits(), outer)
    assert not torch.equal(outer, bare)
    assert torch.equal(logits(), bare)
    assert odd.active_edits == {}


# --- edits that do not fit ---


@pytest.mark.parametrize(
    ("site", "edit", "message"),
    [
        ("mlp_out", torch.ones(3, 7, 59), "has shape [3, 7, 59]: [3, 7, 60] (B P D) was expected"),
        ("attn.z", torch.ones(4, 7, 5, 12), "has shape [4, 7, 5, 12]: [3, 7, 5, 12] (B P H K) was expected"),
        ("mlp_out", lambda value, ctx: value[0], "has shape [7, 60]: [3, 7, 60] (B P D) was expected"),
        ("mlp_out", torch.ones(60, dtype=torch.float64), "has dtype torch.float64: torch.float32 was expected"),
        ("mlp_out", torch.ones(60, dtype=torch.long), "has dtype torch.int64: torch.float32 was expected"),
        ("mlp_out", lambda value, ctx: value.double(), "has dtype torch.float64: torch.float32 was expected"),
        ("mlp_out", torch.ones(60, device="meta"), "is on meta: cpu was expected"),
        ("mlp_out", lambda value, ctx: [value], "returned list: a tensor or None was expected"),
        ("mlp_out", lambda value, ctx: 0.0, "returned float: a tensor or None was expected"),
        ("mlp_out", "zero", "is str: a number, a tensor or a function (value, ctx) was expected"),
        ("mlp_out", True, "is bool: a number, a tensor or a function (value, ctx) was expected"),
        ("mlp_out", None, "is NoneType: a number, a tensor or a function (value, ctx) was expected"),
        ("mlp_out", [0.0], "is list: a number, a tensor or a function (value, ctx) was expected"),
    ],
)
def test_an_edit_that_does_not_fit(odd, bare, site, edit, message):
    with pytest.raises(EditError) as error:
        odd.run(TOKENS, edits={f"blocks.1.{site}": edit})
    assert str(error.value) == f"the edit at 'blocks.1.{site}' {message}"
    assert torch.equal(odd.run(TOKENS).logits, bare)


def test_a_bad_edit_fails_on_entering(odd):
    with pytest.raises(EditError, match=re.escape("the edit at 'mlp_out' is str")), odd.edited({"mlp_out": "zero"}):
        pytest.fail("it was let in")


def test_an_error_of_the_function_s_own_passes(odd):
    with pytest.raises(ZeroDivisionError):
        odd.run(TOKENS, edits={"embed": lambda value, ctx: 1 / 0})


def test_split_and_whole_cannot_both_be_steered(odd):
    message = "block 1 is steered at both ln1 (the unsplit stream) and a split input (normalized on its own): edit"
    with pytest.raises(EditError, match=re.escape(message)):
        odd.run(TOKENS, edits={"blocks.1.q_input": add_noise, "blocks.1.ln1.out": add_noise})
