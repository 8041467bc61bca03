"""nanoGPT's ckpt.pt: GPT-2 with the exact GELU, as transformers computes it; what forks add to it is refused."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

import cutaway
from cutaway.errors import CheckpointError
from tests.model.reference import random_gpt2
from tests.model.test_checkpoint_forms import IDS, MODEL, TINY, WTE


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A plain folder."""
    folder = tmp_path_factory.mktemp("plain")
    random_gpt2(**TINY).save_pretrained(folder)
    return folder


def nanogpt(prefix="", bias=True, only="ckpt.pt", **args):
    """What nanoGPT's train.py saves of this model: Linear's [out, in] matrices and no config.json."""

    def make(folder):
        matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        held = {name: t.t().contiguous() if name.endswith(matrices) else t for name, t in linears(folder, bias).items()}
        sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 53, "bias": bias}
        state = {prefix + name: tensor for name, tensor in (held | {"lm_head.weight": held[WTE]}).items()}
        saved = {"model": state, "model_args": sizes | {"dropout": 0.0} | args, "iter_num": 5}
        saved |= {"optimizer": {"state": {}}, "best_val_loss": torch.tensor(2.0), "config": {"dataset": "a"}}
        torch.save(saved, folder / only)
        (folder / MODEL).unlink()
        (folder / "config.json").unlink()

    return make


def linears(folder, bias):
    held = load_file(folder / MODEL)
    return held if bias else {name: tensor for name, tensor in held.items() if not name.endswith(".bias")}


@pytest.fixture(scope="module")
def exact_gelu(plain):
    """nanoGPT's model is GPT-2 with the exact GELU: transformers' logits of it, with biases and without."""

    def logits(bias):
        model = GPT2LMHeadModel.from_pretrained(plain, activation_function="gelu")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(".bias") and not bias:
                    weight.zero_()
            return model(IDS).logits

    return logits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("give", [".", "ckpt.pt"])
def test_nanogpt(plain, exact_gelu, tmp_path, bias, prefix, give):
    folder = shutil.copytree(plain, tmp_path / "out")
    nanogpt(prefix, bias)(folder)
    model = cutaway.load(folder / give, device="cpu")
    torch.testing.assert_close(model.run(IDS).logits, exact_gelu(bias), atol=1e-5, rtol=0)
    assert (model.name, model.config.n_ctx, model.tied) == ("out" if give == "." else "ckpt.pt", 24, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"use_rmsnorm": True}, "has model_args that change the model, use_rmsnorm"),
        ({"n_layer": "2"}, "gives n_layer = '2': a whole number of at least 1 was expected"),
        ({"vocab_size": None}, "gives vocab_size = None: a whole number of at least 1 was expected"),
        ({"n_layer": 3}, "holds 2 blocks, but the configuration gives n_layer = 3"),
    ],
)
def test_nanogpt_that_is_something_else(plain, tmp_path, args, message):
    folder = shutil.copytree(plain, tmp_path / "out")
    nanogpt(**args)(folder)
    with pytest.raises(CheckpointError, match=message):
        cutaway.load(folder, device="cpu")
