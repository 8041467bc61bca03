"""The model's face: what it reads, what it says of itself, and the bundled model."""

import copy
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import cutaway
from cutaway.errors import EditError, InputError, SiteError, TokenizerError
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.checkpoints.checkpoint import bundled_folder
from cutaway.model.checkpoints.state_dict import expected_shapes
from cutaway.text.tokens import Tokens
from tests.model.reference import ODD, random_gpt2

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
ONES = torch.ones_like(IDS)

# --- inputs ---


def test_the_same_from_text_tokens_and_ids(bundled):
    text = "The people of the United States"
    tokens = bundled.tokens(text)
    want = bundled.run(text).logits
    for inputs in ([text], tokens, tokens.ids, tokens.ids.int(), Tokens(tokens.ids.short(), tokens.mask.bool())):
        run = bundled.run(inputs)
        assert torch.equal(run.logits, want)
        assert run.tokens.ids.tolist() == tokens.ids.tolist()
        assert run.tokens.positions.dtype == torch.long


def test_mixed_lengths_equal_each_text_alone(bundled):
    texts = ["The people of the United", "I", "We hold these truths to be self-evident, that all"]
    together = bundled.run(texts, capture="resid_post", bos=True)
    last = bundled.run(texts, bos=True, logits="last").logits
    for i, text in enumerate(texts):
        alone = bundled.run(text, capture="resid_post", bos=True)
        n = alone.tokens.ids.shape[1]
        torch.testing.assert_close(together.logits[i, :n], alone.logits[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(last[i, 0], alone.logits[0, -1], atol=1e-4, rtol=0)
        states = together.stack("resid_post")[:, i, :n], alone.stack("resid_post")[:, 0]
        torch.testing.assert_close(*states, atol=1e-4, rtol=2e-5)  # norms reach hundreds here


def test_ids_need_no_tokenizer(odd):
    assert not odd.has_tokenizer
    assert odd.run(IDS).logits.shape == (2, 3, 101)
    message = "has no tokenizer: pass token ids [batch, pos] instead of text, or put tokenizer.json"
    for call in (odd.run, odd.tokens):
        with pytest.raises(TokenizerError, match=re.escape(message)):
            call("some text")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            "",
            "the text is empty: at least one token was expected; bos=True would start from the end-of-text token alone",
        ),
        (["a", "", "b"], "text 2 of 3 is empty: at least one token was expected; bos=True"),
        ([], "no text was given: at least one was expected"),
        (torch.zeros(0, 3, dtype=torch.long), "no text was given: at least one was expected"),
        (torch.zeros(1, 0, dtype=torch.long), "the text is empty: at least one token was expected"),
        ("so " * 1200, "the text has 1,201 tokens and the model's context is 512: cut it, for example model.run("),
        (["so", "so " * 1200], "text 2 of 2 has 1,201 tokens and the model's context is 512"),
        (IDS[0], "a tensor of int64 [3] was given: integer token ids [batch, pos] were expected"),
        (IDS.float(), "a tensor of float32 [2, 3] was given: integer token ids [batch, pos] were expected"),
        (IDS > 1, "a tensor of bool [2, 3] was given: integer token ids [batch, pos] were expected"),
        (
            Tokens(IDS.float(), ONES),
            "a tensor of float32 [2, 3] was given: integer token ids [batch, pos] were expected",
        ),
        (IDS + 8187, "token id 8193 is outside the vocabulary: 0 to 8191 were expected"),
        (IDS - 3, "token id -2 is outside the vocabulary: 0 to 8191 were expected"),
        (
            Tokens(IDS, ONES[:1]),
            "a mask of shape [1, 3] was given for ids of shape [2, 3]: the same shape was expected",
        ),
        (Tokens(IDS, ONES.tril().flip(1)), "the mask is not right padding: each row must be ones, then zeros"),
        (Tokens(IDS, ONES * 2), "the mask is not right padding: each row must be ones, then zeros"),
        (Tokens(IDS, ONES * torch.tensor([1, 0, 1])), "the mask is not right padding"),
        (Tokens(IDS, ONES * 0), "text 1 of 2 is empty: at least one token was expected"),
        (7, "a text is a string, got int: give a string or a list of them"),
        ([["a"]], "a text is a string, got list: give a string or a list of them"),
    ],
)
def test_what_it_cannot_read(bundled, inputs, message):
    with pytest.raises(InputError) as error:
        bundled.run(inputs)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_advice_for_a_long_text_works(bundled):
    text = "so " * 600
    with pytest.raises(InputError) as error:
        bundled.run(text)
    advice = str(error.value).removeprefix(str(error.value).split("model.run")[0])
    assert eval(advice, {"model": bundled, "text": text}).logits.shape == (1, 512, 8192)


def test_bos(bundled):
    assert bundled.run("The", bos=True).tokens.rows() == [[8191, *bundled.tokens("The").rows()[0]]]
    assert bundled.run("", bos=True).tokens.rows() == [[8191]]
    for inputs in (IDS, Tokens(IDS, ONES)):
        with pytest.raises(
            InputError, match=r"^bos=True adds a token to text: give ids or Tokens with it already in front$"
        ):
            bundled.run(inputs, bos=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"logits": "none"}, InputError, "logits='none' is unknown: 'all', 'last' or None was expected"),
        ({"logits": None}, InputError, "nothing was asked for: name sites in capture=[...] or leave logits='all'"),
        ({"capture": "attn_uot"}, SiteError, "no site matches 'attn_uot'; near: 'attn_out'"),
        ({"capture": None}, SiteError, "a site pattern is a string, such as 'attn_out'; got NoneType"),
        ({"capture": ["embed", 3]}, SiteError, "a site pattern is a string, such as 'attn_out'; got int"),
        ({"edits": {"attn_uot": 0.0}}, SiteError, "no site matches 'attn_uot'; near: 'attn_out'"),
        ({"edits": [("attn_out", 0.0)]}, EditError, "edits are a mapping from site patterns to values, such as"),
    ],
)
def test_options_that_make_no_sense(bundled, options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        bundled.run("The", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device 'gpu' cannot be used: .*; try 'cpu' or 'auto'$"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used: .*; try 'cpu' or 'auto'$"),
        ({"device": 3.5}, "device '3.5' cannot be used: .*; try 'cpu' or 'auto'$"),
        ({"dtype": "float31"}, "dtype 'float31' is unknown: float32, float16, bfloat16, float64 are known$"),
        ({"dtype": torch.int64}, "dtype torch.int64 is unknown: float32, float16, bfloat16, float64 are known$"),
    ],
)
def test_devices_and_dtypes_that_are_not_there(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        cutaway.load(**options)


@pytest.mark.parametrize(("dtype", "want"), [(None, "float32"), ("bfloat16", "bfloat16"), (torch.float64, "float64")])
def test_dtypes(odd_folder, dtype, want):
    model = cutaway.load(odd_folder, device="cpu", dtype=dtype)
    assert {str(w.dtype) for w in model.parameters().values()} == {f"torch.{want}"}
    assert str(model.device) == "cpu"
    assert str(model.run(IDS).logits.dtype) == f"torch.{want}"


# --- what it says of itself ---


def test_gpt2_small_s_parameters():
    """Config's defaults are GPT-2 small's sizes."""
    config = Config.from_hf({"model_type": "gpt2"})
    assert config == Config(12, 12, 768, 3072, 50257, 1024)
    assert sum(torch.Size(shape).numel() for shape in expected_shapes(config).values()) == 124_439_808


def test_parts_are_all_of_it(odd, odd_gpt2):
    theirs = {name: weight.numel() for name, weight in odd_gpt2.named_parameters()}

    def count(*words):
        return sum(n for name, n in theirs.items() if any(word in name for word in words))

    parts = {part.name: part.parameters for part in odd.parts()}
    assert parts == {
        "token embedding": count("wte"),
        "position embedding": count("wpe"),
        "attention": count(".attn."),
        "MLP": count(".mlp."),
        "LayerNorms": count("ln_"),
        "unembedding": 0,
    }
    assert odd.n_parameters == sum(parts.values()) == sum(theirs.values())


def test_an_untied_head_is_counted(saved):
    model = random_gpt2(**ODD | {"tie_word_embeddings": False})
    ours = cutaway.load(saved(model), device="cpu")
    assert not ours.tied
    assert ours.n_parameters == sum(p.numel() for p in model.parameters())
    assert ours.parts()[-1].parameters == 101 * 60
    assert "a matrix of its own (untied)" in str(ours)


def test_the_fingerprint_is_of_the_numbers(odd, odd_folder, saved):
    assert re.fullmatch("[0-9a-f]{16}", odd.fingerprint)
    assert cutaway.load(odd_folder, device="cpu").fingerprint == odd.fingerprint
    changed = random_gpt2(**ODD)
    with torch.no_grad():
        changed.transformer.h[2].mlp.c_proj.bias[7] += 1e-6
    assert cutaway.load(saved(changed), device="cpu").fingerprint != odd.fingerprint
    assert cutaway.load(saved(random_gpt2(**ODD | {"n_head": 6})), device="cpu").fingerprint != odd.fingerprint


def test_it_prints_on_a_screen(bundled, odd):
    text = str(bundled)
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 100
    for fact in (
        "5,387,776 parameters",
        "layers 4",
        "heads 8",
        "d_model 256",
        "context 512",
        "8,192 entries",
        "(tied)",
    ):
        assert fact in text
    assert bundled.fingerprint in text
    assert "none: runs on token ids only" in str(odd)


# --- the bundled model ---


def test_the_bundled_model_continues(bundled):
    tokens = bundled.tokens("The people of the United")
    probabilities = bundled.run(tokens, logits="last").logits[0, 0].softmax(-1)
    assert bundled.tokenizer.string(probabilities.argmax()) == " States"
    assert probabilities.max().item() == pytest.approx(0.95, abs=0.005)
    assert bundled.n_parameters == sum(part.parameters for part in bundled.parts()) == 5_387_776
    assert bundled.tied


@pytest.mark.slow
def test_the_bundled_model_s_held_out_loss(bundled, documents):
    """4.31 nats over 86,402 predictions: document by document, 512 predictions a window, nothing put in front."""
    training = json.loads((bundled_folder() / "training.json").read_text())
    rows = bundled.tokenizer.encode(list(documents.values()))[0]
    windows = [row[i : i + 513] for row in rows for i in range(0, len(row) - 1, 512)]
    windows.sort(key=len)
    loss = count = 0
    for i in range(0, len(windows), 8):
        batch = Tokens.from_lists(windows[i : i + 8])
        targets = batch.ids[:, 1:].masked_fill(batch.mask[:, 1:] == 0, -100)
        logits = bundled.run(batch.first(targets.shape[1])).logits
        loss += F.cross_entropy(logits.mT, targets, reduction="sum").item()
        count += (targets >= 0).sum().item()
    assert count == 86_402
    assert round(loss / count, 2) == 4.31
    assert loss / count == pytest.approx(training["val_nats_per_token"], abs=0.005)  # 4.3034, over full windows only


def in_place(tensor):
    with torch.no_grad():
        tensor[0] += 1


CHANGES = {
    "in place": lambda model: in_place(model.weights.blocks[1].W_in),
    "in place, of one bias": lambda model: in_place(model.weights.blocks[1].b_in),
    "an optimizer": lambda model: step(model, torch.optim.SGD),
    "another optimizer": lambda model: step(model, torch.optim.AdamW),
    "through .data": lambda model: model.weights.W_pos.data.mul_(1.01),
    "through NumPy": lambda model: np.multiply(model.weights.W_E.numpy(), 1.01, out=model.weights.W_E.numpy()),
    "in inference mode": lambda model: torch.inference_mode()(in_place)(model.weights.ln_final.w),
    "another tensor": lambda model: model.weights.blocks.__setitem__(0, model.weights.blocks[1]),
    "other weights": lambda model: setattr(model, "weights", model.fold(value_biases=True).weights),
}


def step(model, kind):
    weights = list(model.parameters().values())
    for weight in weights:
        weight.requires_grad_()
    run = model.run([[1, 2, 3]], capture="embed", grad=True)
    run.logits.square().mean().backward()
    kind(weights, lr=0.01).step()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_fingerprint_follows_the_weights(odd_gpt2, change):
    theirs = copy.deepcopy(odd_gpt2).requires_grad_(False)
    model = cutaway.load(theirs, device="cpu")
    before = model.fingerprint
    assert model.fingerprint == before == model.fresh_fingerprint()
    change(model)
    assert model.fingerprint != before
    assert model.fingerprint == model.fresh_fingerprint()


def test_one_number_written_behind_torchs_back(odd_gpt2):
    """What a glance may miss, a fresh fingerprint sees."""
    model = cutaway.load(copy.deepcopy(odd_gpt2).requires_grad_(False), device="cpu")
    before = model.fingerprint
    model.weights.W_E.data[50, 33] += 1e-3
    assert model.fresh_fingerprint() != before


def test_contexts_of_an_edit_follow_the_weights():
    """What unigram.edit keeps of a model is not another's, fine-tuned in between."""
    model, fresh = cutaway.load(device="cpu"), cutaway.load(device="cpu")
    cutaway.unigram.edit(model, {" the": 0.5}, False)
    for changed in (model, fresh):
        changed.weights.ln_final.b.data.mul_(0.5)
    found, want = (cutaway.unigram.edit(changed, {" the": 0.5}, False) for changed in (model, fresh))
    pd.testing.assert_frame_equal(found.table(), want.table())
