"""Reading checkpoints: the same model from every form, and every damage named."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import cutaway
from cutaway.errors import CheckpointError, TokenizerError
from cutaway.model.architectures.gpt2_config import Config
from tests.model.reference import ODD, random_gpt2
from tests.test_tokens import copy_vocabulary

IDS = torch.tensor([[1, 2, 3, 4]])
QKV = "transformer.h.1.attn.c_attn.weight"


@pytest.fixture
def folder(odd_folder, tmp_path):
    """A sound checkpoint of one's own to damage."""
    return shutil.copytree(odd_folder, tmp_path / "mine")


@pytest.fixture
def change(folder):
    """Change the checkpoint's tensors, or its configuration, in place."""

    def change(tensors=None, **config):
        path = folder / "model.safetensors"
        if tensors:
            held = load_file(path) | tensors
            save_file({k: t.contiguous() for k, t in held.items() if t is not None}, path, metadata={"format": "pt"})
        if config:
            path = folder / "config.json"
            raw = json.loads(path.read_text()) | config
            path.write_text(json.dumps({k: v for k, v in raw.items() if v != "left out"}))
        return folder

    return change


def fails(source, message, error=CheckpointError):
    with pytest.raises(error) as caught:
        cutaway.load(source, device="cpu")
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


# --- forms ---


def test_names_and_repeats(folder, odd):
    for source in (folder, str(folder), f"{folder}/"):
        model = cutaway.load(source, device="cpu")
        assert model.name == "mine"
        assert model.fingerprint == odd.fingerprint
    assert cutaway.load().name == "sotu"


def test_names_without_the_prefix(folder, odd, change):
    tensors = load_file(folder / "model.safetensors")
    bare = {k.removeprefix("transformer."): t for k, t in tensors.items()}
    change(dict.fromkeys(tensors) | bare)
    assert cutaway.load(folder, device="cpu").fingerprint == odd.fingerprint


def test_causal_masks_of_old_files_and_a_tied_head_are_fine(folder, odd, change):
    old = {"transformer.h.0.attn.bias": torch.ones(1, 1, 37, 37).tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    change(old | {"lm_head.weight": load_file(folder / "model.safetensors")["transformer.wte.weight"].clone()})
    model = cutaway.load(folder, device="cpu")
    assert model.tied
    assert model.fingerprint == odd.fingerprint


def test_shards_and_pickles_hold_the_same_model(odd_gpt2, odd, tmp_path):
    odd_gpt2.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert cutaway.load(tmp_path / "shards", device="cpu").fingerprint == odd.fingerprint
    shutil.copytree(tmp_path / "shards", tmp_path / "bin", ignore=shutil.ignore_patterns("*.safetensors*"))
    torch.save(odd_gpt2.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    assert cutaway.load(tmp_path / "bin", device="cpu").fingerprint == odd.fingerprint


def test_half_precision_files_load_as_float32(odd_gpt2, tmp_path):
    random_gpt2(**ODD).half().save_pretrained(tmp_path)
    model = cutaway.load(tmp_path, device="cpu")
    assert model.dtype == torch.float32
    want = odd_gpt2.transformer.wte.weight.half().float()
    assert torch.equal(model.weights.W_E, want)


@pytest.mark.parametrize("files", [["vocab.json", "merges.txt"], ["tokenizer.json"], []])
def test_the_tokenizer_beside_the_weights(folder, change, files, tmp_path):
    change(vocab_size=50257, tensors={"transformer.wte.weight": torch.ones(50257, 60)})
    if "vocab.json" in files:
        copy_vocabulary(folder)
    if "tokenizer.json" in files:
        from transformers import GPT2TokenizerFast

        copy_vocabulary(tmp_path)
        GPT2TokenizerFast.from_pretrained(tmp_path).save_pretrained(folder)
    model = cutaway.load(folder, device="cpu")
    if files:
        assert model.run("Aritra", bos=True).tokens.rows() == [[50256, 32, 799, 430]]
        return
    with pytest.raises(TokenizerError, match=r"^the checkpoint 'mine' has no tokenizer: pass token ids \[batch, pos\]"):
        model.run("Aritra")
    assert model.run(IDS).logits.shape == (1, 4, 50257)


# --- not a checkpoint ---


def test_a_path_that_is_not_there(tmp_path):
    missing = str(tmp_path / "nothing" / "here")
    fails(missing, f"^'{re.escape(missing)}' is not there: a folder with config.json and the weights was expected$")


def test_a_file_where_a_folder_was_meant(folder):
    (folder / "notes.txt").write_text("")
    expected = "a folder with config.json and the weights was expected"
    fails(folder / "notes.txt", rf"notes.txt' is a file, and not of weights \(.safetensors, .bin, .pt\): {expected}$")
    with pytest.raises(CheckpointError, match=r"safetensors' is a file, and revision='main' is for a hub id: leave it"):
        cutaway.load(folder / "model.safetensors", revision="main")


def test_a_folder_that_is_no_model(tmp_path):
    fails(tmp_path, f"^{re.escape(str(tmp_path))} is not a model: it has no config.json$")


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    fails(folder, f"^{re.escape(str(folder))} has no weights: model.safetensors .* was expected$")


@pytest.mark.parametrize("raw", ["", "{", "[1]", "\x80"])
def test_a_configuration_that_cannot_be_read(folder, raw):
    (folder / "config.json").write_bytes(raw.encode("latin-1"))
    fails(folder, r"config\.json (cannot be read as JSON: |holds a JSON list: an object was expected)")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, r"config\.json says model_type 'llama': Cutaway opens GPT-2 models \('gpt2'\) only"),
        (
            {"model_type": "left out", "n_embd": "left out"},
            r"config\.json says model_type None: Cutaway opens GPT-2 mod",
        ),
        ({"n_layer": 0}, "gives n_layer = 0: a whole number of at least 1 was expected"),
        ({"n_embd": 60.0}, r"gives n_embd = 60\.0: a whole number of at least 1 was expected"),
        ({"n_head": True}, "gives n_head = True: a whole number of at least 1 was expected"),
        ({"n_inner": "70"}, "gives n_inner = '70': a whole number"),
        ({"n_head": 7}, "n_embd = 60 is not a multiple of n_head = 7"),
        ({"activation_function": "gelu_old"}, "gives activation_function = 'gelu_old': known are gelu_new, "),
        ({"activation_function": ["relu"]}, r"gives activation_function = \['relu'\]: known are gelu_new, "),
        ({"layer_norm_epsilon": "tiny"}, "gives layer_norm_epsilon = 'tiny': a number between 0 and 1 was expected"),
        ({"layer_norm_epsilon": -1e-5}, "gives layer_norm_epsilon = -1e-05: a number between 0 and 1 was expected"),
        ({"add_cross_attention": True}, "asks for cross-attention .*, which Cutaway does not run"),
        ({"n_layer": 4}, "mine holds 3 blocks, but the configuration gives n_layer = 4$"),
        ({"n_layer": 2}, "mine holds 3 blocks, but the configuration gives n_layer = 2$"),
        ({"vocab_size": 102}, r"wte\.weight has shape \[101, 60\], but the configuration makes it \[102, 60\]"),
        ({"n_inner": "left out"}, r"h\.0\.mlp\.c_fc\.weight has shape \[60, 70\], but .* makes it \[60, 240\]"),
        ({"tie_word_embeddings": False}, r"lacks lm_head\.weight, which its configuration asks for"),
    ],
)
def test_a_configuration_that_does_not_fit(change, config, message):
    fails(change(**config), message)


# --- damage ---


@pytest.mark.parametrize("size", [0, 5, 300, -100])
def test_a_truncated_file(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    n = path.stat().st_size
    fails(folder, rf"^{re.escape(str(path))} \({n:,} bytes\) is damaged or not a safetensors file: \S+")


def test_a_file_of_something_else(folder):
    (folder / "model.safetensors").write_text("<html>404</html>" * 40)
    fails(folder, r"model\.safetensors \(640 bytes\) is damaged or not a safetensors file")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({QKV: None}, r"mine lacks h\.1\.attn\.c_attn\.weight, which its configuration asks for"),
        (
            {"transformer.h.1.extra": torch.ones(2)},
            r"mine holds h\.1\.extra, which a GPT-2 of its configuration does not",
        ),
        ({QKV: torch.ones(180, 60)}, r"has shape \[180, 60\], but the configuration makes it \[60, 180\]"),
        (
            {QKV: torch.ones(60, 180, dtype=torch.int32)},
            r"c_attn\.weight is int32, .*float32, float16, bfloat16 or float64 was expected$",
        ),
        (
            {QKV: torch.full((60, 180), torch.nan)},
            r"h\.1\.attn\.c_attn\.weight holds NaN or infinite values: the file is",
        ),
        (
            {"transformer.ln_f.bias": torch.ones(60).index_fill(0, torch.tensor(7), torch.inf)},
            r"ln_f\.bias holds NaN or inf",
        ),
        ({"lm_head.weight": torch.ones(7, 60)}, r"lm_head\.weight has shape \[7, 60\], but .* makes it \[101, 60\]$"),
    ],
)
def test_damaged_tensors(change, tensors, message):
    fails(change(tensors), message)


def test_weights_too_large_for_the_dtype(change):
    folder = change({"transformer.ln_f.bias": torch.full((60,), 1e5)})
    assert cutaway.load(folder, device="cpu").dtype == torch.float32
    with pytest.raises(CheckpointError, match=r"ln_f\.bias holds values too large for float16: ask for a wider dtype$"):
        cutaway.load(folder, device="cpu", dtype="float16")


def test_large_half_precision_weights_are_sound(change):
    ends = torch.tensor([6e4, -6e4] * 30, dtype=torch.float16)
    assert cutaway.load(change({"transformer.ln_f.bias": ends}), device="cpu").weights.ln_final.b[0] == 59_968 + 32


def test_shards_that_are_missing_or_point_elsewhere(odd_gpt2, tmp_path):
    odd_gpt2.save_pretrained(tmp_path, max_shard_size="100KB")
    [first, *_] = sorted(tmp_path.glob("*.safetensors"))
    first.unlink()
    fails(tmp_path, rf"lacks {re.escape(first.name)}, which model\.safetensors\.index\.json names")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"wte.weight": "../other/model.safetensors"}}'
    )
    fails(tmp_path, r"model\.safetensors\.index\.json has no sound weight_map")


class Opens:
    """A pickle of this opens a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_would_run_code_is_not_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"wte.weight": Opens(str(tmp_path / "ran"))}, folder / "pytorch_model.bin")
    fails(folder, r"pytorch_model\.bin \(.* bytes\) holds more than tensors.*: it was not run")
    assert not (tmp_path / "ran").exists()


def test_sizes_come_from_the_configuration(odd):
    assert odd.config == Config(n_layers=3, n_heads=5, d_model=60, d_mlp=70, d_vocab=101, n_ctx=37)
    assert (odd.config.d_head, odd.config.attn_scale(2)) == (12, 12**-0.5)
