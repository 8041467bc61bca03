"""A caller's transformers model: read in place, and after everything bit for bit what it was."""

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

import cutaway
from cutaway.errors import CheckpointError
from tests.model.reference import ALL, ODD, TOKENS, random_gpt2

IDS = torch.tensor([[1, 2, 3, 4]])
EVERY = {"layer_norm": True, "center_unembed": True, "center_writing": True, "value_biases": True}


def bits(model):
    """Every parameter and buffer: its bytes, its place in memory, and whether it asks for a gradient."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {
        name: (
            bytes(t.detach().contiguous().view(torch.uint8).flatten().tolist()),
            t.data_ptr(),
            t.requires_grad,
            t.grad,
        )
        for name, t in tensors.items()
    }


def spoil(value, ctx):
    """An edit that writes into what it is given."""
    return value.mul_(3).add_(1)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("training", [False, True])
def test_it_stays_untouched(dtype, tied, training):
    theirs = random_gpt2(**ODD | {"tie_word_embeddings": tied}).train(training)
    before, config = bits(theirs), theirs.config.to_dict()
    model = cutaway.load(theirs, device="cpu", dtype=dtype)
    model.run(TOKENS, capture="resid_post", grad=True).logits.sum().backward()
    memory = {weight.untyped_storage().data_ptr() for weight in model.parameters().values()}
    for name, value in model.run(TOKENS, capture=ALL).items():
        assert value.untyped_storage().data_ptr() not in memory, name
    for site in ("embed", "pos_embed", "blocks.0.attn.q", "blocks.1.ln2.out", "blocks.*.resid_post", "logits"):
        with model.edited({site: spoil}):
            model.run(TOKENS, edits={"blocks.0.mlp_out": 0.0})
            model.generate(IDS, 3, temperature=0)
    folded = model.fold(**EVERY)
    folded.generate(IDS, 3, seed=1, edits={"embed": spoil})
    for made in (model, folded):
        assert made.fingerprint
        assert all(not weight.requires_grad for weight in made.parameters().values())
    assert bits(theirs) == before
    assert theirs.config.to_dict() == config
    assert theirs.training == training
    assert all(module.training == training for module in theirs.modules())
    assert (theirs.lm_head.weight is theirs.transformer.wte.weight) == tied


def test_weights_in_place_are_shared_and_others_copied():
    theirs = random_gpt2(**ODD)
    model = cutaway.load(theirs, device="cpu")
    assert model.weights.W_E.data_ptr() == theirs.transformer.wte.weight.data_ptr()
    assert model.weights.blocks[1].W_QKV.data_ptr() == theirs.transformer.h[1].attn.c_attn.weight.data_ptr()
    wide = cutaway.load(theirs, device="cpu", dtype="float64")
    torch.testing.assert_close(wide.run(IDS).logits, copy.deepcopy(theirs).double()(IDS).logits.detach())


def test_as_it_is_now_and_not_as_it_was_made():
    theirs = random_gpt2(**ODD)
    theirs.resize_token_embeddings(110, mean_resizing=False)
    with torch.no_grad():
        theirs.transformer.h[2].mlp.c_fc.weight.mul_(2)
        want = theirs(IDS).logits
    model = cutaway.load(theirs, device="cpu")
    assert model.config.d_vocab == 110
    torch.testing.assert_close(model.run(IDS).logits, want, atol=2e-5, rtol=0)


def test_its_name_and_tokenizer(tmp_path):
    model = cutaway.load(random_gpt2(**ODD), device="cpu")
    assert (model.name, model.has_tokenizer, model.origin) == ("GPT2LMHeadModel", False, "cutaway.load(hf_model)")
    random_gpt2(**ODD).save_pretrained(tmp_path / "mine")
    again = cutaway.load(GPT2LMHeadModel.from_pretrained(tmp_path / "mine"), device="cpu")
    assert (again.name, again.fingerprint) == ("mine", model.fingerprint)


def test_from_the_bundled_folder_it_comes_with_its_tokenizer(bundled):
    from cutaway.model.checkpoints.checkpoint import bundled_folder

    model = cutaway.load(GPT2LMHeadModel.from_pretrained(bundled_folder()), device="cpu")
    assert model.fingerprint == bundled.fingerprint
    assert model.predict("The people of the United", top=1).table().token[0] == " States"


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (
            lambda: GPT2Model(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=11, tie_word_embeddings=False)),
            "the GPT2Model lacks lm_head.weight, which its configuration asks for",
        ),
        (
            lambda: torch.nn.Linear(2, 2),
            "a Linear was given: a folder, a hub id or a transformers GPT-2 (such as GPT2LMHeadModel) was expected",
        ),
        (
            lambda: random_gpt2(**ODD).to("meta"),
            "the GPT2LMHeadModel: wte.weight is on the meta device and has no values: load them first",
        ),
        (
            lambda: broken(random_gpt2(**ODD)),
            "the GPT2LMHeadModel: h.1.ln_2.bias holds NaN or infinite values: the file is damaged",
        ),
    ],
    ids=["no head", "no GPT-2", "meta", "NaN"],
)
def test_models_that_are_refused(theirs, message):
    with pytest.raises(CheckpointError) as caught:
        cutaway.load(theirs(), device="cpu")
    assert str(caught.value) == message


def broken(model):
    with torch.no_grad():
        model.transformer.h[1].ln_2.bias[3] = torch.nan
    return model
