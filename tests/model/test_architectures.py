"""Families: GPT-2 has all that the rest of Cutaway asks of a family, and its tables agree with each other."""

import re
from dataclasses import fields

import pytest
import torch

from cutaway.errors import CheckpointError
from cutaway.model.architectures import FAMILIES, Architecture, architecture_of, gpt2, read_config
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.taps.sites import Role
from cutaway.model.taps.tap import Tap
from tests.model.reference import ODD, ODD_SITES, noise, padded

IDS, _ = padded([7, 7], ODD["vocab_size"])
ROLES = {
    Role.STREAM: {"resid_pre", "resid_mid", "resid_post"},
    Role.ATTENDED: {
        "resid_pre", "attn_in", "k_input", "v_input", "ln1.scale", "ln1.normalized", "ln1.out", "attn.k", "attn.v",
    },
    Role.PER_HEAD: {"attn_in", "q_input", "k_input", "v_input", "attn.result"},
    Role.MATRIX: {"attn.scores", "attn.pattern"},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_all_that_is_asked_of_one(name):
    family = FAMILIES[name]
    assert name == family.NAME
    wanted = {*Architecture.__annotations__, *(member for member in vars(Architecture) if member[0] != "_")}
    assert {member for member in wanted if not hasattr(family, member)} == set()


def test_a_family_is_found_by_its_model_type(odd):
    config = read_config({"model_type": "gpt2", "n_layer": 5}, "config.json")
    assert config == Config.from_hf({"n_layer": 5})
    assert architecture_of(config) is odd.architecture is gpt2
    assert read_config({"n_layer": 1, "n_head": 1, "n_embd": 4}, "config.json").d_model == 4  # a file of 2019
    for kind in ("llama", None, ["gpt2"]):
        with pytest.raises(
            CheckpointError, match=rf"^mine says model_type {re.escape(repr(kind))}: Cutaway opens GPT-2"
        ):
            read_config({"model_type": kind}, "mine")


@pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])
def test_roles_of_sites(role):
    assert {site.kind for site in ODD_SITES if role in site.role} == ROLES[role]


def test_only_attended_sites_reach_later_positions_in_their_block(odd):
    after = "blocks.1.resid_post"
    plain = odd.run(IDS, capture=after, logits=None)[after]

    def change(value, ctx):
        at_2 = (slice(None), slice(None), 2) if ctx.site.endswith((".scores", ".pattern")) else (slice(None), 2)
        value[at_2] += noise(value)[at_2]
        return value

    for site in (site for site in ODD_SITES if site.layer == 1):
        moved = odd.run(IDS, capture=after, edits={site.name: change}, logits=None)[after] - plain
        reached = (moved.abs() > 1e-3).any(-1).any(0)
        assert reached.tolist() == [False, False, True, *[Role.ATTENDED in site.role] * 4], site.name


def test_a_block_is_attention_and_what_comes_after(odd):
    run = odd.run(
        IDS, capture=["resid_pre", "attn_out", "resid_post", "mlp_in", "mlp_out", "attn.q", "attn.k", "attn.v"]
    )
    family, config, tap = odd.architecture, odd.config, Tap.silent(run.tokens)
    with torch.no_grad():
        for i, w in enumerate(odd.weights.blocks):
            x, written = run[f"blocks.{i}.resid_pre"], run[f"blocks.{i}.attn_out"]
            want = run[f"blocks.{i}.resid_post"]
            assert torch.equal(family.attention(w, config, i, x, tap), written)
            assert torch.equal(family.after_attention(w, config, i, x, written, tap), want)
            assert torch.equal(family.block(w, config, i, x, tap), want)
            assert torch.equal(family.mlp(w, config, i, run[f"blocks.{i}.mlp_in"], tap), run[f"blocks.{i}.mlp_out"])
            for kind, value in zip("qkv", family.project_qkv(w, config, i, x, tap), strict=True):
                assert torch.equal(value, run[f"blocks.{i}.attn.{kind}"])
        assert torch.equal(family.head(odd.weights, config, want, tap), run.logits)


def test_every_weight_has_a_name_in_a_checkpoint_a_place_and_a_part(odd):
    table = gpt2.TENSORS
    named = {field for rows in (table.before, table.after) for field, _ in rows.values()}
    named |= {f"blocks.{i}.{field}" for i in range(3) for field, _ in table.block.values()}
    parameters = odd.parameters()
    assert named == set(parameters)
    for rows, prefix in ((table.before, ""), (table.block, "blocks.1."), (table.after, "")):
        for field, letters in rows.values():
            assert parameters[prefix + field].shape == odd.config.shape(letters)
    for name in parameters:
        assert sum(bool(re.fullmatch(pattern, name)) for _, pattern, _ in gpt2.PARTS) == 1
    block = {field.name for field in fields(gpt2.Block)}
    outside = {field.name for field in fields(gpt2.Weights)}
    assert block >= {*gpt2.READS, *(name for pairs in gpt2.READS.values() for pair in pairs for name in pair)}
    assert block | outside >= {*gpt2.WRITES, gpt2.VALUE_BIASES}


def test_sizes_by_letter():
    config = Config(n_layers=2, n_heads=3, d_model=12, d_mlp=20, d_vocab=50, n_ctx=16)
    assert config.shape("L H K D M V C") == (2, 3, 4, 12, 20, 50, 16)
    assert config.shape("D 3HK") == (12, 36)
