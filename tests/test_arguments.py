"""Whole numbers of NumPy and torch are accepted, and messages show the values that are not."""

import numpy as np
import pandas as pd
import pytest
import torch

import cutaway
from cutaway.arguments import seed_of, shown, whole
from cutaway.errors import InputError
from tests.results import save_tiny

PROMPT = "The people of the United"
OTHER = "The war of the United"
WHOLE = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.int16)]
NONE = [
    3.0,
    True,
    "3",
    None,
    np.float32(3),
    np.bool_(True),
    torch.tensor(3.0),
    torch.tensor(True),
    torch.tensor([3]),
    [3],
]


@pytest.mark.parametrize("value", WHOLE)
def test_a_whole_number_is_one_wherever_it_comes_from(value):
    for found in (whole("top", value, 1), seed_of(value)):
        assert found == 3
        assert type(found) is int


@pytest.mark.parametrize("value", NONE)
def test_nothing_else_is_one(value):
    with pytest.raises(InputError, match=r"^top=.* a whole number of at least 1 was expected$"):
        whole("top", value, 1)
    with pytest.raises(InputError, match=r"^seed=.* was expected$"):
        seed_of(value)


def test_bounds_are_said():
    for value, least, most, said in [
        (0, 1, 9, "top=0: a whole number of at least 1 was expected"),
        (-1, 0, 2**63 - 1, "top=-1: a whole number of at least 0 was expected"),
        (2**64, 0, 2**63 - 1, "top=18446744073709551616: a whole number of 64 bits, at least 0, was expected"),
        (10**6000, 1, 9, "top=a number of 5,980 digits: a whole number from 1 to 9 was expected"),
    ]:
        with pytest.raises(InputError) as error:
            whole("top", value, least, most)
        assert str(error.value) == said


def test_large_things_are_not_printed_whole():
    assert shown(torch.zeros(3, 4)) == "a Tensor of float32 [3, 4]"
    assert shown(np.zeros((2, 100), dtype=np.int32)) == "a ndarray of int32 [2, 100]"
    assert shown(torch.tensor(2.5)) == "2.5"
    assert len(shown("x" * 10_000)) <= 100
    assert len(shown(list(range(10_000)))) < 100


def test_the_first_choice_is_a_target_as_it_comes(bundled):
    logits = bundled.run(PROMPT).logits[0, -1]
    choice = int(logits.argmax())
    direct = cutaway.attribution.direct
    expected = direct(bundled, PROMPT, choice, 17, position=3, neurons=2)
    for as_one in (torch.tensor, np.int64, lambda i: np.array(i)):
        found = direct(bundled, PROMPT, as_one(choice), as_one(17), position=as_one(3), neurons=as_one(2))
        assert found.to_dict() == expected.to_dict()
    assert direct(bundled, PROMPT, logits.argmax()).target == direct(bundled, PROMPT).target
    gradient = cutaway.attribution.gradient(bundled, PROMPT, logits.argmax())
    assert gradient.target == expected.target
    trace = cutaway.causal_trace.trace(bundled, PROMPT, "people", samples=np.int64(1), seed=torch.tensor(3))
    assert trace.meta["parameters"]["seed"] == 3
    read = cutaway.unigram.read(bundled, top=torch.tensor(2), also=logits.argmax())
    assert read.ids[-1] == choice
    lens = cutaway.logit_lens.read(bundled, PROMPT, top=np.int64(3), targets=[logits.argmax()])
    assert lens.targets == [expected.target.partition(" - ")[0]]
    patched = cutaway.patching.run(
        bundled, "The Soviet Union", "The Indian Union", answer=logits.argmax(), versus=np.int64(17),
        layers=[torch.tensor(1), np.int64(-1)], positions=[np.array(1)],
    )  # fmt: skip
    assert {(cell.layer, cell.positions) for cell in patched.cells} == {(1, (1,)), (3, (1,))}


@pytest.mark.parametrize(
    "target", [torch.zeros(5, 8192), np.zeros(8192), [3, 4], 2.0, True, 8192, -1, torch.tensor(2.0)]
)
def test_another_target_is_named_in_one_short_line(bundled, target):
    with pytest.raises(InputError, match=r"^token .*: a text or an id from 0 to 8191 was expected$") as error:
        cutaway.attribution.direct(bundled, PROMPT, target)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("position", [[0, 1], "last", 1.0, True, None, torch.tensor([0, 1])])
def test_a_position_is_one_number(bundled, position):
    for how in ("direct", "gradient", "integrated"):
        with pytest.raises(InputError, match=r"^position=.*: a whole number was expected$"):
            getattr(cutaway.attribution, how)(bundled, PROMPT, position=position)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "a"])
def test_every_seed_is_checked_first(bundled, seed):
    calls = [
        lambda: cutaway.attention.read(bundled, PROMPT, seed=seed),
        lambda: cutaway.attention.average(bundled, seed=seed),
        lambda: cutaway.ablation.run(bundled, seed=seed),
        lambda: cutaway.logit_lens.average(bundled, seed=seed),
        lambda: cutaway.states.measure(bundled, seed=seed),
        lambda: cutaway.norms.series(np.random.default_rng(0).random((1, 40))).regress(seed=seed),
        lambda: cutaway.unigram.claim(bundled, seed=seed),
        lambda: cutaway.unigram.edit(bundled, {" the": 1.0}, seed=seed),
        lambda: cutaway.causal_trace.trace(bundled, PROMPT, "people", seed=seed),
        lambda: cutaway.verify(bundled, seed=seed),
        lambda: bundled.generate(PROMPT, seed=seed),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"^seed=.*a whole number from 0 to 2\*\*64 - 1 was expected$"):
            call()


def test_an_id_without_an_entry_is_a_target_like_any_other(tmp_path):
    """A vocabulary that is padded beyond the tokenizer."""
    model = cutaway.load(save_tiny(tmp_path / "padded", vocab_size=300), device="cpu")
    text, pad = "the war in the north", 299
    assert len(model.tokenizer) <= pad
    logits = model.run(text).logits[0, -1].double()
    for how in ("direct", "gradient", "integrated"):
        found = getattr(cutaway.attribution, how)(model, text, pad, 0)
        assert found.display_target.startswith("[299] - ")
        assert found.logit == pytest.approx(float(logits[pad] - logits[0]), abs=1e-4)
        assert "[299]" in found.summary()
        found.chart().to_dict()
    assert cutaway.unigram.read(model, also=[pad]).display[-1] == "[299]"
    other = text.replace("north", "south")
    assert "[299]" in cutaway.patching.run(model, text, other, answer=pad, versus=0).summary()


def test_generation_takes_whole_numbers_as_they_come(bundled):
    expected = bundled.generate(PROMPT, 6, top_k=5, seed=3, temperature=0.5)
    for as_one in (np.int64, torch.tensor):
        found = bundled.generate(PROMPT, as_one(6), top_k=as_one(5), seed=as_one(3), temperature=np.float32(0.5))
        assert torch.equal(found.tokens.ids, expected.tokens.ids)


def test_a_number_of_numpy_s_is_a_number(bundled):
    trace = cutaway.causal_trace.trace
    expected = trace(bundled, PROMPT, "people", samples=1, noise=2).table()
    for noise in (np.int64(2), np.float32(2), np.float64(2)):
        pd.testing.assert_frame_equal(trace(bundled, PROMPT, "people", samples=1, noise=noise).table(), expected)


WRONG = {
    "budget of a trace": lambda m: cutaway.causal_trace.trace(m, PROMPT, "people", samples=1, budget=1e9),
    "budget of patching": lambda m: cutaway.patching.run(m, PROMPT, OTHER, metric="kl", budget=True),
    "budget of attribution": lambda m: cutaway.patching.attribution(
        m, PROMPT, OTHER, answer=1, versus=2, exact=True, budget=0
    ),
    "budget of paths": lambda m: cutaway.patching.path(m, PROMPT, OTHER, "mlps", answer=1, versus=2, budget=1e9),
    "neurons": lambda m: cutaway.patching.run(m, PROMPT, OTHER, "mlp.post", "kl", neurons=3.0),
    "neurons of numpy": lambda m: cutaway.patching.run(m, PROMPT, OTHER, "mlp.post", "kl", neurons=np.array(3.0)),
    "dimensions": lambda m: cutaway.states.gaussian(16, 8.0, samples=20),
    "noise": lambda m: cutaway.causal_trace.trace(m, PROMPT, "people", samples=1, noise=10**400),
    "seed": lambda m: m.generate(PROMPT, 2, seed=3.0),
    "top_k": lambda m: m.generate(PROMPT, 2, top_k=True),
    "max_new_tokens": lambda m: m.generate(PROMPT, np.float64(2)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_a_number_of_the_kind_is_refused_by_name(bundled, name):
    with pytest.raises(InputError, match=rf"^{name.partition(' ')[0]}=.*expected|live dimensions"):
        WRONG[name](bundled)
