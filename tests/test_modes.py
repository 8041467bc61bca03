"""What a notebook has switched in torch before changes no number: gradients, inference mode, autocast, defaults."""

import contextlib

import pandas as pd
import pytest
import torch

import cutaway
from tests import results
from tests.model.reference import ODD, random_gpt2

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def defaults(dtype=torch.float32, device="cpu"):
    """Other defaults for what torch makes; of the meta device, where there are no numbers at all."""
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


MODES = {
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: defaults(torch.float64),
    "bfloat16": lambda: defaults(torch.bfloat16),
    "device": lambda: defaults(device="meta"),
}


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


def test_every_analysis_is_the_same_in_all_modes_at_once(bundled):
    plain = results.make(bundled)
    with defaults(torch.float64, "meta"), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        model = cutaway.load(device="cpu")
        found = results.make.__wrapped__(model)
        tables = {name: (result.table(), result.summary()) for name, result in found.items()}
    assert found.keys() == plain.keys()
    for name, (table, _) in tables.items():
        pd.testing.assert_frame_equal(table, plain[name].table(), rtol=1e-5, atol=1e-6, obj=name)


GRADIENTS = {
    "gradient": lambda m: cutaway.attribution.gradient(m, "The people of the United", " States").values,
    "integrated": lambda m: cutaway.attribution.integrated(m, "The people of the United", " States", steps=4).values,
    "patching": lambda m: cutaway.patching.attribution(m, "The people", "The war", "attn.z", answer=" of").values,
    "neurons": lambda m: cutaway.patching.run(m, "The people", "The war", "mlp.post", answer=" of", neurons=5).values,
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_what_needs_gradients_turns_them_on(bundled, mode, name):
    want = GRADIENTS[name](bundled)
    assert want.abs().max() > 0
    with mode():
        found = GRADIENTS[name](bundled)
        loaded_there = GRADIENTS[name](cutaway.load(device="cpu"))
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(loaded_there, want)


def test_a_run_with_gradients(bundled, mode):
    def slope():
        ids = torch.tensor([[5, 6, 7]], device="cpu")
        run = bundled.run(ids, capture="embed", grad=True, logits="last")
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            return torch.autograd.grad(run.logits[0, -1, 9], [run["embed"]])[0]

    want = slope()
    with mode():
        found = slope()
    torch.testing.assert_close(found, want)


def test_weights_and_edits_made_in_inference_mode_take_part(bundled):
    with torch.inference_mode():
        theirs = random_gpt2(**ODD)
        model = cutaway.load(theirs, device="cpu")
        shift = torch.ones(1, 1, model.config.d_model)
    ids = torch.tensor([[1, 2, 3]])
    run = model.run(ids, capture="embed", edits={"blocks.0.mlp_out": shift, "ln_final.scale": 2.0}, grad=True)
    run.logits.sum().backward()
    assert run["embed"].grad.abs().max() > 0
    folded_there = torch.inference_mode()(lambda: model.fold(layer_norm=True))()
    torch.testing.assert_close(folded_there.run(ids).logits, model.run(ids).logits, atol=1e-5, rtol=1e-5)


def test_weights_that_are_being_trained(bundled):
    """Gradients that a caller wants of the weights change no analysis, and come where they are asked for."""
    model = cutaway.load(device="cpu")
    for weight in model.parameters().values():
        weight.requires_grad_()
    for name, table in {name: r.table() for name, r in results.make.__wrapped__(model).items()}.items():
        pd.testing.assert_frame_equal(table, results.make(bundled)[name].table(), rtol=1e-5, atol=1e-6, obj=name)
    run = model.run("The people", grad=True)
    run.logits.sum().backward()
    assert model.weights.W_E.grad.abs().max() > 0


def test_generation_begun_in_one_mode_goes_on_in_another(bundled):
    from cutaway.model.generate import steps

    want = [step.ids for step in steps(bundled, "The people", 4, temperature=0)]
    made = steps(bundled, "The people", 4, temperature=0)
    with torch.inference_mode():
        found = [next(made).ids]
    found += [step.ids for step in made]
    assert found == want
