"""Edits of single heads, neurons and MLPs, against transformers with a hook and against plain edits of their sites."""

import pytest
import torch

import cutaway
from cutaway.errors import EditError, SiteError
from tests.model.reference import TOKENS

PLACES = {  # the address, transformers' module whose input has the component, and where in it
    "head 1.3": (lambda body: body.h[1].attn.c_proj, slice(3 * 12, 4 * 12)),
    "head -1.0": (lambda body: body.h[2].attn.c_proj, slice(0, 12)),
    "neuron 1.69": (lambda body: body.h[1].mlp.c_proj, slice(69, 70)),
    "neuron -3.0": (lambda body: body.h[0].mlp.c_proj, slice(0, 1)),
}


def logits(model, **options):
    return model.run(TOKENS, **options).logits


def in_transformers(odd_gpt2, module, where, value):
    """transformers' logits with a part of a module's input set to a value."""

    def hook(_, inputs):
        changed = inputs[0].clone()
        changed[..., where] = value
        return (changed,)

    handle = module(odd_gpt2.transformer).register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            return odd_gpt2(TOKENS.ids, attention_mask=TOKENS.mask).logits
    finally:
        handle.remove()


@pytest.mark.parametrize("value", [0.0, 5.0])
@pytest.mark.parametrize("address", PLACES)
def test_an_edit_of_a_component_equals_a_hook_in_transformers(odd, odd_gpt2, bare, address, value):
    found = logits(odd, edits={address: value})
    real = TOKENS.mask.bool()
    torch.testing.assert_close(found[real], in_transformers(odd_gpt2, *PLACES[address], value)[real], atol=2e-5, rtol=0)
    assert (found - bare)[real].abs().max() > 1e-3


def test_an_edit_of_an_mlp_is_one_of_its_output(odd):
    torch.testing.assert_close(
        logits(odd, edits={"mlp -1": 0.5}), logits(odd, edits={"blocks.2.mlp_out": 0.5}), atol=0, rtol=0
    )


def test_the_kinds_of_edit(odd, plain):
    """A number fills, a tensor broadcasts to the component's own shape, a function gets the component's own value."""
    z = plain["blocks.1.attn.z"]
    own, kept = z[:, :, 3], [h for h in range(5) if h != 3]
    direction = torch.arange(12.0)

    def double(value, ctx):
        value.mul_(2)

    edits = {
        "number": 2,
        "zero-dimensional": torch.tensor(2.0),
        "vector": direction,
        "whole": 2 * own,
        "function": lambda value, ctx: value * 2,
        "in place": double,
    }
    expected = {"number": torch.full_like(own, 2.0), "vector": direction.expand_as(own)}
    expected["zero-dimensional"] = expected["number"]
    for name, edit in edits.items():
        found = odd.run(TOKENS, capture="blocks.1.attn.z", edits={"head 1.3": edit}, logits=None)["blocks.1.attn.z"]
        torch.testing.assert_close(found[:, :, 3], expected.get(name, 2 * own), atol=1e-5, rtol=0)
        torch.testing.assert_close(found[:, :, kept], z[:, :, kept], atol=1e-5, rtol=0)


def test_what_the_function_is_told(odd):
    seen = []

    def look(value, ctx):
        seen.append((tuple(value.shape), ctx.site, ctx.layer, ctx.component))

    odd.run(TOKENS, edits={"head -1.4": look, "neuron 0.69": look, "mlp 1": look, "blocks.0.attn.z": look})
    assert seen == [
        ((3, 7, 5, 12), "blocks.0.attn.z", 0, None),
        ((3, 7), "blocks.0.mlp.post", 0, "neuron 0.69"),
        ((3, 7, 60), "blocks.1.mlp_out", 1, None),
        ((3, 7, 12), "blocks.2.attn.z", 2, "head 2.4"),
    ]


def test_all_heads_and_all_mlps(odd):
    heads = []
    odd.run(TOKENS, edits={"heads": lambda value, ctx: heads.append(ctx.component)})
    assert heads == [f"head {i}.{h}" for i in range(3) for h in range(5)]
    both = logits(odd, edits={"heads": 0.0, "mlps": 0.0})
    torch.testing.assert_close(both, logits(odd, edits={"attn.z": 0.0, "mlp_out": 0.0}), atol=0, rtol=0)


def test_edits_of_a_part_and_of_its_site_apply_in_the_order_given(odd):
    def first_head(edits):
        return odd.run(TOKENS, capture="blocks.1.attn.z", edits=edits, logits=None)["blocks.1.attn.z"][0, 0, :, 0]

    assert first_head({"head 1.3": 5.0, "blocks.1.attn.z": 1.0}).tolist() == [1, 1, 1, 1, 1]
    assert first_head({"blocks.1.attn.z": 1.0, "head 1.3": 5.0}).tolist() == [1, 1, 1, 5, 1]
    with odd.edited({"blocks.1.attn.z": 1.0, "head 1.0": 2.0}):
        assert first_head({"head 1.3": 5.0, "head 1.0": lambda value, ctx: value + 1}).tolist() == [3, 1, 1, 5, 1]


def test_the_caller_s_tensor_is_not_written_to(odd):
    mine = torch.ones(12)
    run = odd.run(
        TOKENS, capture="attn.z", edits={"head 1.3": mine, "head 1.2": lambda value, ctx: mine.expand(3, 7, 12)}
    )
    run["blocks.1.attn.z"].fill_(9.0)
    assert mine.tolist() == [1.0] * 12


def test_gradients_flow_through_the_other_heads(odd):
    run = odd.run(TOKENS, capture="blocks.1.attn.q", edits={"head 1.3": 0.0}, grad=True)
    run.logits.sum().backward()
    of_head = run["blocks.1.attn.q"].grad.abs().sum((0, 1, 3))
    assert of_head[3] == 0
    assert (of_head[[0, 1, 2, 4]] > 0).all()


def test_generation_has_the_edit_at_every_step(odd):
    prompt, options = (
        torch.tensor([[1, 2, 3]]),
        {"temperature": 0, "stop": False, "max_new_tokens": 8, "capture": "embed"},
    )
    found = odd.generate(prompt, edits={"head 1.3": 0.0, "mlp 1": 1.0}, **options)

    def cut(value, ctx):
        value[:, :, 3] = 0.0

    wanted = odd.generate(prompt, edits={"blocks.1.attn.z": cut, "blocks.1.mlp_out": 1.0}, **options)
    assert found.run.tokens.ids.tolist() == wanted.run.tokens.ids.tolist()


def test_a_result_says_the_address_and_its_call_runs(bundled):
    text = "The people of the United"
    with bundled.edited({"head -1.3": 0.0, "mlp 2": 1.0}):
        found = cutaway.attribution.direct(bundled, text)
    assert found.meta["edits"] == [{"head -1.3": "0.0", "mlp 2": "1.0"}]
    scope = {"cutaway": cutaway}
    lines = found.meta["call"].splitlines()
    lines[-1] = lines[-1].replace("cutaway.attribution", "again = cutaway.attribution")
    exec("\n".join(lines), scope)
    assert scope["again"].logit == found.logit
    assert found.logit != cutaway.attribution.direct(bundled, text).logit


MESSAGES = {
    "shape": (
        {"head 1.3": torch.zeros(5)}, EditError,
        "the edit at 'head 1.3' has shape [5]: [3, 7, 12] (B P K) was expected",
    ),
    "neuron": (
        {"neuron 1.3": torch.zeros(12)}, EditError,
        "the edit at 'neuron 1.3' has shape [12]: [3, 7] (B P) was expected",
    ),
    "returned": (
        {"heads": lambda value, ctx: "x"}, EditError,
        "the edit at 'head 0.0' returned str: a tensor or None was expected",
    ),
    "smaller": (
        {"head 1.3": lambda value, ctx: value[:1]}, EditError,
        "the edit at 'head 1.3' has shape [1, 7, 12]: [3, 7, 12] (B P K) was expected",
    ),
    "kind": (
        {"head 1.3": None}, EditError,
        "the edit at 'head 1.3' is NoneType: a number, a tensor or a function (value, ctx) was expected",
    ),
    "head": (
        {"head 1.5": 0.0}, SiteError,
        "no component is called 'head 1.5': this model has layers 0..2 with heads 0..4; near: 'head 1.4'",
    ),
    "layer": (
        {"layer 1": 0.0}, SiteError,
        "'layer 1' is several sites: name 'blocks.1.attn_out' and 'blocks.1.mlp_out', or 'blocks.1.resid_post'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edits", "kind", "message"), MESSAGES.values(), ids=MESSAGES)
def test_an_edit_that_does_not_fit(odd, edits, kind, message):
    with pytest.raises(kind) as error:
        odd.run(TOKENS, edits=edits)
    assert str(error.value) == message


def test_a_bad_address_fails_on_entering(odd):
    with pytest.raises(SiteError, match=r"no component is called 'head 3\.1'"):
        odd.edited({"head 3.1": 0.0})


def test_an_error_of_the_function_s_own_names_the_component(odd):
    def fails(value, ctx):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        odd.run(TOKENS, edits={"neuron 1.3": fails})
    assert error.value.__notes__ == ["the edit at 'neuron 1.3' raised this; its value was torch.float32 [3, 7]"]


def test_a_run_keeps_whole_sites(odd, plain):
    run = odd.run(TOKENS, capture="mlp -1", logits=None)
    assert list(run) == ["blocks.2.mlp_out"]
    torch.testing.assert_close(run["mlp 2"], plain["blocks.2.mlp_out"], atol=1e-5, rtol=0)
    for wanted in (lambda: odd.run(TOKENS, capture=["head 1.3"]), lambda: plain["head 1.3"]):
        with pytest.raises(SiteError) as error:
            wanted()
        assert str(error.value) == "'head 1.3' is a part of a site: name 'blocks.1.attn.z', where it is [:, :, 3]"
