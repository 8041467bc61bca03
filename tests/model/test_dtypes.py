"""Dtypes and devices: as near the truth as transformers is in the same dtype, on a CPU and on CUDA."""

import pytest
import torch

import cutaway
from cutaway.model.load import DTYPES
from cutaway.text.tokens import Tokens
from tests.model.reference import ALL, ODD, attended, padded, random_gpt2, states

IDS, MASK = padded([12, 5, 9], ODD["vocab_size"], seed=3)
TOKENS = Tokens(IDS, MASK)
HALVES = ["float16", "bfloat16"]
CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
UPCAST = {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True}


def made(dtype, **config):
    """transformers' model with its weights rounded to a dtype."""
    return random_gpt2(seed=6, **ODD | config).to(DTYPES[dtype])


@torch.no_grad()
def logits(model, device="cpu"):
    return model.to(device)(IDS.to(device), attention_mask=MASK.to(device), use_cache=False).logits


def away(value, truth):
    """Root mean square, over the attended positions, of what is off."""
    return (value.cpu().double() - truth.double())[MASK.bool()].square().mean().sqrt().item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [{}, UPCAST], ids=["plain", "upcast"])
@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_as_near_the_truth_as_transformers(dtype, config, device):
    """The truth is the same rounded weights run in float64, where upcasting has nothing to do."""
    truth = logits(made(dtype, **config | {"reorder_and_upcast_attn": False}).double())
    theirs = away(logits(made(dtype, **config), device), truth)
    model = cutaway.load(made(dtype, **config), device=device, dtype=dtype)
    for capture in ((), ["attn.scores", "ln1.scale", "attn.result"]):  # by the short way and by the one that shows all
        run = model.run(TOKENS, capture=capture)
        assert run.logits.dtype == DTYPES[dtype]
        assert 0 < away(run.logits, truth) < 1.5 * theirs


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
def test_every_site_in_half_precision(dtype, device):
    """In the model's dtype, and near its value in float64 (the masked scores apart)."""
    model = cutaway.load(made(dtype), device=device, dtype=dtype)
    truth = states(made(dtype).double(), IDS, MASK)
    run = model.run(TOKENS, capture=ALL)
    assert set(run) == set(truth)
    for name, value in run.items():
        assert value.dtype == model.dtype
        got, want = (attended(name, t.cpu().double(), MASK) for t in (value, truth[name]))
        torch.testing.assert_close(got.isinf(), want.isinf())
        off = (got - want).nan_to_num().abs().max()
        assert off < 12 * torch.finfo(model.dtype).eps * want[~want.isinf()].abs().max(), name


@pytest.mark.parametrize("dtype", HALVES)
def test_a_layer_norm_s_scale_is_rounded_once(dtype):
    """It is computed in float32, so that large states in float16 do not overflow when squared."""
    model = cutaway.load(made(dtype), device="cpu", dtype=dtype)
    state = 3e3 * torch.randn(3, 12, 60, generator=torch.Generator().manual_seed(0))
    run = model.run(
        TOKENS, edits={"blocks.1.resid_pre": state.to(model.dtype)}, capture=["ln1.scale", "ln1.normalized"]
    )
    want = state.to(model.dtype).double().var(-1, keepdim=True, unbiased=False).add(1e-5).sqrt()
    got = run["blocks.1.ln1.scale"].double()
    assert ((got - want) / want).abs().max() < torch.finfo(model.dtype).eps
    assert run["blocks.1.ln1.normalized"].double().square().mean(-1).sub(1).abs().max() < 0.02


@pytest.mark.parametrize("device", DEVICES)
def test_upcast_attention_is_in_float32(device):
    """Products beyond float16's range: with upcasting all keys count alike, without it nothing is left."""
    edits = {"blocks.*.attn.q": 150.0, "blocks.*.attn.k": 150.0}
    found = {}
    for upcast in (True, False):
        theirs = made("float16", reorder_and_upcast_attn=upcast)
        model = cutaway.load(theirs, device=device, dtype="float16")
        found[upcast] = model.run(IDS, edits=edits, capture=["attn.scores", "attn.pattern"])
    scores = found[True]["blocks.1.attn.scores"]
    assert scores.dtype == torch.float32
    assert scores[0, 0, 3, 0].item() == pytest.approx(150 * 150 * 12 / 12**0.5, rel=1e-3)
    pattern = found[True]["blocks.1.attn.pattern"]
    assert pattern.dtype == found[True].logits.dtype == torch.float16
    torch.testing.assert_close(pattern[0, 0, 3, :4].cpu(), torch.full((4,), 0.25, dtype=torch.float16))
    assert found[True].logits.isfinite().all()
    assert found[False].logits.isnan().any()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("of_file", DTYPES)
def test_from_any_dtype_to_any(name, of_file, tmp_path):
    theirs = made(of_file)
    theirs.save_pretrained(tmp_path)
    want = theirs.transformer.wte.weight.detach().to(DTYPES[name])
    for dtype in (name, DTYPES[name]):
        model = cutaway.load(tmp_path, device="cpu", dtype=dtype)
        assert {w.dtype for w in model.parameters().values()} == {DTYPES[name]}
        assert torch.equal(model.weights.W_E, want)
    for source in (tmp_path, theirs):
        assert cutaway.load(source, device="cpu").dtype == torch.float32
