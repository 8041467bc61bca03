"""The training script, on the ten documents that ship with Cutaway; no network, seconds."""

import argparse
import itertools
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import InputError
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.checkpoints.checkpoint import bundled_folder

TRAINING = Path(__file__).parents[1] / "training"
sys.path.insert(0, str(TRAINING))

import documents as text  # noqa: E402 - the scripts are no package
import muon  # noqa: E402
import train as script  # noqa: E402

pytestmark = pytest.mark.slow

DOCUMENTS = bundled_folder() / "documents"
SIZES = "--layers 2 --heads 4 --width 64 --context 64 --vocab 600 --batch 16 --hold-out 2"
RATES = "--lr-adam 2e-2 --lr-muon 0.03"  # a small model that is to learn in fifty steps


def arguments(out, more=""):
    return ["--documents", str(DOCUMENTS), "--out", str(out), *f"{SIZES} {RATES} {more}".split()]


@pytest.fixture(autouse=True)
def one_thread():
    """Products this small gain nothing from two threads, and lose much to waiting where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that fifty steps wrote, and what they said on standard error."""
    out = tmp_path_factory.mktemp("training") / "deep" / "model"
    command = [sys.executable, str(TRAINING / "train.py"), *arguments(out, "--steps 50 --device cpu")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


@pytest.fixture(scope="module")
def model(trained):
    return cutaway.load(trained[0], device="cpu")


def encoded(model, folder):
    """The ids of each document of a folder, <|endoftext|> first, by the library's own tokenizer."""
    texts = [path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("*.txt"))]
    return model.tokenizer.encode(texts, bos=True)[0]


def test_loss_falls_below_what_counting_tokens_achieves(trained, model):
    counts = np.load(trained[0] / "train_counts.npy") + 0.5
    held_out = np.concatenate(encoded(model, trained[0] / "documents"))
    unigram = -np.log(counts / counts.sum())[held_out].mean()
    facts = json.loads((trained[0] / "training.json").read_text())
    assert facts["val_nats_per_token"] < unigram - 0.5 < math.log(600) - 0.5
    assert facts["steps"] == 50
    assert facts["tokens_seen"] == 50 * 16 * 64
    assert facts["train_tokens"] == counts.sum() - 0.5 * len(counts)


def test_says_loss_and_speed_in_lines_where_there_is_no_terminal(trained):
    lines = [line for line in trained[1].splitlines() if "tokens/s" in line]
    assert len(lines) == 5
    assert "step 50   loss" in lines[-1]
    assert "\x1b" not in trained[1]


def test_held_out_loss_is_that_of_the_written_model(trained, model):
    """The library's own forward over the same windows, from the float16 file."""
    ids = torch.tensor([i for document in encoded(model, trained[0] / "documents") for i in document])
    starts = range(0, len(ids) - 64, 64)
    windows = torch.stack([ids[i : i + 65] for i in starts])
    logits = model.run(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    facts = json.loads((trained[0] / "training.json").read_text())
    assert loss == pytest.approx(facts["val_nats_per_token"], abs=2e-3)


def test_loads_and_predicts_as_transformers_does(trained, model):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(trained[0], dtype=torch.float32).eval()
    tokens = model.tokens("My fellow citizens of the Senate")
    with torch.no_grad():
        torch.testing.assert_close(model.run(tokens).logits, theirs(tokens.ids).logits, atol=2e-5, rtol=1e-5)


def test_folder_is_laid_out_as_the_bundled_one(trained):
    ours, bundled = trained[0], bundled_folder()
    assert {path.name for path in ours.iterdir()} == {path.name for path in bundled.iterdir()}
    config, expected = (json.loads((folder / "config.json").read_text()) for folder in (ours, bundled))
    changed = {key for key in expected if config.get(key) != expected[key]}
    sizes = {"n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "bos_token_id", "eos_token_id"}
    assert changed == sizes | {"transformers_version"}
    assert config.keys() == expected.keys() - {"transformers_version"}
    tokenizer, expected = (json.loads((folder / "tokenizer.json").read_text()) for folder in (ours, bundled))
    assert tokenizer["added_tokens"][0] | {"id": 8191} == expected["added_tokens"][0]
    parts = ("pre_tokenizer", "post_processor", "decoder", "normalizer")
    assert [tokenizer[part] for part in parts] == [expected[part] for part in parts]


def test_counts_are_a_naive_recount_without_the_held_out(trained, model):
    counts = np.load(trained[0] / "train_counts.npy")
    held_out = {path.name for path in (trained[0] / "documents").iterdir()}
    names = sorted(path.name for path in DOCUMENTS.iterdir())
    assert held_out == {names[i] for i in random.Random(0).sample(range(10), 2)}
    naive = Counter()
    for name in names:
        if name not in held_out:
            content = (DOCUMENTS / name).read_text(encoding="utf-8").strip()
            naive.update(model.tokenizer.encode([content], bos=True)[0][0])
    assert counts.dtype == np.int64
    assert counts.tolist() == [naive[i] for i in range(600)]
    assert counts[model.tokenizer.end_of_text] == 8
    assert model.tokenizer.end_of_text == 599


def test_orthogonalize_keeps_singular_vectors_and_brings_values_near_1():
    generator = torch.Generator().manual_seed(0)
    for shape in [(24, 24), (16, 48), (48, 16), (3, 16, 48)]:
        G = torch.randn(*shape, generator=generator)
        U, _, Vh = torch.linalg.svd(G, full_matrices=False)
        inner = U.mT @ muon.orthogonalize(G) @ Vh.mT  # diagonal, with the new singular values on it
        values = inner.diagonal(dim1=-2, dim2=-1)
        assert ((values > 0.6) & (values < 1.25)).all()
        torch.testing.assert_close(inner, torch.diag_embed(values), atol=2e-5, rtol=0)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_muon_steps_as_torchs_does():
    """torch stores [out, in] and works in bfloat16, hence the transposes and the tolerance."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.zeros(32, 96, requires_grad=True)
    theirs = [torch.zeros(32, 32, requires_grad=True) for _ in range(3)]
    optimizer = muon.Muon([{"params": [ours], "parts": 3}], lr=0.1)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, momentum=0.95)
    for _ in range(4):
        ours.grad = torch.randn(32, 96, generator=generator)
        for weight, grad in zip(theirs, ours.grad.chunk(3, 1), strict=True):
            weight.grad = grad.T.contiguous()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours.detach(), torch.cat([w.detach().T for w in theirs], 1), atol=5e-3, rtol=0.02)


def test_a_wider_output_steps_further():
    wide, tall = (torch.zeros(shape, requires_grad=True) for shape in [(16, 64), (64, 16)])
    wide.grad = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    tall.grad = wide.grad.T.clone()
    muon.Muon([{"params": [wide, tall]}], lr=0.1).step()
    torch.testing.assert_close(wide.detach(), 2 * tall.detach().T)


@pytest.mark.parametrize("seed", range(5))
def test_an_epoch_covers_each_token_once(seed):
    context, lengths = 16, [5, 40, 133, 1, 64]
    documents = list(torch.arange(sum(lengths)).split(lengths))
    windows = text.epoch(documents, context, random.Random(seed))
    inputs, targets = windows[:, :-1].flatten().tolist(), windows[:, 1:].flatten().tolist()
    assert len(set(inputs)) == len(inputs)
    assert len(set(targets)) == len(targets)
    assert sum(lengths) - len(inputs) < 2 * context  # the offset, the tail
    follows = dict(zip(inputs, targets, strict=True))
    whole = [ids.tolist() for ids in documents]
    assert all(follows[a] == b for ids in whole for a, b in itertools.pairwise(ids) if a in follows)


def test_batches_are_full_and_go_on_from_epoch_to_epoch():
    documents = list(torch.arange(1000).split(100))
    stream = text.batches(documents, context=16, size=7, seed=0)
    found = [next(stream) for _ in range(40)]  # more than four epochs of 61 or 62 windows
    assert {tuple(batch.shape) for batch in found} == {(7, 17)}
    seen = Counter(torch.cat(found)[:, 1:].flatten().tolist())
    assert max(seen.values()) <= 5
    again = text.batches(documents, context=16, size=7, seed=0)
    assert all(torch.equal(batch, next(again)) for batch in found)


def test_text_is_read_without_the_white_space_around_it(tmp_path):
    (tmp_path / "b.txt").write_bytes(b" Two \r\nlines\n")
    (tmp_path / "a.txt").write_text("É", encoding="utf-8")
    assert list(text.read(tmp_path).items()) == [("a.txt", "É"), ("b.txt", "Two \nlines")]
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"c\.txt is not UTF-8 at byte 3"):
        text.read(tmp_path)


def test_held_out_documents_are_the_bundled_ones_for_the_bundled_text():
    """The ten in bundled/documents stand at these places among the 233 addresses, sorted by name."""
    names = [f"{i:03}" for i in range(233)]
    assert list(map(int, text.held_out(names, 10))) == [10, 66, 98, 103, 107, 124, 130, 194, 216, 227]


def test_learning_rates_warm_up_stay_and_fall():
    plan = script.Plan(steps=1000)
    rate = [plan.rate(step, plan.progress(step, 0.0)) for step in range(1001)]
    assert rate[0] == 0.01
    assert rate[99] == rate[400] == 1.0
    assert rate[700] == pytest.approx(0.51)
    assert rate[1000] == pytest.approx(0.02)
    timed = script.Plan(steps=None, seconds=100.0)
    assert timed.rate(500, timed.progress(500, 70.0)) == pytest.approx(0.51)


def test_weights_start_as_gpt2s_and_are_trained_in_place():
    config = Config(4, 4, 64, 256, 500, 32)
    parameters = script.initial(config, 0, torch.device("cpu"))
    assert parameters["wte.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert parameters["h.3.mlp.c_proj.weight"].std().item() == pytest.approx(0.02 / math.sqrt(8), rel=0.02)
    assert parameters["h.0.ln_1.weight"].eq(1).all()
    assert parameters["h.0.attn.c_attn.bias"].eq(0).all()
    weights = script.as_weights(parameters, config)
    assert weights.W_E is weights.W_U is parameters["wte.weight"]
    assert weights.blocks[2].W_QKV is parameters["h.2.attn.c_attn.weight"]


def test_each_parameter_has_one_optimizer():
    parameters = script.initial(Config(2, 4, 64, 256, 500, 32), 0, torch.device("cpu"))
    matrices, rest = script.optimizers(parameters, 0.02, 0.002)
    of = [[id(p) for group in o.param_groups for p in group["params"]] for o in (matrices, rest)]
    assert sorted(of[0] + of[1]) == sorted(map(id, parameters.values()))
    assert {tuple(p.shape) for group in matrices.param_groups for p in group["params"]} == {
        (64, 192),
        (64, 64),
        (64, 256),
        (256, 64),
    }
    assert [group["parts"] for group in matrices.param_groups] == [1, 3]


def test_dropout_is_edits_that_change_the_training_loss_alone():
    config = Config(2, 4, 64, 256, 500, 32)
    args = argparse.Namespace(seed=0, lr_muon=0.02, lr_adam=0.002, dropout=0.5, dtype="float32")
    learner = script.Learner(args, config, torch.device("cpu"))
    batch = torch.randint(0, 500, (4, 33), generator=torch.Generator().manual_seed(0))
    assert {site.name for site in learner.edits} == {
        "blocks.0.resid_pre",
        *(f"blocks.{i}.{kind}" for i in (0, 1) for kind in ("attn_out", "mlp_out")),
    }
    plain = learner.evaluate(batch, 4)
    assert learner.evaluate(batch, 4) == plain
    assert learner.step(batch, 0.0).item() != pytest.approx(plain, abs=1e-6)


def test_bfloat16_products_train_the_same_weights():
    """Autocast changes the products, not the weights' type; the losses stay close."""
    config = Config(2, 4, 64, 256, 500, 32)
    batch = torch.randint(0, 500, (4, 33), generator=torch.Generator().manual_seed(0))
    losses = {}
    for dtype in ("float32", "bfloat16"):
        args = argparse.Namespace(seed=0, lr_muon=0.02, lr_adam=0.002, dropout=0.0, dtype=dtype)
        learner = script.Learner(args, config, torch.device("cpu"))
        losses[dtype] = [learner.step(batch, 1.0).item() for _ in range(10)]
        assert {value.dtype for value in learner.parameters.values()} == {torch.float32}
    assert losses["float32"][-1] < losses["float32"][0] - 0.5
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)


def interrupted_after(n, monkeypatch):
    """Ctrl-C when batch n is asked for."""
    whole = text.batches

    def batches(*args):
        for i, batch in enumerate(whole(*args)):
            if i == n:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(text, "batches", batches)


def test_interrupted_before_anything_was_measured_writes_nothing(tmp_path, monkeypatch):
    interrupted_after(3, monkeypatch)
    assert script.main(arguments(tmp_path / "model", "--steps 50")) == 1
    assert list(tmp_path.iterdir()) == []


def test_interrupted_later_writes_the_best_so_far(tmp_path, monkeypatch):
    interrupted_after(7, monkeypatch)
    assert script.main(arguments(tmp_path / "model", "--steps 50 --evaluate-every 5")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model" / "training.json").read_text())["steps"] == 5
    cutaway.load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_finished_is_not_there(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(np, "save", fail)  # after the weights, before the documents
    with pytest.raises(type(error)):
        script.main(arguments(tmp_path / "model", "--steps 1"))
    assert list(tmp_path.iterdir()) == []


def test_stops_once_the_held_out_loss_has_turned_and_keeps_the_best(tmp_path, monkeypatch):
    found = iter([5.0, 4.0, 4.5, 4.2, 4.1, 3.0])
    monkeypatch.setattr(script.Learner, "evaluate", lambda *_: next(found))
    assert script.main(arguments(tmp_path / "model", "--steps 50 --evaluate-every 2 --patience 3")) == 0
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (facts["val_nats_per_token"], facts["steps"]) == (4.0, 4)
    assert next(found) == 3.0  # never asked for


def test_a_run_that_diverged_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(script.Learner, "evaluate", lambda *_: math.nan)
    assert script.main(arguments(tmp_path / "model", "--steps 50 --evaluate-every 1 --patience 2")) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--width 60 --heads 7", "--width 60 is not a multiple of --heads 7"),
        ("--vocab 200", "at least 257"),
        ("--hold-out 10", "more than the 10 held out"),
        ("--steps 0", "more than 0"),
        ("--batch 0", "--batch 0: at least 1"),
        ("--dropout 1", "less than 1"),
        ("--steps 5 --minutes 1", "not allowed with"),
    ],
)
def test_arguments_that_cannot_be_are_named(tmp_path, capsys, more, says):
    with pytest.raises(SystemExit):
        script.main(arguments(tmp_path / "model", more))
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main(arguments(tmp_path))
    assert "is there already" in capsys.readouterr().err


def test_text_too_short_for_the_context_is_refused(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("a few words")
    with pytest.raises(SystemExit, match="at least two windows of 512"):
        script.main(["--documents", str(tmp_path), "--out", str(tmp_path / "model"), "--hold-out", "1"])
    assert not (tmp_path / "model").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_trains_on_a_gpu_in_bfloat16(tmp_path):
    out = tmp_path / "model"
    assert script.main(arguments(out, "--steps 50 --device cuda --dtype bfloat16 --dropout 0.1")) == 0
    assert json.loads((out / "training.json").read_text())["val_nats_per_token"] < 5.3
    cutaway.load(out, device="cpu")
