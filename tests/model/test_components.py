"""A component's address: what it means, how it is written, and what is said of one that means nothing."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cutaway.errors import SiteError
from cutaway.model.architectures import gpt2
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.taps.components import Address, find
from cutaway.model.taps.sites import Sites

L, H, M = 4, 3, 20
CONFIG = Config(n_layers=L, n_heads=H, d_model=12, d_mlp=M, d_vocab=50, n_ctx=16)
SITES = Sites(gpt2.SITES, CONFIG)
LAYERS = st.integers(0, L - 1)
ADDRESSES = st.one_of(
    st.builds(Address, st.just("head"), LAYERS, st.integers(0, H - 1), st.sampled_from([None, *"qkv"])),
    st.builds(Address, st.just("neuron"), LAYERS, st.integers(0, M - 1)),
    st.builds(Address, st.sampled_from(["mlp", "layer"]), LAYERS),
)


@given(ADDRESSES)
def test_what_is_written_is_read_as_the_same(address):
    assert find(str(address), CONFIG) == [address]


@given(ADDRESSES)
def test_a_negative_layer_counts_from_the_end(address):
    assert find(str(replace(address, layer=address.layer - L)), CONFIG) == [address]


@given(st.text("headsmlpnurony 0123456789.-LlHh", max_size=24))
@example("head " + "9" * 9999)
@example("head ٣.١")  # other digits are none of ours
def test_any_text_is_an_address_or_a_pattern_or_a_plain_error(text):
    message, found = "", None
    try:
        found = find(text, CONFIG)
    except SiteError as error:
        message = str(error)
    if message:
        assert "\n" not in message
        assert len(message) < 200
        found = find(message.rpartition("near: ")[2].strip("'"), CONFIG)
        assert found is not None
    assert found is None or text in ("heads", "mlps", "layers") or len(found) == 1


def test_all_of_a_kind():
    assert [str(each) for each in find("heads", CONFIG)] == [f"head {i}.{h}" for i in range(L) for h in range(H)]
    assert [str(each) for each in find("mlps", CONFIG)] == [f"mlp {i}" for i in range(L)]
    assert [str(each) for each in find("layers", CONFIG)] == [f"layer {i}" for i in range(L)]


def test_no_name_of_a_site_is_taken_for_an_address():
    names = {name for site in SITES for name in (site.name, site.kind, *site.aliases)} | {"mlp", "*", "**.attn.*"}
    assert {find(name, CONFIG) for name in names} == {None}


WRONG = {
    "head 9.1": "layers 0..3 with heads 0..2; near: 'head 3.1'",
    "head 1.9": "layers 0..3 with heads 0..2; near: 'head 1.2'",
    "head -5.0": "layers 0..3 with heads 0..2; near: 'head 0.0'",
    "head 2": "layers 0..3 with heads 0..2; near: 'head 2.0'",
    "head 2 1": "layers 0..3 with heads 0..2; near: 'head 2.1'",
    "heads 2.1": "layers 0..3 with heads 0..2; near: 'head 2.1'",
    "Head 2.1": "layers 0..3 with heads 0..2; near: 'head 2.1'",
    "layer 2 head 1": "layers 0..3 with heads 0..2; near: 'head 2.1'",
    "L2H1": "layers 0..3 with heads 0..2; near: 'head 2.1'",
    "2.1": "layers 0..3 with heads 0..2; near: 'head 2.1'",
    "neuron 2.1 q": "layers 0..3 with neurons 0..19; near: 'neuron 2.1'",
    "mlp 2 q": "layers 0..3; near: 'mlp 2'",
    "head 2.1 x": "layers 0..3 with heads 0..2; near: 'head 2.1'",
    "neuron 3.712": "layers 0..3 with neurons 0..19; near: 'neuron 3.19'",
    "mlp 4": "layers 0..3; near: 'mlp 3'",
    "mlp2": "layers 0..3; near: 'mlp 2'",
    "layer 12": "layers 0..3; near: 'layer 3'",
}


@pytest.mark.parametrize("written", WRONG)
def test_an_address_of_nothing_is_an_error_that_says_what_there_is(written):
    with pytest.raises(SiteError) as error:
        find(written, CONFIG)
    assert str(error.value) == f"no component is called {written!r}: this model has {WRONG[written]}"


def test_an_mlp_is_a_whole_site_and_a_head_is_not():
    assert [site.name for site in SITES.match(["mlp -1", "mlp 0"])] == ["blocks.0.mlp_out", "blocks.3.mlp_out"]
    assert SITES.match("mlps") == SITES.match("mlp_out")
    messages = {
        "head 3.1 q": "'head 3.1 q' is a part of a site: name 'blocks.3.attn.q', where it is [:, :, 1]",
        "head 3.1": "'head 3.1' is a part of a site: name 'blocks.3.attn.z', where it is [:, :, 1]",
        "neuron -1.12": "'neuron -1.12' is a part of a site: name 'blocks.3.mlp.post', where it is [:, :, 12]",
        "heads": "'heads' are parts of sites: name 'attn.z', where each is [:, :, head]",
        "layer 2": "'layer 2' is several sites: name 'blocks.2.attn_out' and 'blocks.2.mlp_out', "
        "or 'blocks.2.resid_post'",
        "layers": "'layers' is several sites: name 'attn_out' and 'mlp_out', or 'resid_post'",
        "mlp 4": "no component is called 'mlp 4': this model has layers 0..3; near: 'mlp 3'",
    }
    for written, message in messages.items():
        with pytest.raises(SiteError) as error:
            SITES.match(written)
        assert str(error.value) == message
