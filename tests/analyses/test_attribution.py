"""Attribution: parts that sum, a plain loop, autograd through transformers, and captum."""

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients

import cutaway
from cutaway import attribution
from cutaway.analyses.attribution import gradients
from cutaway.errors import InputError, SiteError, TokenizerError

TEXT = "The people of the United"
LONGER = "Fellow citizens of the Senate: the people of the United States are free and at peace."
STATES, NATIONS = " States", " Nations"
FOLDS = [
    {"layer_norm": True},
    {"layer_norm": True, "center_unembed": True, "center_writing": True, "value_biases": True},
    {"center_writing": True},
]


def logit_of(model, text, target, versus, position=-1):
    logits = model.run(text).logits[0, position].double()
    single = model.tokenizer.single
    return (logits[single(target)] - (logits[single(versus)] if versus else 0)).item()


def check_sums(found, logit, atol):
    """Assert that components, groups and layers all sum to the model's own logit."""
    assert found.logit == pytest.approx(logit, abs=atol)
    assert sum(c.contribution for c in found.components) == pytest.approx(logit, abs=atol)
    assert sum(found.groups().values()) == pytest.approx(logit, abs=atol)
    assert found.accumulated[-1] == pytest.approx(logit, abs=atol)
    added = {-1: 0.0} | dict.fromkeys(range(found.layers), 0.0)
    for c in found.components:
        added[-1 if c.layer is None else c.layer] += c.contribution
    np.testing.assert_allclose(np.cumsum(list(added.values())), found.accumulated, rtol=0, atol=atol)
    assert abs(found.gap) < atol


@pytest.mark.parametrize("versus", [None, NATIONS])
@pytest.mark.parametrize("fold", [None, *FOLDS], ids=str)
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-4), ("float64", 1e-10)])
def test_the_parts_sum_to_the_logit(bundled, bundled64, dtype, atol, fold, versus):
    model = {"float32": bundled, "float64": bundled64}[dtype]
    model = model.fold(**fold) if fold else model
    assert model.tied == (not fold)
    check_sums(
        attribution.direct(model, LONGER, STATES, versus, position=12),
        logit_of(model, LONGER, STATES, versus, 12),
        atol,
    )
    check_sums(attribution.direct(model, TEXT, STATES, versus), logit_of(model, TEXT, STATES, versus), atol)


def test_an_untied_model_without_a_tokenizer(wordless):
    model, theirs = wordless
    ids = torch.tensor([[3, 14, 15, 92, 65]])
    found = attribution.direct(model, ids, 7, 9, neurons=4)
    with torch.no_grad():
        logits = theirs(ids).logits[0, -1].double()
    check_sums(found, (logits[7] - logits[9]).item(), 1e-4)
    assert (found.target, found.tokens) == ("[7]", ["[3]", "[14]", "[15]", "[92]", "[65]"])
    assert attribution.direct(model, ids).target == f"[{int(logits.argmax())}]"


def test_every_part_is_that_of_a_plain_loop(bundled64, hf):
    """By transformers' own modules and weights, one component at a time, through the LayerNorm's formula."""
    text, model, body = LONGER, hf(torch.float64), hf(torch.float64).transformer
    seen, hooks = {}, []
    for i, block in enumerate(body.h):
        for name, module in {"z": block.attn.c_proj, "post": block.mlp.c_proj}.items():
            hooks.append(module.register_forward_hook(lambda m, x, y, k=(name, i): seen.update({k: x[0][0, -1]})))
    hooks.append(body.ln_f.register_forward_hook(lambda m, x, y: seen.update(x=x[0][0, -1])))
    ids = bundled64.tokenizer.encode([text])[0][0]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    scale = (seen["x"].var(unbiased=False) + body.ln_f.eps).sqrt()
    toward = model.lm_head.weight[bundled64.tokenizer.single(STATES)]

    def part(c):
        return ((c - c.mean()) / scale * body.ln_f.weight @ toward).item()

    found = attribution.direct(bundled64, text, STATES, neurons=20)
    expected, neurons = {}, {}
    with torch.no_grad():
        expected["embed"] = part(body.wte.weight[ids[-1]])
        expected["pos_embed"] = part(body.wpe.weight[len(ids) - 1])
        for i, block in enumerate(body.h):
            for h in range(8):
                here = slice(32 * h, 32 * h + 32)
                expected[f"head {i}.{h}"] = part(seen["z", i][here] @ block.attn.c_proj.weight[here])
            expected[f"b_O {i}"] = part(block.attn.c_proj.bias)
            expected[f"mlp {i}"] = part(seen["post", i] @ block.mlp.c_proj.weight)
            expected[f"b_out {i}"] = part(block.mlp.c_proj.bias)
            for j, (value, row) in enumerate(zip(seen["post", i], block.mlp.c_proj.weight, strict=True)):
                neurons[f"neuron {i}.{j}"] = part(value * row)
        expected["ln_final.b"] = (body.ln_f.bias @ toward).item()
    got = {c.name: c.contribution for c in found.components}
    assert list(got) == list(expected)
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-9, atol=1e-11)
    assert found.scale == pytest.approx(scale.item(), rel=1e-12)
    largest = sorted(neurons, key=lambda name: -abs(neurons[name]))[:20]
    assert [c.name for c in found.neurons] == largest
    np.testing.assert_allclose([c.contribution for c in found.neurons], [neurons[n] for n in largest], rtol=1e-9)


def test_all_neurons_sum_to_the_mlps(bundled64):
    found = attribution.direct(bundled64, TEXT, STATES, NATIONS, neurons=10**6)
    for i in range(found.layers):
        [mlp] = [c.contribution for c in found.components if (c.kind, c.layer) == ("mlp", i)]
        assert sum(c.contribution for c in found.neurons if c.layer == i) == pytest.approx(mlp, abs=1e-10)


def test_edits_in_force_have_a_part_of_their_own(bundled64):
    with bundled64.edited({"blocks.1.attn_out": 0.5, "blocks.2.mlp.post": 0.0}):
        found = attribution.direct(bundled64, TEXT, STATES)
        logit = logit_of(bundled64, TEXT, STATES, None)
    assert found.components[-1].kind == "edits"
    assert abs(found.components[-1].contribution) < 0.5 * abs(logit)
    assert sum(c.contribution for c in found.components) == pytest.approx(logit, abs=1e-10)
    assert found.accumulated[-1] == pytest.approx(logit, abs=1e-10)


def test_without_a_target_it_is_the_first_choice(bundled):
    for how in (attribution.direct, attribution.gradient, attribution.integrated):
        found = how(bundled, TEXT, position=2)
        [row] = cutaway.predictions.next_tokens(bundled, "The people of", top=1).tokens
        assert [found.target] == row
        assert found.tokens == ["The", " people", " of"]


@pytest.fixture(scope="module")
def theirs(hf, bundled64):
    """Return transformers' model, its logit of " States" less that of " Nations" from token embeddings, and these."""
    single, model = bundled64.tokenizer.single, hf(torch.float64)

    def forward(embeddings):
        logits = model(inputs_embeds=embeddings).logits[:, -1]
        return logits[:, single(STATES)] - logits[:, single(NATIONS)]

    ids = torch.tensor([bundled64.tokenizer.encode([LONGER[:57]])[0][0]])
    return model, forward, model.transformer.wte(ids).detach()


def test_gradient_times_activation_is_that_of_transformers(bundled64, theirs):
    model, forward, embeddings = theirs
    kept, hooks = {"embed": embeddings.clone().requires_grad_()}, []

    def keep(name):
        def hook(module, inputs, output):
            tensor = output[0] if isinstance(output, tuple) else output
            tensor.retain_grad()
            kept[name] = tensor

        return hook

    for i, block in enumerate(model.transformer.h):
        modules = {"resid_post": block, "attn_out": block.attn, "mlp_out": block.mlp, "mlp.post": block.mlp.act}
        for name, module in modules.items():
            hooks.append(module.register_forward_hook(keep(f"blocks.{i}.{name}")))
    hooks.append(model.transformer.ln_f.register_forward_hook(keep("ln_final.out")))
    logit = forward(kept["embed"])[0]
    logit.backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    for pattern in ("embed", "resid_post", "attn_out", "mlp_out", "mlp.post", "ln_final.out"):
        found = attribution.gradient(bundled64, LONGER[:57], STATES, NATIONS, pattern)
        assert found.logit == pytest.approx(logit.item(), abs=1e-10)
        for site, values in zip(found.sites, found.values, strict=True):
            expected = (kept[site] * kept[site].grad)[0].sum(-1).detach()
            torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-10)


def test_attention_patterns_count_at_the_token_that_is_looked_at(bundled64):
    site = "blocks.1.attn.pattern"
    found = attribution.gradient(bundled64, TEXT, STATES, sites=site)
    run = bundled64.run(TEXT, capture=site, grad=True)
    run.logits[0, -1, bundled64.tokenizer.single(STATES)].backward()
    expected = (run[site] * run[site].grad)[0].sum((0, 1)).detach()
    torch.testing.assert_close(found.values[0], expected)
    scores = attribution.gradient(bundled64, TEXT, STATES, sites="blocks.1.attn.scores")
    assert scores.values.isfinite().all()


def test_every_site_can_be_asked(bundled):
    for site in bundled.sites():
        found = attribution.gradient(bundled, TEXT, STATES, sites=site.name)
        assert found.values.shape == (1, 5)
        assert found.values.isfinite().all(), site.name


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_integrated_gradients_are_captums(bundled64, theirs, baseline):
    model, forward, embeddings = theirs
    start = torch.zeros_like(embeddings)
    if baseline == "mean":
        start = start + model.transformer.wte.weight.detach().mean(0)
    found = attribution.integrated(bundled64, LONGER[:57], STATES, NATIONS, 40, baseline)
    theirs_, delta = IntegratedGradients(forward).attribute(
        embeddings, start, n_steps=40, method="gausslegendre", return_convergence_delta=True
    )
    # captum rounds its steps' weights to float32.
    torch.testing.assert_close(found.values[0], theirs_[0].sum(-1).detach(), rtol=1e-6, atol=1e-6)
    assert found.gap == pytest.approx(delta.item(), abs=1e-6)
    assert found.start == pytest.approx(forward(start).item(), abs=1e-10)


def test_more_steps_close_the_gap(bundled64, monkeypatch):
    coarse, fine = (attribution.integrated(bundled64, TEXT, STATES, steps=n) for n in (2, 100))
    assert abs(fine.gap) < 1e-6 < abs(coarse.gap)
    monkeypatch.setattr(gradients, "PATH_TOKENS", 7 * 5)  # seven points of the path at a time
    again = attribution.integrated(bundled64, TEXT, STATES, steps=100)
    torch.testing.assert_close(again.values, fine.values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("how", "arguments", "error", "message"),
    [
        ("direct", {"target": "States of"}, TokenizerError, "exactly one was expected"),
        ("direct", {"target": 10**6}, InputError, "token 1000000: a text or an id from 0 to 8191 was expected"),
        ("direct", {"target": STATES, "versus": STATES}, InputError, "target and versus are both ·States"),
        ("direct", {"position": 5}, InputError, "position=5: the text has 5 tokens, 0 to 4 were expected"),
        ("direct", {"neurons": 0}, InputError, "neurons=0: a whole number of at least 1"),
        ("gradient", {"sites": "resid"}, SiteError, "no site matches 'resid'"),
        ("integrated", {"steps": 0}, InputError, "steps=0: a whole number of at least 1"),
        ("integrated", {"baseline": "noise"}, InputError, "baseline='noise' is unknown: 'zero' or 'mean'"),
    ],
)
def test_mistakes_are_named(bundled, how, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(attribution, how)(bundled, TEXT, **arguments)
    with pytest.raises(InputError, match="2 texts were given"):
        getattr(attribution, how)(bundled, [TEXT, TEXT])


def test_tables_and_charts_hold_the_numbers(bundled):
    found = attribution.direct(bundled, TEXT, STATES, neurons=3)
    table = found.table()
    assert table[table["kind"] != "neuron"]["contribution"].sum() == pytest.approx(found.logit, abs=1e-4)
    assert len(table) == 2 + 4 * (8 + 3) + 1 + 3
    assert found.by_layer()["added"].sum() == pytest.approx(found.logit, abs=1e-4)
    spec = found.chart().to_dict()
    heads = next(rows for rows in spec["datasets"].values() if "head" in rows[0])
    assert [row["value"] for row in heads] == pytest.approx(
        [c.contribution for c in found.components if c.kind == "head"], rel=1e-4
    )
    by_token = attribution.gradient(bundled, TEXT, STATES)
    pd.testing.assert_series_equal(
        by_token.table()["attribution"], pd.Series(by_token.values.flatten().numpy()), check_names=False
    )
