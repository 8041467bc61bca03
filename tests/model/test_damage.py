"""Damaged files and strange sources: a sound model or one line that says what is wrong, whatever the bytes."""

import json
import random
import re
import shutil
import struct
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import cutaway
from cutaway.errors import CheckpointError, CutawayWarning
from tests.model.reference import ODD, random_gpt2

TINY = {"n_embd": 12, "n_head": 3, "n_layer": 1, "vocab_size": 17, "n_positions": 8}
FLIPS = 400


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small checkpoint: its folder, and the bytes of its weights in each form."""
    folder = tmp_path_factory.mktemp("tiny")
    model = random_gpt2(**TINY)
    model.save_pretrained(folder)
    forms = {"safetensors": (folder / "model.safetensors").read_bytes()}
    for name, zipped in (("zip", True), ("legacy", False)):
        torch.save(model.state_dict(), folder / "made.bin", _use_new_zipfile_serialization=zipped)
        forms[name] = (folder / "made.bin").read_bytes()
    return folder, forms


def outcome(folder):
    """The loaded model, or the one line of the error; anything else fails the test."""
    try:
        return cutaway.load(folder, device="cpu")
    except CheckpointError as error:
        line = str(error)
    assert "\n" not in line
    return line


def flipped(raw, generator, low, high):
    raw = bytearray(raw)
    for _ in range(generator.choice([1, 1, 2, 8])):
        raw[generator.randrange(low, high)] ^= 1 << generator.randrange(8)
    return bytes(raw)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "least_refused", "least_loaded"),
    [("header", 0.9, 0), ("data", 0, 0.5), ("zip", 0.1, 0.1), ("legacy", 0.1, 0.1)],
)
def test_flipped_bits(tiny, tmp_path, where, least_refused, least_loaded):
    source, forms = tiny
    raw = forms.get(where, forms["safetensors"])
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    low, high = {"header": (0, start), "data": (start, len(raw))}.get(where, (0, len(raw)))
    sound = cutaway.load(source, device="cpu").fingerprint
    shutil.copy(source / "config.json", tmp_path)
    path = tmp_path / ("model.safetensors" if where in ("header", "data") else "pytorch_model.bin")
    generator, refused, loaded = random.Random(where), 0, 0
    tries = FLIPS // 10 if where == "data" else FLIPS
    for _ in range(tries):
        path.write_bytes(flipped(raw, generator, low, high))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on an odd pickle protocol
            found = outcome(tmp_path)
        refused += isinstance(found, str)
        loaded += not isinstance(found, str)
        if where == "data" and not isinstance(found, str):
            assert found.fingerprint != sound  # the flip is in the numbers, and shows
            assert found.run(torch.tensor([[1, 2]])).logits.shape == (1, 2, 17)
    assert refused >= least_refused * tries
    assert loaded >= least_loaded * tries


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_cut_anywhere(tiny, tmp_path, form):
    source, forms = tiny
    shutil.copy(source / "config.json", tmp_path)
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "pytorch_model.bin")
    for size in range(0, len(forms[form]) - 1, 97):
        path.write_bytes(forms[form][:size])
        assert re.match(rf"{re.escape(str(path))} \({size:,} bytes\) (is damaged or|holds more)", outcome(tmp_path))


def test_flipped_bits_in_the_configuration(tiny, tmp_path):
    source, _ = tiny
    shutil.copy(source / "model.safetensors", tmp_path)
    raw, generator = (source / "config.json").read_bytes(), random.Random(1)
    refused = 0
    for _ in range(FLIPS):
        (tmp_path / "config.json").write_bytes(flipped(raw, generator, 0, len(raw)))
        refused += isinstance(outcome(tmp_path), str)
    assert FLIPS / 4 < refused < FLIPS


@pytest.mark.parametrize(
    "kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I64", "I8", "U16", "U8", "BOOL", "C64", "F64", "XX"]
)
def test_any_dtype_a_header_can_claim(tiny, tmp_path, kind):
    """The bytes stay as they are, so most claims break the file; those of equal size are refused by name."""
    source, forms = tiny
    size = struct.unpack("<Q", forms["safetensors"][:8])[0]
    header = json.loads(forms["safetensors"][8 : 8 + size])
    entry = header["transformer.ln_f.bias"]
    bits = {"F4": 4, "F8": 8, "BO": 8, "I8": 8, "U8": 8, "U1": 16, "XX": 32}.get(kind[:2], 64)
    entry["dtype"], entry["shape"] = kind, [12 * 32 // bits]
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + forms["safetensors"][8 + size :])
    shutil.copy(source / "config.json", tmp_path)
    assert re.search(r"ln_f\.bias has shape|is damaged or not a safetensors file", outcome(tmp_path))


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(12, dtype=torch.float8_e4m3fn), "float8_e4m3fn, strided"),
        (torch.ones(12, dtype=torch.complex64), "complex64, strided"),
        (torch.ones(12, dtype=torch.bool), "bool, strided"),
        (torch.ones(12).to_sparse(), "float32, sparse_coo"),
    ],
)
def test_numbers_of_a_kind_that_no_weights_are(tiny, tmp_path, tensor, kind):
    source, _ = tiny
    tensors = load_file(source / "model.safetensors") | {"transformer.ln_f.bias": tensor}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    shutil.copy(source / "config.json", tmp_path)
    expected = "dense float32, float16, bfloat16 or float64 was expected"
    assert outcome(tmp_path) == f"{tmp_path}: ln_f.bias is {kind}: {expected}"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([1, 2], r"holds a list: a dictionary of tensors was expected$"),
        ({"wte.weight": 3}, r"holds a int as 'wte\.weight': named tensors were expected$"),
        ({7: torch.ones(2)}, r"holds a Tensor as 7: named tensors were expected$"),
        ({"wte.weight": torch.ones(1), "transformer.wte.weight": torch.ones(1)}, r"holds wte\.weight twice, with and"),
        ({}, r"holds 0 blocks, but the configuration gives n_layer = 1$"),
    ],
)
def test_pickles_of_something_else(tiny, tmp_path, held, message):
    torch.save(held, tmp_path / "pytorch_model.bin")
    shutil.copy(tiny[0] / "config.json", tmp_path)
    assert re.search(message, outcome(tmp_path))


def test_shards_of_pickles(tiny, tmp_path):
    source, _ = tiny
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    files = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, held in files.items() for name in held}}))
    shutil.copy(source / "config.json", tmp_path)
    for file, held in files.items():
        torch.save({name: tensors[name] for name in held}, tmp_path / file)
    assert outcome(tmp_path).fingerprint == cutaway.load(source, device="cpu").fingerprint
    (tmp_path / file).write_bytes(b"nothing of the kind")
    assert re.match(rf"{tmp_path}/{file} \(19 bytes\) (is damaged or|holds more)", outcome(tmp_path))
    (tmp_path / file).unlink()
    assert outcome(tmp_path) == f"{tmp_path} lacks {file}, which {index.name} names"


@pytest.mark.parametrize("name", ["../model.safetensors", "a/b.safetensors", "/a.bin", "..", "", "a.json", 5, None])
def test_an_index_that_points_elsewhere(tiny, tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    shutil.copy(tiny[0] / "config.json", tmp_path)
    assert "has no sound weight_map: tensor names to files beside it were expected" in outcome(tmp_path)


@pytest.mark.parametrize("raw", ["{}", '{"weight_map": []}', '{"weight_map": "a"}'])
def test_an_index_without_a_map(tiny, tmp_path, raw):
    (tmp_path / "model.safetensors.index.json").write_text(raw)
    shutil.copy(tiny[0] / "config.json", tmp_path)
    assert "has no sound weight_map" in outcome(tmp_path)


def test_a_configuration_nested_without_end(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert outcome(tmp_path).startswith(f"{tmp_path}/config.json cannot be read as JSON: maximum recursion depth")


def test_blocks_beyond_counting(tiny, tmp_path):
    """As many blocks as a configuration likes to claim, and no list of all they would hold."""
    shutil.copytree(tiny[0], tmp_path / "m")
    raw = json.loads((tmp_path / "m" / "config.json").read_text()) | {"n_layer": 10**12}
    (tmp_path / "m" / "config.json").write_text(json.dumps(raw))
    assert outcome(tmp_path / "m").endswith("m holds 1 blocks, but the configuration gives n_layer = 1000000000000")


@pytest.mark.parametrize("second", [torch.ones(17, 12).to_sparse(), torch.ones(17, 12, device="meta")])
def test_a_second_head_of_another_kind_is_left_out(tiny, tmp_path, second):
    held = load_file(tiny[0] / "model.safetensors") | {"lm_head.decoder.weight": second}
    torch.save(held, tmp_path / "pytorch_model.bin")
    shutil.copy(tiny[0] / "config.json", tmp_path)
    with pytest.warns(CutawayWarning, match=r"lm_head\.decoder is left out: Cutaway opens the language model only$"):
        assert outcome(tmp_path).fingerprint == outcome(tiny[0]).fingerprint


# --- sources ---


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "int was given: a folder, a hub id or a transformers GPT-2"),
        (b"gpt2", "bytes was given: a folder, a hub id or a transformers GPT-2"),
        ("", "'' is not there: a folder with config.json and the weights was expected"),
        ("./gpt2", r"'\./gpt2' is not there: a folder"),
        ("a/b/c", "'a/b/c' is not there: a folder"),
        ("~nobody-of-this-name/x", "'~nobody-of-this-name/x' is not a path: .*; a folder with config.json"),
        ("/" + "a" * 5000, "' is not a path: .*File name too long"),
        ("with\0nul", r"'with\\x00nul' is not there: a folder"),
    ],
)
def test_sources_that_are_none(source, message):
    assert re.search(message, outcome(source))


def test_paths_with_a_tilde_and_relative_ones(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny[0], tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    sound = outcome(tiny[0]).fingerprint
    model = outcome("~/mine")
    assert (model.name, model.fingerprint, model.origin) == ("mine", sound, "cutaway.load('~/mine')")
    monkeypatch.chdir(tmp_path / "mine")
    assert (outcome(".").name, outcome(".").fingerprint) == ("mine", sound)


def test_one_shard_and_one_whole_file(tiny, tmp_path):
    """A folder with both holds the whole file's model, as in transformers."""
    shutil.copytree(tiny[0], tmp_path / "m")
    (tmp_path / "m" / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"")
    assert outcome(tmp_path / "m").fingerprint == outcome(tiny[0]).fingerprint


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_every_spelling_of_the_same_weights(tied, prefix, form, tmp_path):
    theirs = random_gpt2(seed=4, **ODD | {"tie_word_embeddings": tied})
    state = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 37, 37).tril().byte() for i in range(3)}
    masks |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(3)}
    renamed = {name.replace("transformer.", prefix): tensor for name, tensor in (state | masks).items()}
    theirs.config.save_pretrained(tmp_path)
    if form == "safetensors":
        save_file(renamed, tmp_path / "model.safetensors")
    else:
        torch.save(renamed, tmp_path / "pytorch_model.bin")
    model, ids = outcome(tmp_path), torch.arange(20).view(2, 10)
    assert model.tied == tied
    with torch.no_grad():
        torch.testing.assert_close(model.run(ids).logits, theirs(ids).logits, atol=2e-5, rtol=0)
