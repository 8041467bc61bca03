"""On CUDA: the same numbers as on the CPU."""

import pytest
import torch

import cutaway
from cutaway.model.load import DTYPES
from tests.model.reference import ALL
from tests.model.test_dtypes import TOKENS, made

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.fixture(scope="module")
def pair():
    """The odd model on CUDA and on the CPU, both in float64."""
    return [cutaway.load(made("float64"), device=device, dtype="float64") for device in ("cuda", "cpu")]


def test_auto_takes_it_and_keeps_the_file_s_dtype(tmp_path):
    for dtype in DTYPES:
        made(dtype).save_pretrained(tmp_path / dtype)
        model = cutaway.load(tmp_path / dtype)
        assert model.device.type == "cuda"
        assert {w.dtype for w in model.parameters().values()} == {DTYPES[dtype]}
    assert cutaway.load(tmp_path / dtype, dtype="float16").dtype == torch.float16


def test_every_site_equals_the_cpu_s(pair):
    gpu, cpu = (model.run(TOKENS, capture=ALL) for model in pair)
    for name, value in cpu.items():
        assert gpu[name].device.type == "cuda"
        torch.testing.assert_close(gpu[name].cpu(), value, atol=1e-10, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    last = [model.run(TOKENS, logits="last").logits.cpu() for model in pair]
    torch.testing.assert_close(*last, atol=1e-10, rtol=0)


def test_edits_and_gradients(pair):
    edits = {"blocks.1.mlp_out": 0.5, "blocks.0.attn.z": lambda value, ctx: value * ctx.mask[:, :, None, None]}
    runs = [model.run(TOKENS, edits=edits, capture="resid_pre", grad=True) for model in pair]
    torch.testing.assert_close(runs[0].logits.cpu(), runs[1].logits, atol=1e-10, rtol=0)
    for run in runs:
        run.logits.tanh().sum().backward()
    torch.testing.assert_close(
        runs[0]["blocks.0.resid_pre"].grad.cpu(), runs[1]["blocks.0.resid_pre"].grad, atol=1e-9, rtol=0
    )


def test_generation(pair):
    for options in ({"temperature": 0}, {"seed": 3, "top_p": 0.9}, {"seed": 4, "edits": {"blocks.0.mlp_out": 0.0}}):
        gpu, cpu = (model.generate(TOKENS, 15, capture="resid_post", **options) for model in pair)
        assert gpu.tokens.rows() == cpu.tokens.rows()
        assert gpu.run["blocks.2.resid_post"].device.type == "cuda"


def test_folding_and_facts(pair):
    folded = pair[0].fold(layer_norm=True, center_unembed=True, center_writing=True, value_biases=True)
    want, got = (model.run(TOKENS).logits.log_softmax(-1).cpu() for model in (pair[1], folded))
    torch.testing.assert_close(got, want, atol=1e-10, rtol=0)
    assert pair[0].fingerprint == pair[1].fingerprint
    result = cutaway.verify(pair[0], made("float64").eval().cuda())
    assert result.holds, result.summary()


def test_a_transformers_model_that_is_there_is_shared():
    theirs = made("float32").cuda()
    model = cutaway.load(theirs)
    assert model.weights.W_E.data_ptr() == theirs.transformer.wte.weight.data_ptr()
