"""Gradients to captured sites: against autograd through transformers, and against finite differences."""

import pytest
import torch

import cutaway
from cutaway.text.tokens import Tokens
from tests.model.reference import ODD, SPLIT, padded, random_gpt2

IDS, MASK = padded([6, 3], ODD["vocab_size"], seed=5)
TOKENS = Tokens(IDS, MASK)
WEIGHTS = torch.randn(2, 6, 101, generator=torch.Generator().manual_seed(6), dtype=torch.float64) * MASK[..., None]
NO_LN1 = ["*embed", "logits", "ln_final.*", "blocks.*.*", "blocks.*.attn.*", "blocks.*.mlp.*", "blocks.*.ln2.*"]


def objective(logits):
    """One number that every attended logit takes part in."""
    return (torch.tanh(logits / 4) * WEIGHTS.to(logits.dtype)).sum()


@pytest.fixture(scope="module")
def wide(odd_folder):
    """The odd model in float64."""
    return cutaway.load(odd_folder, device="cpu", dtype="float64")


def gradients(model, capture):
    run = model.run(TOKENS, capture=capture, grad=True)
    objective(run.logits).backward()
    return {name: value.grad for name, value in run.items()}


@pytest.fixture(scope="module")
def alone(wide):
    """Each site's gradient where nothing else is captured."""
    return {site.name: gradients(wide, site.name)[site.name] for site in wide.sites()}


@pytest.fixture(scope="module")
def theirs():
    """Gradients of the same number to what transformers' modules give and take."""
    model, kept, hooks = random_gpt2(**ODD).double(), {}, []

    def output(name):
        def keep(module, inputs, output):
            tensor = output[0] if isinstance(output, tuple) else output
            tensor.retain_grad()
            kept[name] = tensor

        return keep

    def branch(name):
        """What a LayerNorm alone reads, apart from the stream it reads it from."""

        def keep(module, inputs):
            tensor = inputs[0].clone()
            tensor.retain_grad()
            kept[name] = tensor
            return (tensor,)

        return keep

    def pattern(name):
        def keep(module, inputs, output):
            output[1].retain_grad()
            kept[name] = output[1]

        return keep

    body = model.transformer
    hooks.append(body.wte.register_forward_hook(output("embed")))
    hooks.append(body.ln_f.register_forward_hook(output("ln_final.out")))
    for i, block in enumerate(body.h):
        at = f"blocks.{i}"
        modules = {"ln1.out": block.ln_1, "attn_out": block.attn, "ln2.out": block.ln_2, "mlp_out": block.mlp}
        modules |= {"resid_post": block, "mlp.pre": block.mlp.c_fc, "mlp.post": block.mlp.act}
        for name, module in modules.items():
            hooks.append(module.register_forward_hook(output(f"{at}.{name}")))
        hooks.append(block.ln_2.register_forward_pre_hook(branch(f"{at}.mlp_in")))
        hooks.append(block.attn.register_forward_hook(pattern(f"{at}.attn.pattern")))
    objective(model(IDS, attention_mask=MASK, use_cache=False).logits).backward()
    return {name: tensor.grad for name, tensor in kept.items()}


def test_equal_to_autograd_through_transformers(alone, theirs):
    assert len(theirs) == 2 + 3 * 9
    for name, want in theirs.items():
        assert want.abs().max() > 1e-3
        got = alone[name] * MASK[..., None, :, None] if name.endswith("pattern") else alone[name]
        got = got.tril() if name.endswith("pattern") else got  # the future has a slope, though it is never used
        want = want.tril() if name.endswith("pattern") else want
        torch.testing.assert_close(got, want, atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_equal_to_finite_differences(wide, alone, site):
    generator = torch.Generator().manual_seed(7)
    direction = torch.randn(alone[site.name].shape, generator=generator, dtype=torch.float64)

    def value(step):
        run = wide.run(TOKENS, edits={site.name: lambda value, ctx: value + step * direction})
        return objective(run.logits)

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    grad = alone[site.name]
    assert torch.isfinite(grad).all()
    assert abs(slope) > 1e-3
    torch.testing.assert_close((grad * direction).sum(), slope, rtol=1e-6, atol=1e-7)


def test_the_same_whatever_else_is_captured(wide, alone):
    """Sites that hold the same numbers, such as resid_mid and mlp_in, still have gradients of their own."""
    together = gradients(wide, NO_LN1)
    assert together.keys() == {n for n in alone if ".ln1." not in n}
    for name, grad in together.items():
        torch.testing.assert_close(grad, alone[name], atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    whole = gradients(wide, ["embed", "resid_pre", "ln1.scale", "ln1.normalized", "ln1.out"])
    for name, grad in whole.items():
        torch.testing.assert_close(grad, alone[name], atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_split_gradients_sum_to_the_stream_s(alone):
    for i in range(3):
        split = sum(alone[f"blocks.{i}.{name}"] for name in SPLIT - {"attn_in"})
        torch.testing.assert_close(split, alone[f"blocks.{i}.attn_in"], atol=1e-9, rtol=0)
        through_mlp = alone[f"blocks.{i}.mlp_in"] + alone[f"blocks.{i}.resid_post"]
        torch.testing.assert_close(through_mlp, alone[f"blocks.{i}.resid_mid"], atol=1e-9, rtol=0)


def test_an_edit_s_own_gradient(wide, alone):
    """A leaf that is edited in gets the site's gradient, captured or not."""
    plain = wide.run(TOKENS, capture="blocks.1.resid_mid")["resid_mid"]
    for capture in ((), "blocks.1.resid_mid", ["blocks.1.resid_mid", "blocks.1.mlp_in"]):
        leaf = plain.clone().requires_grad_()
        run = wide.run(TOKENS, edits={"blocks.1.resid_mid": leaf}, capture=capture, grad=True)
        objective(run.logits).backward()
        torch.testing.assert_close(leaf.grad, alone["blocks.1.resid_mid"], atol=1e-9, rtol=0)
        for name, value in run.items():
            torch.testing.assert_close(value.grad, alone[name], atol=1e-9, rtol=0)


def test_gradients_of_a_captured_state(wide):
    """Of a neuron to the residual stream three sites earlier, with no logits at all."""
    run = wide.run(TOKENS, capture=["blocks.1.resid_mid", "blocks.1.mlp.pre"], logits=None, grad=True)
    [grad] = torch.autograd.grad(run["mlp.pre"][0, 2, 5], run["resid_mid"])
    assert grad[0, 2].abs().max() > 0.01
    grad[0, 2] = 0
    assert (grad == 0).all()


def test_the_weights_stay_out_of_it(wide):
    run = wide.run(TOKENS, capture="resid_post", grad=True)
    objective(run.logits).backward()
    assert all(w.grad is None and not w.requires_grad for w in wide.parameters().values())
    assert not wide.run(TOKENS).logits.requires_grad
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
