"""verify: its claims hold of a sound model, fail of an unsound one, and its differences are transformers' own."""

import copy
import dataclasses
import json
import re

import pytest
import torch

import cutaway
from cutaway.analyses import verification
from cutaway.cli import main
from cutaway.errors import InputError
from cutaway.model.model import Model
from tests import results


def claims(result):
    return {row.claim: row for row in result.table().itertuples()}


def test_all_holds_of_the_bundled_model(bundled, hf):
    result = cutaway.verify(bundled, hf())
    assert result.holds
    assert len(result.items) == 7
    assert result.summary().count("\n") == 6
    assert result.items[-1].claim == "ids equal those of the reference's tokenizer"
    assert all(line.startswith("yes ") for line in result.summary().splitlines())


def test_differences_are_measured_against_the_reference(bundled64, hf):
    text = "The people of the United States"
    ids = torch.tensor(bundled64.tokenizer.encode([text])[0])
    other = copy.deepcopy(hf(torch.float64))
    with torch.no_grad():
        other.transformer.ln_f.bias += 0.01
        ours, theirs = hf(torch.float64)(ids).logits, other(ids).logits
    found = claims(cutaway.verify(bundled64, other, text=text))
    assert found["logits equal the reference's"].measured == pytest.approx((ours - theirs).abs().max().item(), rel=1e-6)
    moved = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max().item()
    assert found["log-probabilities equal the reference's"].measured == pytest.approx(moved, rel=1e-6)
    assert not found["logits equal the reference's"].holds


def test_an_output_that_sees_the_future_is_found(bundled):
    def look_ahead(value, ctx):
        return value + value.mean(1, keepdim=True)

    with bundled.edited({"blocks.0.resid_post": look_ahead}):
        result = cutaway.verify(bundled)
    assert not result.holds
    assert not claims(result)["changing later tokens changes no earlier output"].holds
    assert "NO  changing later tokens changes no earlier output" in result.summary()


@pytest.mark.parametrize("where", [slice(None), 17])
def test_an_output_that_ignores_its_token_is_found(bundled, where):
    """Everywhere, or at one of the positions that are looked at."""

    def forget(value, ctx):
        value[:, where] = 0
        return value

    with bundled.edited({"embed": forget}):
        found = claims(cutaway.verify(bundled))
    assert found["changing a token changes the output at it"].measured < 1e-5
    assert not found["changing a token changes the output at it"].holds


@pytest.mark.parametrize("n", [2, 3, 4, 5, 512])
def test_texts_of_any_length(bundled, n):
    result = cutaway.verify(bundled, text=torch.arange(n)[None])
    assert result.holds, result.summary()


def test_a_head_of_its_own_is_said_to_be_one(wordless):
    result = cutaway.verify(wordless[0])
    assert result.holds
    assert claims(result)["the head is a matrix of its own (untied)"].measured > 0


def test_mistakes_are_named(bundled, wordless):
    with pytest.raises(InputError, match="verify needs a text of at least two tokens"):
        cutaway.verify(bundled, text="a")
    with pytest.raises(InputError, match="the reference has 101 vocabulary entries, this model has 8,192"):
        cutaway.verify(bundled, wordless[1])
    training = copy.deepcopy(wordless[1]).train()
    with pytest.raises(InputError, match=r"the reference is in training mode, .* call \.eval\(\) on it$"):
        cutaway.verify(wordless[0], training)
    assert training.training


def test_the_call_says_what_it_was_given(bundled, hf):
    assert cutaway.verify(bundled).meta["call"].endswith("cutaway.verify(model)")
    result = cutaway.verify(bundled, hf(), text="The people of", seed=3)
    assert result.meta["call"].endswith("cutaway.verify(model, hf_model, text='The people of', seed=3)")
    assert result.meta["input"] == "The people of"


@pytest.mark.slow
def test_another_tokenizer_is_found(bundled, hf, tmp_path):
    """One added token that the reference has and the model has not, or that is found in a text in another way."""
    from tokenizers import AddedToken

    same = "ids equal those of the reference's tokenizer"
    theirs = copy.deepcopy(hf())
    backend = copy.deepcopy(bundled.tokenizer._backend)
    for added, differ in (([], 0), (["<|sep|>"], 1), ([AddedToken("<|sep|>", lstrip=True)], 1)):
        backend.add_tokens(added)
        backend.save(str(tmp_path / "tokenizer.json"))
        theirs.save_pretrained(tmp_path)
        reference = type(theirs).from_pretrained(tmp_path).eval()
        found = claims(cutaway.verify(bundled, reference))
        assert (found[same].measured, found[same].holds) == (differ, not differ)
        ours = cutaway.load(tmp_path, device="cpu")
        assert claims(cutaway.verify(ours, reference, text="The people of"))[same].holds
    config = copy.deepcopy(theirs.config)
    config.name_or_path = ""  # made here, beside no tokenizer
    reference = type(theirs)(config).eval()
    assert same not in claims(cutaway.verify(bundled, reference))


def failing(result):
    return [fact.claim for fact in result.items if not fact.holds]


@pytest.mark.parametrize("site", ["attn.scores", "attn.pattern"])
def test_attention_to_the_future_is_found(bundled, site):
    """A little of it, in one head of one layer, at one key."""

    def leak(value, ctx):
        value[:, 1, :, -1] = 0.01 if site == "attn.pattern" else value[:, 1, :, 0]
        return value

    with bundled.edited({f"blocks.2.{site}": leak}):
        result = cutaway.verify(bundled)
    assert "changing later tokens changes no earlier output" in failing(result)
    assert cutaway.verify(bundled).holds


def test_a_row_that_its_neighbour_moves_is_found(bundled):
    with bundled.edited({"blocks.1.resid_post": lambda value, ctx: value + value.sum(0)}):
        assert "a text padded in a batch gets what it gets alone" in failing(cutaway.verify(bundled))


def test_a_copy_of_the_head_is_not_called_its_own(bundled):
    """Untied in name, the same in every number: what is measured says so."""
    weights = dataclasses.replace(bundled.weights, W_U=bundled.weights.W_E.clone())
    config = dataclasses.replace(bundled.config, tied=False)
    twin = Model(config, weights, None, name="twin")
    [claim] = failing(cutaway.verify(twin))
    assert claim == "the head is a matrix of its own (untied)"
    assert claims(cutaway.verify(twin))[claim].measured == 0
    head = twin.weights.W_U
    head[7, 3] += 0.25
    result = cutaway.verify(twin)
    assert result.holds
    assert claims(result)[claim].measured == pytest.approx(0.25)


@pytest.mark.parametrize("layer", [0, 3])
def test_a_model_that_gives_no_numbers_holds_nothing(bundled, layer):
    """Not a number is no small difference, at whichever of the compared positions it stands."""

    def break_one(value, ctx):
        value[-1, -1] = torch.nan
        return value

    with bundled.edited({f"blocks.{layer}.resid_post": break_one}):
        result = cutaway.verify(bundled)
    assert "changing a token changes the output at it" in failing(result)
    with bundled.edited({"logits": torch.nan}):
        assert len(failing(cutaway.verify(bundled))) == 3


def test_other_weights_are_found_and_an_edited_model_differs(bundled, hf):
    equal = ["logits equal the reference's", "log-probabilities equal the reference's"]
    other = copy.deepcopy(hf())
    with torch.no_grad():
        other.transformer.h[3].mlp.c_proj.weight[5, 6] += 2.0
    assert failing(cutaway.verify(bundled, other)) == equal
    with bundled.edited({"blocks.3.attn_out": 0.0}):
        result = cutaway.verify(bundled, hf())
    assert failing(result) == equal
    assert result.meta["edits"] == [{"blocks.3.attn_out": "0.0"}]


def test_a_shift_of_all_logits_is_no_other_probability(bundled64, hf):
    with bundled64.edited({"logits": lambda value, ctx: value + 3.0}):
        result = cutaway.verify(bundled64, hf(torch.float64))
    assert failing(result) == ["logits equal the reference's"]
    assert claims(result)["logits equal the reference's"].measured == pytest.approx(3.0)


def test_folded_and_half_precision_models_hold(bundled):
    assert cutaway.verify(bundled.fold(layer_norm=True, center_unembed=True)).holds
    assert cutaway.verify(cutaway.load(device="cpu", dtype="bfloat16")).holds


@pytest.mark.slow
def test_on_the_command_line(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["cutaway", "anatomy", "--verify", "--device", "cpu", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0
        return capsys.readouterr()

    printed = run()
    assert [line[:4] for line in printed.out.splitlines()] == ["yes "] * 7
    assert printed.err == ""
    data = json.loads(run("--json").out)
    assert data["analysis"] == "verify"
    assert [set(row) for row in data["data"]] == [{"claim", "measured", "allowed", "unit", "holds"}] * 7
    assert all(row["holds"] and row["measured"] <= row["allowed"] for row in data["data"][:2])
    run("-o", str(tmp_path / "facts.svg"))
    assert "the head is the embedding matrix itself (tied)" in (tmp_path / "facts.svg").read_text()
    results.save_wordless(tmp_path / "wordless")
    assert "yes the head is a matrix of its own (untied)" in re.sub(
        " +", " ", run("-m", str(tmp_path / "wordless")).out
    )


def test_facts_come_one_by_one(bundled):
    found = verification.facts(bundled)
    first = next(found)
    assert first.claim == "the head is the embedding matrix itself (tied)"
    items = [first, *found]
    assert verification.verification(bundled, items).to_dict() == cutaway.verify(bundled).to_dict()
