"""Edits: every site, every kind of edit, what they reach and what they do not."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import EditError, SiteError
from tests.model.reference import ALL, TOKENS, add_noise, noise

LAYER = 1
ARRAY = ", such as torch.from_numpy(array).to(value)"


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
    changed = (run.logits - plain.logits).abs().amax(-1)[TOKENS.mask.bool()]
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
            want = odd_gpt2(TOKENS.ids, attention_mask=TOKENS.mask, use_cache=False).logits
    finally:
        handle.remove()
    run = odd.run(TOKENS, edits={site.name: lambda value, ctx: value / 2 + 1})
    torch.testing.assert_close(run.logits[TOKENS.mask.bool()], want[TOKENS.mask.bool()], atol=2e-5, rtol=0)


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

    for function in (write, write_and_return):
        run = odd.run(TOKENS, edits={"mlp_in": function}, capture=ALL)
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
        assert torch.equal(ctx.tokens, TOKENS.ids)
        assert torch.equal(ctx.mask, TOKENS.mask)
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
            assert odd.active_edits == [{"blocks.0.mlp_out": "0.0"}, {"blocks.1.mlp_out": "0.0"}]
        assert torch.equal(logits(), outer)
        with pytest.raises(ZeroDivisionError), odd.edited({"blocks.1.mlp_out": 0.0}):
            raise ZeroDivisionError
        with pytest.raises(SiteError), odd.edited({"blocks.1.mlp_out": 0.0, "mlp_uot": 0.0}):
            pytest.fail("it was let in")
        assert torch.equal(logits(), outer)
    assert not torch.equal(outer, bare)
    assert torch.equal(logits(), bare)
    assert odd.active_edits == []


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
        ("mlp_out", np.zeros(60), f"is ndarray: a number, a tensor or a function (value, ctx) was expected{ARRAY}"),
        ("mlp_out", lambda value, ctx: value.numpy(), f"returned ndarray: a tensor or None was expected{ARRAY}"),
        ("mlp_out", np.bool_(True), "is bool: a number, a tensor or a function (value, ctx) was expected"),
        ("mlp_out", 1e39, "is a number beyond what torch.float32 holds"),
        ("mlp_out", -(10**400), "is a number beyond what torch.float32 holds"),
        ("mlp_out", [0.0], "is list: a number, a tensor or a function (value, ctx) was expected"),
    ],
)
def test_an_edit_that_does_not_fit(odd, bare, site, edit, message):
    with pytest.raises(EditError) as error:
        odd.run(TOKENS, edits={f"blocks.1.{site}": edit})
    assert str(error.value) == f"the edit at 'blocks.1.{site}' {message}"
    assert torch.equal(odd.run(TOKENS).logits, bare)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.int64(2), np.float32("inf"), Fraction(1, 2)])
def test_a_number_of_any_kind_fills(odd, number):
    run = odd.run(TOKENS, edits={"blocks.1.mlp_out": number}, capture="blocks.1.mlp_out")
    assert (run["mlp_out"] == float(number)).all()
    with odd.edited({"blocks.1.mlp_out": number}):
        assert float(Fraction(odd.active_edits[0]["blocks.1.mlp_out"]) if number != np.inf else "inf") == float(number)


def test_a_number_is_beyond_one_dtype_and_not_another(odd_folder):
    small = cutaway.load(odd_folder, device="cpu", dtype="float16")
    with pytest.raises(EditError, match=r"beyond what torch.float16 holds"):
        small.run(TOKENS, edits={"mlp_out": 70_000})
    wide = cutaway.load(odd_folder, device="cpu", dtype="float64")
    for number in (1e39, np.float32(0.5)):
        assert (wide.run(TOKENS, edits={"mlp_out": number}, capture="mlp_out").stack("mlp_out") == number).all()


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


def test_who_watches_sees_the_edited_values_and_keeps_nothing(odd):
    seen, layers = {}, []
    whole = odd.run(TOKENS, capture=ALL, edits={"blocks.1.mlp_out": 0.5})
    watch = {pattern: lambda value, ctx: seen.update({ctx.site: value}) for pattern in ALL}
    run = odd.run(TOKENS, watch=watch, edits={"blocks.1.mlp_out": 0.5})
    assert list(seen) == list(whole)
    assert all(torch.equal(seen[name], whole[name]) for name in whole)
    assert not list(run)
    odd.run(TOKENS, watch={"mlp_out": lambda value, ctx: layers.append(ctx.layer)}, logits=None)
    assert layers == list(range(odd.config.n_layers))
    with pytest.raises(SiteError):
        odd.run(TOKENS, watch={"nothing": print})


def test_an_edit_in_place_counts_as_a_hook_in_transformers_does(odd, odd_gpt2):
    def hook(module, inputs, output):
        output[:, :, 3] = 0

    handle = odd_gpt2.transformer.h[LAYER].mlp.register_forward_hook(hook)
    try:
        with torch.no_grad():
            want = odd_gpt2(TOKENS.ids, attention_mask=TOKENS.mask, use_cache=False).logits
    finally:
        handle.remove()

    def in_place(value, ctx):
        value[:, :, 3] = 0

    run = odd.run(TOKENS, edits={f"blocks.{LAYER}.mlp_out": in_place}, capture="mlp_out")
    torch.testing.assert_close(run.logits[TOKENS.mask.bool()], want[TOKENS.mask.bool()], atol=2e-5, rtol=0)
    assert run[f"blocks.{LAYER}.mlp_out"][:, :, 3].abs().max() == 0


def test_an_edit_in_place_at_every_site_equals_the_one_that_returns(odd, site):
    def in_place(value, ctx):
        value *= 0.5

    run = odd.run(TOKENS, edits={site.name: in_place}, capture=ALL)
    want = odd.run(TOKENS, edits={site.name: lambda value, ctx: value * 0.5}, capture=ALL)
    for name, value in want.items():
        torch.testing.assert_close(run[name], value, msg=lambda m, name=name: f"{name}: {m}")


def test_in_place_edits_one_after_another(odd):
    def add(value, ctx):
        value += 1

    with odd.edited({"blocks.1.mlp_out": add}):
        run = odd.run(TOKENS, edits={"blocks.1.mlp_{in,out}": add}, capture="blocks.1.mlp_*")
        assert torch.equal(run["mlp_in"], odd.run(TOKENS, capture="blocks.1.mlp_in")["mlp_in"] + 1)
    same = odd.run(TOKENS, edits={"blocks.1.mlp_in": add}, capture="blocks.1.mlp_out")["mlp_out"]
    torch.testing.assert_close(run["mlp_out"], same + 2, atol=1e-4, rtol=1e-4)


def test_a_watcher_that_writes_is_refused(odd, site):
    def write(value, ctx):
        value[:] = 0

    # One stream seen by many heads is one in memory, which torch itself lets nobody write into.
    shared = site.kind in ("attn_in", "q_input", "k_input", "v_input")
    refused, why = (RuntimeError, "single memory location") if shared else (EditError, "wrote into its value")
    with pytest.raises(refused, match=why) as error:
        odd.run(TOKENS, watch={site.name: write})
    assert f"the watcher at {site.name!r}" in f"{error.value} {getattr(error.value, '__notes__', '')}"
    with torch.inference_mode(), pytest.raises(refused, match=why):
        odd.run(TOKENS, watch={site.name: write})


@pytest.mark.parametrize("how", ["edits", "watch"])
def test_an_error_in_a_function_says_at_which_site(odd, how):
    def fail(value, ctx):
        if ctx.layer == 2:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as error:
        odd.run(TOKENS, **{how: {"mlp_out": fail}})
    [note] = error.value.__notes__
    shape = f"[{len(TOKENS)}, {TOKENS.ids.shape[1]}, {odd.config.d_model}]"
    who = {"edits": "edit", "watch": "watcher"}[how]
    assert note == f"the {who} at 'blocks.2.mlp_out' raised this; its value was torch.float32 {shape}"
