"""Branches equal whole runs with the same edits: from any block, any position, any rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from cutaway.errors import EditError, InputError
from cutaway.model.passes import run_from
from cutaway.model.taps.tap import Tap
from cutaway.model.trunk import Trunk
from cutaway.text.tokens import Tokens
from tests.model.reference import ODD, padded, random_gpt2

LENGTHS = [9, 9, 9]
IDS, MASK = padded(LENGTHS, ODD["vocab_size"], seed=3)
KINDS = ["resid_pre", "attn.q", "attn.k", "attn.v", "attn.z", "attn.result", "attn_out", "resid_mid", "mlp.post"]
CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module", params=[{}, {"reorder_and_upcast_attn": True}], ids=["plain", "upcast"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk")
    random_gpt2(**ODD | request.param).save_pretrained(folder)
    return cutaway.load(folder, device="cpu")


@settings(deadline=None, max_examples=60)
@given(layer=st.integers(0, 2), start=st.integers(0, 8), kind=st.sampled_from([*KINDS, "mlp_out", "resid_post"]))
def test_branch_equals_the_whole_run(model, layer, start, kind):
    """An edit at one position, of the first computed block or of the next."""
    trunk = Trunk(model, Tokens(IDS, MASK))
    for edited in {layer, min(layer + 1, 2)}:
        site, rows = f"blocks.{edited}.{kind}", [2, 0, 2, 1]

        def edit(value, ctx):
            value[:, ctx.positions[0] == start] *= -0.5
            return value

        whole = model.run(Tokens(IDS[rows], MASK[rows]), edits={site: edit}).logits
        branch = trunk.branch(layer, rows=rows, start=start, edits={site: edit})
        torch.testing.assert_close(branch.logits, whole[:, start:], **CLOSE)
        last = trunk.branch(layer, rows=rows, start=start, edits={site: edit}, logits="last")
        torch.testing.assert_close(last.logits, whole[:, -1:], **CLOSE)


def test_branch_from_another_stream(model):
    trunk = Trunk(model, Tokens(IDS, MASK))
    x = trunk.resid[1][[1, 1], 4:] * 1.5
    whole = torch.cat([trunk.resid[1][[1, 1], :4], x], 1)
    expected = model.run(Tokens(IDS[[1, 1]], MASK[[1, 1]]), edits={"blocks.1.resid_pre": whole}).logits
    torch.testing.assert_close(trunk.branch(1, rows=[1, 1], start=4, x=x).logits, expected[:, 4:], **CLOSE)
    after = trunk.branch(3, rows=[0], start=4)
    torch.testing.assert_close(after.logits, model.run(Tokens(IDS[:1], MASK[:1])).logits[:, 4:], **CLOSE)


def test_branch_of_some_positions(model):
    """What later positions do is not needed."""
    trunk = Trunk(model, Tokens(IDS, MASK))

    def later(value, ctx):
        value[:, ctx.positions[0] >= 3] = 0.5
        return value

    asked = {"edits": {"blocks.1.attn.q": later}, "capture": ["resid_post", "attn.pattern"], "logits": None}
    part = trunk.branch(1, rows=[2, 0], start=3, end=5, **asked)
    whole = model.run(Tokens(IDS[[2, 0]], MASK[[2, 0]]), **asked)
    for i in (1, 2):
        name = f"blocks.{i}.resid_post"
        torch.testing.assert_close(part[name], whole[name][:, 3:5], **CLOSE)
        pattern = f"blocks.{i}.attn.pattern"
        torch.testing.assert_close(part[pattern], whole[pattern][:, :, 3:5, :5], **CLOSE)
    x = trunk.resid[1][[1], 3:5] * 2
    again = trunk.branch(1, rows=[1], start=3, end=5, x=x)
    assert again.tokens.ids.tolist() == IDS[[1], 3:5].tolist()
    assert again.logits.shape == (1, 2, ODD["vocab_size"])


def test_branch_of_padded_rows(model):
    ids, mask = padded([7, 3, 5], ODD["vocab_size"], seed=4)
    trunk = Trunk(model, Tokens(ids, mask))
    edits = {"blocks.1.mlp_out": 0.0}
    whole = model.run(Tokens(ids, mask), edits=edits, logits="last").logits
    torch.testing.assert_close(trunk.branch(1, rows=[0, 1, 2], edits=edits, logits="last").logits, whole, **CLOSE)


def test_branch_captures_and_stops(model):
    trunk = Trunk(model, Tokens(IDS, MASK))
    run = trunk.branch(1, rows=[0, 2], start=3, capture=["mlp_out", "attn.pattern"], logits=None)
    assert list(run) == [f"blocks.{i}.{kind}" for i in (1, 2) for kind in ("attn.pattern", "mlp_out")]
    whole = model.run(Tokens(IDS, MASK), capture=["mlp_out", "attn.pattern"])
    torch.testing.assert_close(run["blocks.2.attn.pattern"], whole["blocks.2.attn.pattern"][[0, 2], :, 3:], **CLOSE)
    torch.testing.assert_close(run["blocks.1.mlp_out"], whole["blocks.1.mlp_out"][[0, 2], 3:], **CLOSE)
    with pytest.raises(InputError, match="kept no logits"):
        _ = run.logits


def test_edits_in_force_hold_in_every_branch(model):
    """And that of the first block's entry is not done twice."""

    def halved(value, ctx):
        value[:, 6] *= 0.5
        return value

    with model.edited({"resid_pre": halved, "blocks.2.mlp_out": 0.0}):
        trunk = Trunk(model, Tokens(IDS, MASK))
        assert trunk.start(5) == 0
        found = trunk.branch(1, rows=[0, 1, 2], edits={"blocks.2.attn_out": 0.0}).logits
        expected = model.run(Tokens(IDS, MASK), edits={"blocks.2.attn_out": 0.0}).logits
        with pytest.raises(InputError, match="position 0"):
            trunk.branch(1, rows=[0], start=5)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert trunk.start(5) == 5


def test_own_edits_of_a_trunk_are_its_alone(model):
    trunk = Trunk(model, Tokens(IDS, MASK), edits={"embed": 0.0}, capture=["attn_out"], logits="last")
    edited = model.run(Tokens(IDS, MASK), edits={"embed": 0.0}, capture=["attn_out"], logits="last")
    assert torch.equal(trunk.run["blocks.0.attn_out"], edited["blocks.0.attn_out"])
    torch.testing.assert_close(trunk.branch(0, rows=[0, 1, 2], logits="last").logits, edited.logits, **CLOSE)


def test_a_trunk_without_keys_and_wrong_edits(model):
    trunk = Trunk(model, Tokens(IDS, MASK), keys=False)
    assert (trunk.keys, trunk.start(4)) == (None, 0)
    with pytest.raises(InputError, match="position 0"):
        trunk.branch(0, rows=[0], start=4)
    with pytest.raises(EditError, match="mlp_out"):
        trunk.branch(0, rows=[0], edits={"blocks.1.mlp_out": "no"})


@pytest.mark.parametrize("cached", [False, True])
def test_a_block_at_several_last_positions(model, cached):
    """They get the values that they get when all positions are asked for."""
    trunk, start = Trunk(model, Tokens(IDS, MASK)), 3 if cached else 0
    rows = torch.tensor([0, 2])
    x, past = trunk.resid[1][rows, start:], trunk.past(rows, start)
    a_tap = Tap.silent(trunk.tokens)
    whole = run_from(model.weights, model.config, 1, x, a_tap, past=past)
    last = torch.tensor([[4, 5], [1, 3]])
    found = run_from(model.weights, model.config, 1, x, a_tap, last, past)
    assert found.shape == (2, 2, whole.shape[2])
    torch.testing.assert_close(found, whole[torch.arange(2)[:, None], last], **CLOSE)


def test_rows_that_fit(model):
    trunk = Trunk(model, Tokens(IDS, MASK))
    assert trunk.fitting(1) == 1
    counts = [trunk.fitting(1 << 20, start=start, outputs=9 - start) for start in range(9)]
    assert counts == sorted(counts)
    assert counts[0] > 1
    assert trunk.fitting(1 << 20, patterns=True) < trunk.fitting(1 << 20)


@pytest.mark.parametrize("outputs", [1, 9])
def test_the_logits_of_the_rows_that_fit_are_within_the_budget(outputs):
    """Where the vocabulary is what is widest: logits, and once more as much to work on them."""
    wide = cutaway.load(random_gpt2(**ODD | {"vocab_size": 20_000}), device="cpu")
    trunk, budget = Trunk(wide, Tokens(IDS, MASK)), 8 << 20
    rows = trunk.fitting(budget, outputs=outputs)
    logits = trunk.branch(3, rows=[0] * rows, start=9 - outputs).logits
    assert logits.shape == (rows, outputs, 20_000)
    assert budget / 4 < 2 * logits.nbytes <= budget
