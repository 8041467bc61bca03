"""Every form of a GPT-2 on disk: the logits that transformers computes, or a reason that docs/checkpoints.md gives."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

import cutaway
from cutaway.errors import CheckpointError, CutawayWarning
from tests.model.reference import random_gpt2

TINY = {"n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 53, "n_positions": 24}
IDS = torch.arange(20).view(2, 10)
DOCS = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
MODEL = "model.safetensors"
WTE = "transformer.wte.weight"


@dataclass(frozen=True)
class Form:
    """How a folder is made of a plain one, and what comes of it."""

    make: Callable[[Path], object]
    refused: str = ""  # part of the message; it stands in the docs
    said: str = ""  # part of the warning
    give: str = "."  # what is given to load, seen from the folder


def config(**changes):
    """Change config.json; None takes a key away."""

    def make(folder):
        raw = json.loads((folder / "config.json").read_text()) | changes
        raw = {key: None if value is NULL else value for key, value in raw.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(raw))

    return make


NULL = object()  # JSON's null


def tensors(change):
    """Change the tensors by name."""

    def make(folder):
        held = {name: tensor.contiguous().clone() for name, tensor in change(load_file(folder / MODEL)).items()}
        save_file(held, folder / MODEL, metadata={"format": "pt"})

    return make


def renamed(change):
    return tensors(lambda held: {change(name): tensor for name, tensor in held.items()})


def without(pattern):
    return tensors(lambda held: {name: tensor for name, tensor in held.items() if not pattern(name)})


def added(**more):
    """Add tensors, `__` for a dot in their names; a function makes one from the embedding."""

    def change(held):
        made = {name: value(held[WTE]) if callable(value) else value for name, value in more.items()}
        return held | {name.replace("__", "."): value for name, value in made.items()}

    return tensors(change)


def pickled(change=lambda held: held, name="pytorch_model.bin"):
    def make(folder):
        torch.save(change(load_file(folder / MODEL)), folder / name)
        (folder / MODEL).unlink()

    return make


def saved_by(kind):
    return lambda folder: kind.from_pretrained(folder).save_pretrained(folder)


def sharded(kind, size="20KB"):
    def make(folder):
        model = kind.from_pretrained(folder)
        (folder / MODEL).unlink()
        model.save_pretrained(folder, max_shard_size=size)

    return make


def moved(*names, into):
    def make(folder):
        (folder / into).mkdir()
        for name in names:
            shutil.move(folder / name, folder / into)

    return make


def variant(*names):
    def make(folder):
        for name in names:
            shutil.copy(folder / MODEL, folder / name)
        (folder / MODEL).unlink()

    return make


def sharded_variant(folder):
    model = GPT2LMHeadModel.from_pretrained(folder)
    (folder / MODEL).unlink()
    model.save_pretrained(folder, max_shard_size="20KB", variant="fp16")


def pointer(folder):
    (folder / MODEL).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n")


def adapter(folder):
    (folder / MODEL).unlink()
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "gpt2"}')


def old_norms(name):
    for new, old in (("weight", "gamma"), ("bias", "beta")):
        if ".ln_" in name and name.endswith(new):
            return name.removesuffix(new) + old
    return name


def bare(name):
    return name.removeprefix("transformer.")


FORMS = {
    # as transformers writes them
    "GPT2LMHeadModel": Form(lambda folder: None),
    "GPT2Model": Form(saved_by(GPT2Model)),
    "GPT2DoubleHeadsModel": Form(saved_by(GPT2DoubleHeadsModel), said="multiple_choice_head.summary is left out"),
    "GPT2ForSequenceClassification": Form(saved_by(GPT2ForSequenceClassification), said="score is left out"),
    "GPT2ForTokenClassification": Form(saved_by(GPT2ForTokenClassification), said="classifier is left out"),
    "GPT2ForQuestionAnswering": Form(saved_by(GPT2ForQuestionAnswering), said="qa_outputs is left out"),
    "shards": Form(sharded(GPT2LMHeadModel)),
    "shards of GPT2Model": Form(sharded(GPT2Model)),
    "the index of shards": Form(sharded(GPT2LMHeadModel), give="model.safetensors.index.json"),
    "a pickle": Form(pickled()),
    "float16": Form(tensors(lambda held: {name: tensor.half() for name, tensor in held.items()})),
    "bfloat16": Form(tensors(lambda held: {name: tensor.bfloat16() for name, tensor in held.items()})),
    "untied": Form(lambda folder: random_gpt2(3, **TINY, tie_word_embeddings=False).save_pretrained(folder)),
    # names
    "without transformer.": Form(renamed(bare)),
    "module.": Form(renamed(lambda name: f"module.{name}")),
    "_orig_mod.": Form(renamed(lambda name: f"_orig_mod.{name}")),
    "_orig_mod.module.": Form(renamed(lambda name: f"_orig_mod.module.{name}")),
    "model.": Form(renamed(lambda name: f"model.{name}")),
    "model. without transformer.": Form(renamed(lambda name: f"model.{bare(name)}")),
    "_module.": Form(renamed(lambda name: f"_module.{name}")),
    "pretrained_model.": Form(renamed(lambda name: f"pretrained_model.{name}")),
    "_orig_mod. in each block": Form(renamed(lambda name: name.replace(".h.0.", ".h.0._orig_mod."))),
    "gamma and beta": Form(renamed(old_norms)),
    "gamma and beta without transformer.": Form(renamed(lambda name: bare(old_norms(name)))),
    "causal masks": Form(added(transformer__h__0__attn__bias=torch.ones(1, 1, 24, 24), h__1__attn__masked_bias=IDS)),
    # heads
    "DialoGPT's second head": Form(added(lm_head__decoder__weight=lambda wte: wte)),
    "a second head that differs": Form(
        added(lm_head__decoder__weight=lambda wte: wte * 2), said="lm_head.decoder is left out"
    ),
    "a head that is the embedding": Form(added(lm_head__weight=lambda wte: wte)),
    "a head that differs": Form(added(lm_head__weight=lambda wte: wte.flip(0)), said="is read as a head of its own"),
    "a head of another dtype": Form(added(lm_head__weight=lambda wte: wte.half()), said="is read as a head of its own"),
    "the head alone": Form(renamed(lambda name: "lm_head.weight" if name == WTE else name)),
    "a bias of the head": Form(added(lm_head__bias=torch.ones(53)), said="lm_head is left out"),
    "TRL's value head": Form(
        added(v_head__summary__weight=torch.ones(1, 32), v_head__summary__bias=torch.ones(1)),
        said="v_head.summary is left out",
    ),
    "a head without transformer.": Form(
        tensors(lambda held: {bare(name): t for name, t in held.items()} | {"score.weight": torch.ones(2, 32)}),
        said="score is left out",
    ),
    # what is not there
    "no biases": Form(without(lambda name: name.endswith(".bias")), said="has no biases in its matrices and no biases"),
    "no biases in its LayerNorms": Form(
        without(lambda name: ".ln_" in name and name.endswith(".bias")), said="has no biases in its LayerNorms: they"
    ),
    "plain LayerNorms": Form(without(lambda name: ".ln_" in name), said="LayerNorms and no weights in its LayerNorms"),
    # configurations
    "no model_type": Form(config(model_type=None, architectures=None)),
    "n_ctx": Form(config(n_ctx=12)),
    "n_ctx alone": Form(config(n_ctx=24, n_positions=None)),
    "the common names": Form(config(n_head=None, num_attention_heads=2, n_embd=None, hidden_size=32)),
    "both names": Form(config(n_head=8, num_attention_heads=2)),
    "n_inner said": Form(config(n_inner=128)),
    "another activation": Form(config(activation_function="relu2")),
    "scaled by layer": Form(config(scale_attn_by_inverse_layer_idx=True)),
    "unscaled": Form(config(scale_attn_weights=False)),
    "upcast": Form(config(reorder_and_upcast_attn=True)),
    # files
    "a safetensors file": Form(lambda folder: None, give=MODEL),
    "a .bin file": Form(pickled(name="weights.bin"), give="weights.bin"),
    "a .pt file": Form(pickled(name="best.pt"), give="best.pt"),
    "inside model": Form(pickled(lambda held: {"model": held, "step": 5, "optimizer": {"lr": 0.1}})),
    "inside state_dict": Form(pickled(lambda held: {"epoch": 1, "state_dict": held}, "last.ckpt"), give="last.ckpt"),
    "inside module": Form(pickled(lambda held: {"module": held, "args": None})),
    "a variant": Form(variant("model.fp16.safetensors")),
    "a variant's file": Form(
        variant("model.fp16.safetensors", "model.bf16.safetensors"), give="model.bf16.safetensors"
    ),
    "a variant's shards": Form(sharded_variant),
    "a pickled variant": Form(pickled(name="pytorch_model.fp16.bin")),
    "another name": Form(variant("best.safetensors"), give="best.safetensors"),
    "a model beside an adapter": Form(
        lambda folder: (folder / "adapter_config.json").write_text("{}"), give="model.safetensors"
    ),
    "a checkpoint folder inside": Form(moved("config.json", MODEL, into="checkpoint-500"), give="checkpoint-500"),
    # refused
    "two variants": Form(variant("model.fp16.safetensors", "model.bf16.safetensors"), refused="has several weights"),
    "only checkpoint-500/": Form(
        moved("config.json", MODEL, into="checkpoint-500"), refused="is not a model, but holds checkpoint-500"
    ),
    "only checkpoint-500/ and config.json": Form(
        moved(MODEL, into="checkpoint-500"), refused="is not a model, but holds checkpoint-500"
    ),
    "a Git LFS pointer": Form(pointer, refused="is a Git LFS pointer"),
    "an adapter": Form(adapter, refused="is a PEFT adapter"),
    "no activation": Form(config(activation_function=NULL), refused="gives activation_function = None"),
    "an activation with weights": Form(config(activation_function="prelu"), refused="gives activation_function = "),
    "another model_type": Form(config(model_type="gpt_neo"), refused="Cutaway opens GPT-2 models"),
    "cross-attention": Form(config(add_cross_attention=True), refused="asks for cross-attention"),
    "fewer blocks said": Form(config(n_layer=1), refused="holds 2 blocks, but"),
    "more blocks said": Form(config(n_layer=3), refused="holds 2 blocks, but"),
    "an untied head that is not there": Form(config(tie_word_embeddings=False), refused="lacks lm_head.weight"),
    "one tensor lost": Form(without(lambda name: "h.0.mlp.c_fc.weight" in name), refused="which its configuration"),
    "one bias lost": Form(without(lambda name: "h.0.mlp.c_fc.bias" in name), refused="which its configuration"),
    "a tensor more in a block": Form(
        added(transformer__h__0__gate=torch.ones(3)), refused="which a GPT-2 of its configuration does not have"
    ),
    "an adapter in the weights": Form(
        added(transformer__h__0__attn__c_attn__lora_A__weight=torch.ones(4, 32)),
        refused="part of an adapter that is not merged",
    ),
    "two models": Form(
        tensors(lambda held: {f"{who}.{name}": t for who in ("policy", "reference") for name, t in held.items()}),
        refused="holds 2 models",
    ),
    "quantized": Form(
        config(quantization_config={"quant_method": "gptq", "bits": 4}), refused="says that the weights are quantized"
    ),
    "integers": Form(
        tensors(lambda held: {name: tensor.char() for name, tensor in held.items()}), refused="is int8, strided"
    ),
    "TensorFlow's": Form(lambda folder: (folder / MODEL).rename(folder / "tf_model.h5"), refused="has no weights: "),
    "another name, not given": Form(variant("best.safetensors"), refused="has no weights: "),
    "attention to later tokens": Form(config(is_causal=False), refused="says is_causal False"),
    "no configuration": Form(lambda folder: (folder / "config.json").unlink(), refused="it has no config.json"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A plain folder, and its logits."""
    folder = tmp_path_factory.mktemp("plain")
    model = random_gpt2(**TINY)
    model.save_pretrained(folder)
    return folder, model(IDS).logits.detach()


def theirs(folder):
    """The logits of what transformers opens; None where it opens nothing, or makes weights up."""
    try:
        model, report = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    except Exception:
        return None
    made_up = [name for name in report["missing_keys"] if not name.endswith(".bias") and ".ln_" not in name]
    if made_up or any(name.endswith((".gamma", ".beta")) for name in report["unexpected_keys"]):
        return None
    with torch.no_grad():
        return model.float().train(False)(IDS).logits


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_folder(plain, form, tmp_path):
    folder = shutil.copytree(plain[0], tmp_path / "mine")
    form.make(folder)
    if form.refused:
        with pytest.raises(CheckpointError) as caught:
            cutaway.load(folder / form.give, device="cpu")
        assert form.refused in str(caught.value)
        assert form.refused in DOCS
        assert "\n" not in str(caught.value)
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = cutaway.load(folder / form.give, device="cpu")
    assert [warning.category for warning in said] == [CutawayWarning] * bool(form.said)
    assert all(form.said in str(warning.message) and "\n" not in str(warning.message) for warning in said)
    want = theirs(folder)
    want = plain[1] if want is None else want
    torch.testing.assert_close(model.run(IDS).logits, want, atol=1e-5, rtol=0)


def test_what_transformers_opens_and_we_do_not_has_a_reason(plain, tmp_path):
    """A list that a new version of transformers may change, and that docs/checkpoints.md explains."""
    opened = []
    for name, form in FORMS.items():
        if form.refused:
            folder = shutil.copytree(plain[0], tmp_path / str(len(opened)) / name.replace("/", "_"))
            form.make(folder)
            opened += [name] if theirs(folder) is not None else []
    changed = ["another model_type", "fewer blocks said", "one bias lost", "a tensor more in a block"]
    assert opened == [*changed, "an adapter in the weights", "integers", "attention to later tokens"]


RENAMINGS = {
    "transformer.": bare,
    "gamma and beta": old_norms,
    "module.": lambda name: f"module.{name}",
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "model.": lambda name: f"model.{name}",
    "gpt2.": lambda name: f"gpt2.{name}",
    "_checkpoint_wrapped_module.": lambda name: name.replace("h.1.", "h.1._checkpoint_wrapped_module."),
    "the head alone": lambda name: name.replace(WTE, "lm_head.weight"),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.permutations(sorted(RENAMINGS)), some=st.integers(0, len(RENAMINGS)), nested=st.booleans())
def test_one_name_on_another(plain, tmp_path, names, some, nested):
    held = load_file(plain[0] / MODEL)
    for name in sorted(names[:some], key=lambda name: name != "the head alone"):  # which goes by the full name
        held = {RENAMINGS[name](key): tensor for key, tensor in held.items()}
    shutil.copy(plain[0] / "config.json", tmp_path)
    torch.save({"model": held, "step": 1} if nested else held, tmp_path / "pytorch_model.bin")
    model = cutaway.load(tmp_path, device="cpu")
    torch.testing.assert_close(model.run(IDS).logits, plain[1], atol=1e-5, rtol=0)


# --- what is said ---


def test_adapters_name_their_base_model_and_the_call(plain, tmp_path):
    folder = shutil.copytree(plain[0], tmp_path / "mine")
    adapter(folder)
    with pytest.raises(CheckpointError) as caught:
        cutaway.load(folder, device="cpu")
    load = f"PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained('gpt2'), {str(folder)!r})"
    assert str(caught.value).endswith(f"cutaway.load({load}.merge_and_unload())")
    assert "is a PEFT adapter of 'gpt2', and not a model: merge the two" in str(caught.value)


def test_the_last_checkpoint_is_named(plain, tmp_path):
    for step in (500, 1500, 1000, 20):
        shutil.copytree(plain[0], tmp_path / f"checkpoint-{step}")
    with pytest.raises(CheckpointError) as caught:
        cutaway.load(tmp_path, device="cpu")
    names = "checkpoint-20, checkpoint-500, checkpoint-1000 and 1 more"
    last = tmp_path / "checkpoint-1500"
    assert str(caught.value) == f"{tmp_path} is not a model, but holds {names}: give one of them, such as {last}"


def test_a_warning_is_one_line_on_the_command_line(plain, tmp_path):
    folder = shutil.copytree(plain[0], tmp_path / "mine")
    FORMS["a head that differs"].make(folder)
    command = [sys.executable, "-m", "cutaway", "anatomy", "-m", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert "53" in done.stdout
    [line] = done.stderr.splitlines()
    assert line.startswith(
        f"cutaway: warning: {folder}: lm_head.weight is not wte.weight, although tie_word_embeddings"
    )


@pytest.mark.slow
def test_verify_says_where_transformers_has_nothing_to_compare(plain, tmp_path):
    folder = shutil.copytree(plain[0], tmp_path / "mine")
    FORMS["module."].make(folder)
    command = [sys.executable, "-m", "cutaway", "anatomy", "--verify", "-m"]
    for source, why in ((folder, "some of its tensors are not where it looks for them"), (folder / MODEL, "")):
        done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"transformers does not open {source}: logits are not compared with it ({why}" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "configured", "said"),
    [
        ("tf_model.h5", True, "tf_model.h5 holds TensorFlow's weights, which Cutaway does not read: save it with"),
        ("flax_model.msgpack", True, "holds JAX's weights"),
        ("model.ckpt.index", True, "model.ckpt.index holds TensorFlow's weights"),
        ("model-1000.index", False, "it has no config.json; model-1000.index holds TensorFlow's weights"),
        ("rust_model.ot", True, "rust-bert's"),
        ("model.onnx", True, "an ONNX graph"),
        ("gpt2.Q4_0.gguf", False, "gpt2.Q4_0.gguf holds GGUF weights"),
        ("global_step10", True, "global_step10 holds DeepSpeed's shards"),
    ],
)
def test_weights_of_another_kind_are_named(tmp_path, name, configured, said):
    (tmp_path / name).write_bytes(b"...")
    if configured:
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match=re.escape(said)):
        cutaway.load(tmp_path, device="cpu")
