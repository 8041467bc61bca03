"""The sites' names in three vocabularies, their patterns, and how a run finds them again."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.errors import SiteError
from cutaway.model.architectures import gpt2
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.taps.sites import Sites
from tests.model.reference import TOKENS

L = 4
SITES = Sites(gpt2.SITES, Config(n_layers=L, n_heads=3, d_model=12, d_mlp=20, d_vocab=50, n_ctx=16))

# canonical, shape, TransformerLens, Hugging Face; in forward order, `i` for the layer
TABLE = """
embed                      | B P D   | hook_embed                       | transformer.wte
pos_embed                  | B P D   | hook_pos_embed                   | transformer.wpe
blocks.i.resid_pre         | B P D   | blocks.i.hook_resid_pre          |
blocks.i.attn_in           | B P H D | blocks.i.hook_attn_in            |
blocks.i.q_input           | B P H D | blocks.i.hook_q_input            |
blocks.i.k_input           | B P H D | blocks.i.hook_k_input            |
blocks.i.v_input           | B P H D | blocks.i.hook_v_input            |
blocks.i.ln1.scale         | B P 1   | blocks.i.ln1.hook_scale          |
blocks.i.ln1.normalized    | B P D   | blocks.i.ln1.hook_normalized     |
blocks.i.ln1.out           | B P D   | blocks.i.ln1.hook_out            | transformer.h.i.ln_1
blocks.i.attn.q            | B P H K | blocks.i.attn.hook_q             |
blocks.i.attn.k            | B P H K | blocks.i.attn.hook_k             |
blocks.i.attn.v            | B P H K | blocks.i.attn.hook_v             |
blocks.i.attn.scores       | B H P P | blocks.i.attn.hook_attn_scores   |
blocks.i.attn.pattern      | B H P P | blocks.i.attn.hook_pattern       |
blocks.i.attn.z            | B P H K | blocks.i.attn.hook_z             |
blocks.i.attn.result       | B P H D | blocks.i.attn.hook_result        |
blocks.i.attn_out          | B P D   | blocks.i.hook_attn_out           | transformer.h.i.attn
blocks.i.resid_mid         | B P D   | blocks.i.hook_resid_mid          |
blocks.i.mlp_in            | B P D   | blocks.i.hook_mlp_in             |
blocks.i.ln2.scale         | B P 1   | blocks.i.ln2.hook_scale          |
blocks.i.ln2.normalized    | B P D   | blocks.i.ln2.hook_normalized     |
blocks.i.ln2.out           | B P D   | blocks.i.ln2.hook_out            | transformer.h.i.ln_2
blocks.i.mlp.pre           | B P M   | blocks.i.mlp.hook_pre            |
blocks.i.mlp.post          | B P M   | blocks.i.mlp.hook_post           |
blocks.i.mlp_out           | B P D   | blocks.i.hook_mlp_out            | transformer.h.i.mlp
blocks.i.resid_post        | B P D   | blocks.i.hook_resid_post         | transformer.h.i
ln_final.scale             | B P 1   | ln_final.hook_scale              |
ln_final.normalized        | B P D   | ln_final.hook_normalized         |
ln_final.out               | B P D   | ln_final.hook_out                | transformer.ln_f
logits                     | B P V   |                                  | lm_head
"""
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in TABLE.strip().splitlines()]


def names(pattern):
    return [site.name for site in SITES.match(pattern)]


def every(kind):
    return [f"blocks.{i}.{kind}" for i in range(L)]


def test_the_table_is_the_reference_s():
    before, block, after = ROWS[:2], ROWS[2:-4], ROWS[-4:]
    want = [*before, *(tuple(c.replace(".i", f".{i}") for c in row) for i in range(L) for row in block), *after]
    got = [(s.name, s.shape, s.transformer_lens or "", s.hugging_face or "") for s in SITES]
    assert got == want
    assert [s.layer for s in SITES] == [None] * 2 + [i for i in range(L) for _ in block] + [None] * 4
    frame = SITES.table()
    assert list(frame["name"]) == [row[0] for row in want]
    assert frame["meaning"].str.len().min() > 3


def test_the_hugging_face_names_are_modules(odd, odd_gpt2):
    for site in odd.sites():
        if site.hugging_face:
            odd_gpt2.get_submodule(site.hugging_face)


def test_it_prints_one_row_a_kind():
    for text in (str(SITES), SITES._repr_html_()):
        for name, *_ in ROWS:
            assert text.count(name if name.startswith("blocks") else f"\n{name} ") or f"<td>{name}<" in text
    assert len(str(SITES).splitlines()) == len(ROWS) + 3
    assert "B P 3 4 " in str(SITES)  # sizes in numbers


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("attn_out", every("attn_out")),
        ("attn.q", every("attn.q")),
        ("blocks.*.attn.z", every("attn.z")),
        ("blocks.{0,3}.resid_post", ["blocks.0.resid_post", "blocks.3.resid_post"]),
        ("blocks.{3, 0}.resid_post", ["blocks.0.resid_post", "blocks.3.resid_post"]),
        ("blocks.{0,-1}.attn.{q,k}", ["blocks.0.attn.q", "blocks.0.attn.k", "blocks.3.attn.q", "blocks.3.attn.k"]),
        ("blocks.-1.resid_post", ["blocks.3.resid_post"]),
        ("blocks.-4.resid_post", ["blocks.0.resid_post"]),
        ("blocks.2.resid_*", ["blocks.2.resid_pre", "blocks.2.resid_mid", "blocks.2.resid_post"]),
        ("blocks.1.*_input", ["blocks.1.q_input", "blocks.1.k_input", "blocks.1.v_input"]),
        ("blocks.1.ln2.*", ["blocks.1.ln2.scale", "blocks.1.ln2.normalized", "blocks.1.ln2.out"]),
        ("ln_final.*", ["ln_final.scale", "ln_final.normalized", "ln_final.out"]),
        ("*embed", ["embed", "pos_embed"]),
        ("{mlp_out,attn_out}", sorted(every("attn_out") + every("mlp_out"), key=lambda n: n.split(".")[1])),
        ("hook_mlp_out", every("mlp_out")),
        ("blocks.*.attn.hook_pattern", every("attn.pattern")),
        ("blocks.-2.hook_{resid_pre,resid_post}", ["blocks.2.resid_pre", "blocks.2.resid_post"]),
        ("transformer.h.*.mlp", every("mlp_out")),
        ("transformer.h.-1", ["blocks.3.resid_post"]),
        ("transformer.h.*", every("resid_post")),
        ("transformer.h.{1,2}.ln_1", ["blocks.1.ln1.out", "blocks.2.ln1.out"]),
        ("transformer.w*", ["embed", "pos_embed"]),
        ("lm_head", ["logits"]),
        (["resid_mid", "embed", "blocks.0.resid_mid"], ["embed", *every("resid_mid")]),
        ([], []),
    ],
)
def test_patterns(pattern, want):
    assert names(pattern) == want


@pytest.mark.parametrize("pattern", ["q", "scale", "blocks.*", "blocks.0", "attn", "out", "blocks.*.q", "blocks"])
def test_a_star_or_a_bare_name_stays_in_its_segment(pattern):
    if pattern == "attn":  # Hugging Face's word for attn_out
        assert names(pattern) == every("attn_out")
        return
    with pytest.raises(SiteError, match=re.escape(f"no site matches {pattern!r}")):
        SITES.match(pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("blocks.12.attn.q", "no site matches 'blocks.12.attn.q': this model has blocks 0..3; near: 'blocks.3.attn.q'"),
        ("blocks.-5.attn.q", "no site matches 'blocks.-5.attn.q': this model has blocks 0..3; near: 'blocks.0.attn.q'"),
        ("atn_out", "no site matches 'atn_out'; near: 'attn_out'"),
        ("blocks.1.atn.q", "near: 'blocks.1.attn.q'"),
        ("hook_resid_prev", "near: 'hook_resid_pre'"),
        ("transformer.h.9", "this model has blocks 0..3; near: 'transformer.h.3'"),
        ("blocks.{0,7}.attn_out", "no site matches 'blocks.7.attn_out' (of 'blocks.{0,7}.attn_out')"),
        ("zzzzzz", "no site matches 'zzzzzz'; model.sites() lists them all"),
        ("", "no site matches ''"),
        ("blocks.*.nothing*", "no site matches 'blocks.*.nothing*'"),
        ("blocks.{0,1.attn_out", "the braces of 'blocks.{0,1.attn_out' do not close inside one dotted segment"),
        ("blocks.0.{attn.q,attn.k}", "do not close inside one dotted segment"),
        (3, "a site pattern is a string, such as 'attn_out'; got int"),
    ],
)
def test_what_matches_nothing_names_the_nearest(pattern, message):
    with pytest.raises(SiteError) as error:
        SITES.match([pattern])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def in_braces(text, data):
    return "{" + text + "," + text + "}" if data.draw(st.booleans()) else text


@given(st.data())
def test_each_spelling_finds_its_site(data):
    """Any vocabulary, the layer counted from either end, a segment starred or in braces; and with no layer, all."""
    site = data.draw(st.sampled_from(list(SITES)))
    name = data.draw(st.sampled_from([site.name, *site.aliases]))
    layer = site.layer
    if layer is None:
        *front, end = name.split(".")
        assert names(".".join([*front, in_braces(end, data)])) == [site.name]
        return
    before, after = re.fullmatch(rf"(blocks|transformer\.h)\.{layer}(.*)", name).groups()
    exact = data.draw(st.sampled_from([str(layer), str(layer - L), f"{{{layer}}}", f"{{{layer - L},{layer}}}"]))
    assert names(f"{before}.{exact}{after}") == [site.name]
    assert names(f"{before}.*{after}") == every(site.kind)
    if after:
        assert names(in_braces(after.removeprefix("."), data) if after.count(".") == 1 else after[1:]) == every(
            site.kind
        )


RUN_NAMES = ["resid_post", "blocks.1.attn.pattern", "logits", "blocks.{0,2}.mlp_out"]


@pytest.fixture(scope="module")
def run(odd):
    import torch

    return odd.run(torch.tensor([[1, 2, 3]]), capture=RUN_NAMES)


def test_a_run_is_a_mapping_in_forward_order(run):
    want = ["blocks.0.mlp_out", "blocks.0.resid_post", "blocks.1.attn.pattern", "blocks.1.resid_post"]
    want += ["blocks.2.mlp_out", "blocks.2.resid_post", "logits"]
    assert list(run) == list(run.keys()) == want
    assert len(run) == 7
    assert all(run[name] is value for name, value in run.items())


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("attn.pattern", "blocks.1.attn.pattern"),
        ("attn.hook_pattern", "blocks.1.attn.pattern"),
        ("blocks.*.attn.*", "blocks.1.attn.pattern"),
        ("blocks.-2.attn.hook_pattern", "blocks.1.attn.pattern"),
        ("transformer.h.-1", "blocks.2.resid_post"),
        ("blocks.{0,1}.mlp_out", "blocks.0.mlp_out"),
        ("lm_head", "logits"),
    ],
)
def test_any_spelling_of_one_captured_site(run, spelling, name):
    assert run[spelling] is dict(run)[name]
    assert spelling in run
    assert run.get(spelling) is dict(run)[name]


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("resid_post", "'resid_post' means 3 captured sites (blocks.0.resid_post ... blocks.2.resid_post): say which"),
        ("attn_out", "'attn_out' was not captured: this run kept blocks.0.mlp_out, "),
        ("blocks.0.attn.pattern", "and 3 more; name it in capture=[...]"),
        ("resid_pots", "no site matches 'resid_pots'; near: 'resid_post'"),
    ],
)
def test_ambiguous_and_missing_names(run, spelling, message):
    with pytest.raises(SiteError, match=re.escape(message)):
        run[spelling]
    assert spelling not in run
    assert run.get(spelling, "nothing") == "nothing"


def test_stack_and_layers(run):
    assert run.layers("mlp_out") == [0, 2]
    assert run.layers("hook_resid_post") == [0, 1, 2]
    assert run.stack("mlp_out").shape == (2, 1, 3, 60)
    assert (run.stack("blocks.{2,1}.resid_post")[0] == run["blocks.1.resid_post"]).all()
    for several in ("logits", "blocks.*.*"):
        with pytest.raises(SiteError, match="is not one kind of site in several layers"):
            run.stack(several)


def test_stars_across_segments():
    everything = [site.name for site in SITES]
    assert names("*") == names("**") == everything
    assert names("blocks.0.**") == [name for name in everything if name.startswith("blocks.0.")]
    assert names("**.scale") == [name for name in everything if name.endswith(".scale")]
    assert names("blocks.{0,-1}.**") == names(["blocks.0.**", "blocks.-1.**"])
    assert names("blocks.0.*") == [name for name in names("blocks.0.**") if name.count(".") == 2]


def test_a_run_keeps_every_site(odd):
    assert list(odd.run(TOKENS, capture="*")) == list(odd.run(TOKENS, capture="**")) == [s.name for s in odd.sites()]


def test_a_site_is_a_pattern(odd, run):
    third = [site for site in odd.sites() if site.layer == 2]
    assert list(odd.run(TOKENS, capture=third)) == [site.name for site in third]
    assert list(odd.run(TOKENS, capture=odd.sites())) == [site.name for site in odd.sites()]
    [site] = odd.sites().match("blocks.1.attn.pattern")
    assert list(odd.run(TOKENS, capture=site)) == [site.name]
    assert run[site] is run[site.name] is run.get(site)
    assert site in run
    assert odd.sites()[0] not in run
    with pytest.raises(SiteError, match="'embed' was not captured"):
        run[odd.sites()[0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda name: name.endswith("pattern"), r"got function: call it here, \[s for s in model.sites\(\)"),
        (3, "got int$"),
        ([None], "got NoneType$"),
    ],
)
def test_what_is_not_a_pattern_is_refused(odd, given, message):
    with pytest.raises(SiteError, match=message):
        odd.run(TOKENS, capture=given)


def test_two_indices_are_refused(run):
    with pytest.raises(SiteError, match=r"run\['resid_post', 2\]: one name was expected"):
        run["resid_post", 2]


@pytest.mark.parametrize("given", [{"attn.z": slice(0, 3)}, {"attn.z": [0]}])
def test_a_mapping_of_sites_is_refused(odd, given):
    """Its values would be ignored."""
    with pytest.raises(SiteError, match="sites are a pattern or a list of patterns; got a dict"):
        odd.run(TOKENS, capture=given)
    with pytest.raises(SiteError, match="got a dict"):
        odd.generate([[1, 2]], 2, capture=given)


HINTED = "blocks.{0,12 {0,3 }{ blocks.{0..3}.attn_out blocks.{0,99}.attn.q blocks.{0,1}.attn_ou q blocks.{1,99}.attn.*"


@pytest.mark.parametrize("pattern", HINTED.split())
def test_what_a_hint_names_is_there(pattern):
    with pytest.raises(SiteError) as error:
        SITES.match(pattern)
    hints = re.findall("'([^']+)'", re.split("near:|write", str(error.value))[1])
    assert hints
    for hint in hints:
        assert SITES.match(hint)
