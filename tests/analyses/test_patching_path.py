"""Path patching against three whole runs with edits, one sender at a time."""

import pytest
import torch

import cutaway
from cutaway import patching
from cutaway.errors import InputError, Interrupted, SiteError
from tests import induction
from tests.analyses.test_patching import CLEAN, CORRUPTED, IDS, difference
from tests.model.reference import ODD, random_gpt2

LAYERS = ODD["n_layer"]


@pytest.fixture(scope="module")
def ours():
    return cutaway.load(random_gpt2(**ODD, bos_token_id=None, eos_token_id=None), device="cpu")


def naive(model, base, other, sender, receiver, mlps, positions=None):
    """Return last logits [V] by three steps: both runs; a frozen run with the sender patched; a free run with what the
    receiver read."""
    keep = ["attn.z", "mlp_out"]
    own, there = model.run(base, capture=keep), model.run(other, capture=keep)
    frozen = {name: own[name] for name in own if not (mlps and name.endswith("mlp_out"))}
    site, head = sender
    patched, at = own[site].clone(), slice(None) if positions is None else positions
    if head is None:
        patched[:, at] = there[site][:, at]
    else:
        patched[:, at, head] = there[site][:, at, head]
    frozen[site] = patched
    place, head = receiver
    if place == "logits":
        return model.run(base, edits=frozen, logits="last").logits[0, 0]
    read = model.run(base, capture=place, edits=frozen, logits=None)[place]

    def put(value, ctx):
        if head is None:
            return read
        value[:, :, head] = read[:, :, head]
        return value

    return model.run(base, edits={place: put}, logits="last").logits[0, 0]


RECEIVERS = {
    "logits": ("logits", None),
    "head 2.3 q": ("blocks.2.attn.q", 3),
    "head 2.0 k": ("blocks.2.attn.k", 0),
    "head 1.4 v": ("blocks.1.attn.v", 4),
    "mlp 1": ("blocks.1.mlp_in", None),
    "mlp 2": ("blocks.2.mlp_in", None),
}


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("mlps", [False, True])
@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_every_sender_is_three_runs_with_edits(ours, receiver, mlps, direction):
    found = patching.path(
        ours, *IDS, ["heads", "mlps"], receiver, "logit difference", direction, 3, 4, through_mlps=mlps
    )
    base, other = reversed(IDS) if direction == "restore" else IDS
    place = RECEIVERS[receiver]
    layer = LAYERS if receiver == "logits" else int(place[0].split(".")[1])
    heads = 5 * (layer + (receiver[:3] == "mlp"))
    assert len(found.cells) == heads + layer
    for cell, value in zip(found.cells, found.values.tolist(), strict=True):
        logits = naive(ours, base, other, (cell.site.name, cell.index), place, mlps)
        assert value == pytest.approx(difference(logits, 3, 4), abs=2e-5), found.name(cell)
    batched = patching.path(
        ours, *IDS, ["heads", "mlps"], receiver, "logit difference", direction, 3, 4, through_mlps=mlps, budget=1
    )
    torch.testing.assert_close(batched.values, found.values, atol=2e-5, rtol=0)


def test_positions_and_other_spellings(ours):
    def of(sender, receiver, **options):
        return patching.path(ours, *IDS, sender, receiver, answer=3, versus=4, **options).values.tolist()

    [value] = of("head 0.2", "head 2.3 k", positions=[2, -2])
    logits = naive(ours, *reversed(IDS), ("blocks.0.attn.z", 2), ("blocks.2.attn.k", 3), False, [2, 5])
    assert value == pytest.approx(difference(logits, 3, 4), abs=2e-5)
    assert of(("blocks.0.attn.z", 2), ("blocks.2.attn.k", 3), positions=[2, 5]) == [value]
    assert (
        of("blocks.-2.mlp_out", "blocks.2.mlp_in") == of("mlp 1", "mlp 2") == of(["mlp 1"], ("blocks.2.mlp_in", None))
    )
    assert of("attn.z", "logits") == of("heads", "logits")
    assert of(("heads", "mlps"), "logits") == of(["heads", "mlps"], "logits")
    assert of("head -3.2", "head -1.3 k") == of("head 0.2", "head 2.3 k")
    assert of(["head 0.2", "head 0.2", "mlp 0"], "mlp 1") == of(["head 0.2", "mlp 0"], "mlp 1")


def test_the_planted_path_is_found():
    """Head 1.1's keys read what head 0.0 wrote down at the same place."""
    model = induction.model()
    clean, corrupted = torch.tensor([[1, 3, 2, 4, 5, 6, 8, 3]]), torch.tensor([[1, 11, 2, 4, 5, 6, 8, 3]])
    metric = {"metric": lambda logits: logits[:, 7] - logits[:, 11]}
    keys = patching.path(model, clean, corrupted, ["heads", "mlps"], "head 1.1 k", **metric)
    effects = {keys.name(cell): abs(value) for cell, value in keys.largest(9)}
    assert max(effects, key=effects.get) == "head 0.0"
    assert effects["head 0.0"] > 100 * max(value for name, value in effects.items() if name != "head 0.0")
    values = patching.path(model, clean, corrupted, "heads", "head 1.1 v", **metric)
    assert abs(values.normalized).max() < 0.1 * effects["head 0.0"]


def test_summary_table_and_call(bundled):
    found = patching.path(bundled, CLEAN, CORRUPTED, ["heads", "mlps"], "logits")
    assert found.summary().splitlines()[1].startswith("restore, from 36 senders to logits, all else frozen")
    table = found.table()
    assert len(table) == 36
    assert table["head"].notna().sum() == 32
    assert dict(found.facts()).keys() == {"largest direct effect on logits"}
    names = {"cutaway": cutaway}
    *lines, last = found.meta["call"].splitlines()
    exec("\n".join([*lines, f"again = {last}"]), names)
    assert names["again"].to_dict() == found.to_dict()


def test_interrupted(bundled):
    seen = []

    def stop(part):
        seen.append(part.done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted: 3 of 32 senders are done") as stopped:
        patching.path(bundled, CLEAN, CORRUPTED, budget=1, each=stop)
    assert seen == [1, 2, 3]
    assert stopped.value.result.done == 3


MISTAKES = {
    "late": (("head 2.0", "head 2.1 q"), "sender='head 2.0' does not come before head 2.1 q"),
    "later": (("mlp 3", "mlp 3"), "sender='mlp 3' does not come before mlp 3"),
    "none": (([], "logits"), r"sender=\[\]: 'head 3\.1', 'mlp 2'"),
    "sender": (("layer 3", "logits"), "sender='layer 3': 'head 3.1', 'mlp 2'"),
    "sender's part": (("head 0.1 q", "logits"), "sender='head 0.1 q': 'head 3.1', 'mlp 2'"),
    "number": ((3, "logits"), "sender=3: 'head 3.1'"),
    "site": (("resid_pre", "logits"), "names blocks.0.resid_pre: 'head 3.1'"),
    "head": ((("blocks.0.attn.z", 8), "logits"), "head 8 is not there; blocks.0.attn.z has 0 to 7"),
    "of an MLP": ((("blocks.0.mlp_out", 1), "logits"), "head 1 is not there"),
    "receiver": (("heads", "head 3.1"), "receiver='head 3.1': 'head 3.1 q'"),
    "all MLPs": (("heads", "mlps"), "receiver='mlps': 'head 3.1 q'"),
    "receivers": (("heads", "attn.q"), "receiver='attn.q': 'head 3.1 q'"),
    "no head": (("heads", "blocks.3.attn.q"), "receiver='blocks.3.attn.q': 'head 3.1 q'"),
    "receiver's head": (
        ("heads", ("blocks.3.attn.q", 8)),
        r"receiver=\('blocks.3.attn.q', 8\): head 8 is not there; blocks.3.attn.q has 0 to 7",
    ),
    "word": (("heads", ("blocks.3.attn.q", "1")), "receiver=.'blocks.3.attn.q', '1'.: 'head 3.1 q'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(bundled, name):
    (sender, receiver), message = MISTAKES[name]
    with pytest.raises(InputError, match=message) as error:
        patching.path(bundled, CLEAN, CORRUPTED, sender, receiver)
    assert "\n" not in str(error.value)


def test_edits_in_force_and_unknown_sites(bundled):
    with bundled.edited({"mlp_out": 0.0}), pytest.raises(InputError, match="edits are in force"):
        patching.path(bundled, CLEAN, CORRUPTED)
    for ends, wrong, near in [
        (("head 9.0", "logits"), "head 9.0", "head 3.0"),
        (("head 0.8", "logits"), "head 0.8", "head 0.7"),
        (("head three", "logits"), "head three", "head 0.0"),
        (("heads", "head 4.0 q"), "head 4.0 q", "head 3.0"),
        (("heads", "head 3.8 q"), "head 3.8 q", "head 3.7"),
    ]:
        with pytest.raises(SiteError) as error:
            patching.path(bundled, CLEAN, CORRUPTED, *ends)
        has = "this model has layers 0..3 with heads 0..7"
        assert str(error.value) == f"no component is called {wrong!r}: {has}; near: {near!r}"
