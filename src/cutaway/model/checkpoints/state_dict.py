"""Turn a state dict, whoever wrote it, into GPT-2's own tensors under one set of names.

    plain = plain_tensors(tensors, config, where)
    plain.tensors["h.3.mlp.c_fc.weight"], plain.config, plain.notes

Names come with their owners' prefixes (`transformer.`, `module.`, `_orig_mod.`, `model.`), with the LayerNorms of 2018
(`gamma`, `beta`), with heads of other tasks beside them, with the tied head in place of the embedding, and without
biases. Each form that has one meaning is read, and docs/checkpoints.md lists them; an ambiguous one is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cutaway.errors import CheckpointError
from cutaway.model.architectures import architecture_of, gpt2_tables
from cutaway.model.architectures.families import Config

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
HEAD = gpt2_tables.TENSORS.head
WRAPPERS = {"module", "_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
OTHER_HEADS = ("lm_head", "score", "classifier", "qa_outputs", "multiple_choice_head", "v_head", "value_head")
MASKS = (".attn.bias", ".attn.masked_bias")  # causal masks that old transformers versions saved
OLD_NORM = {"gamma": "weight", "beta": "bias"}
LINEAR = re.compile(r"\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
OPTIONAL = (  # tensors that a model may lack altogether: their names, what they are, the value they then have
    (re.compile(r".*\.(c_attn|c_proj|c_fc)\.bias"), "biases in its matrices", 0.0),
    (re.compile(r".*ln_\w\.bias"), "biases in its LayerNorms", 0.0),
    (re.compile(r".*ln_\w\.weight"), "weights in its LayerNorms", 1.0),
)


@dataclass
class Plain:
    """A GPT-2's tensors by their plain names, complete and of the right shapes, and notes for the user."""

    tensors: dict[str, Tensor]
    config: Config
    notes: list[str] = field(default_factory=list)


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return every tensor of a checkpoint, by its name without `transformer.`, and its shape."""
    table = architecture_of(config).TENSORS
    named = dict(table.before)
    for i in range(config.n_layers):
        named |= {f"{table.blocks}.{i}.{name}": row for name, row in table.block.items()}
    shapes = {name: config.shape(letters) for name, (_, letters) in {**named, **table.after}.items()}
    return shapes if config.tied else shapes | {table.head: shapes[table.embedding]}


def transposed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return nanoGPT's tensors as transformers stores them: nanoGPT's matrices are [out, in], like torch's Linear."""
    return {name: tensor.t() if LINEAR.search(name) else tensor for name, tensor in tensors.items()}


def plain_tensors(tensors: Mapping[str, Tensor], config: Config, where: str, may_lack_biases: bool = False) -> Plain:
    """Return the tensors by plain name, each known to be expected, present and of the right shape.

    Args:
        may_lack_biases: the configuration says that there are no biases, so no note is needed.

    Raises:
        CheckpointError: a tensor that is unknown, missing, of another shape or not of a floating-point dtype; adapters
            that are not merged; two models in one file.
    """
    found, others = _by_name(tensors, where)
    blocks = 1 + max((int(m[1]) for name in found if (m := re.match(r"h\.([0-9]{1,9})\.", name))), default=-1)
    if blocks != config.n_layers:
        raise CheckpointError(f"{where} holds {blocks} blocks, but the configuration gives n_layer = {config.n_layers}")
    shapes = expected_shapes(config)
    notes = []
    if config.tied and HEAD in found:
        if "wte.weight" not in found:
            found["wte.weight"] = found.pop(HEAD)
        else:
            shapes[HEAD] = shapes["wte.weight"]
    lacked = _fill(found, shapes)
    if lacked and not may_lack_biases:
        notes.append(f"{where} has no {' and no '.join(lacked)}: they are left out, as transformers does")
    if missing := [name for name in shapes if name not in found]:
        raise CheckpointError(f"{where} lacks {_some(missing)}, which its configuration asks for")
    if extra := [name for name in found if name not in shapes]:
        raise CheckpointError(f"{where} holds {_some(extra)}, which a GPT-2 of its configuration does not have")
    for name, shape in shapes.items():
        _check(found[name], name, shape, where)
    if config.tied and HEAD in found:
        if _equal(found[HEAD], found["wte.weight"]):
            del found[HEAD]
        else:
            config = replace(config, tied=False)
            why = "although tie_word_embeddings is true: it is read as a head of its own, as transformers does"
            notes.append(f"{where}: {HEAD} is not wte.weight, {why}")
    if kept := sorted(_left_out(others, found)):
        notes.append(f"{where}: {', '.join(kept)} is left out: Cutaway opens the language model only")
    return Plain(found, config, notes)


def _by_name(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the language model's own tensors by plain name, and those of other heads."""
    names = {key: ".".join(part for part in key.split(".") if part not in WRAPPERS) for key in tensors}
    first = (re.fullmatch(r"((?:.*\.)?)h\.0\.ln_1\.(?:weight|gamma)", name) for name in names.values())
    trunks = sorted({match[1] for match in first if match})
    if len(trunks) > 1:
        inside = " and ".join(repr(f"{trunk}*") for trunk in trunks)
        raise CheckpointError(f"{where} holds {len(trunks)} models, {inside}: save only one of them")
    trunk = trunks[0] if trunks else "transformer."
    around = trunk.removesuffix("transformer.")
    found: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for key, name in names.items():
        inner = name.startswith(trunk)
        name = name.removeprefix(trunk if inner else around).removeprefix("transformer.")
        name = re.sub(r"(?<=ln_[12f]\.)(gamma|beta)$", lambda match: OLD_NORM[match[1]], name)
        if "lora_" in name or ".base_layer." in name:
            hint = "merge it first, cutaway.load(model.merge_and_unload())"
            raise CheckpointError(f"{where} holds {name}, part of an adapter that is not merged: {hint}")
        if name.endswith(MASKS):
            continue
        beside = not inner or name.split(".")[0] in OTHER_HEADS
        kept = others if name != HEAD and beside and not re.match(r"(h|wte|wpe|ln_f)\.", name) else found
        if name in kept:
            raise CheckpointError(f"{where} holds {name} twice, with and without 'transformer.': one was expected")
        kept[name] = tensors[key]
    return found, others


def _fill(found: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Fill in the kinds of tensors that a model lacks altogether, and name them; one that lacks a few is damaged."""
    said = []
    for pattern, what, value in OPTIONAL:
        names = [name for name in shapes if pattern.fullmatch(name)]
        if "wte.weight" in found and not any(name in found for name in names):
            said.append(what)
            dtype = found["wte.weight"].dtype
            dtype = dtype if dtype in DTYPES else torch.float32  # any other dtype is refused later
            found |= {name: torch.full(shapes[name], value, dtype=dtype) for name in names}
    return said


def _check(tensor: Tensor, name: str, shape: tuple[int, ...], where: str) -> None:
    """Raise CheckpointError for a tensor of another shape or kind."""
    if tuple(tensor.shape) != shape:
        got, want = list(tensor.shape), list(shape)
        raise CheckpointError(f"{where}: {name} has shape {got}, but the configuration makes it {want}")
    if tensor.is_meta:
        raise CheckpointError(f"{where}: {name} is on the meta device and has no values: load them first")
    expected = "dense float32, float16, bfloat16 or float64 was expected"
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
        raise CheckpointError(f"{where}: {name} is {kind}: {expected}")
    if type(tensor) not in (Tensor, torch.nn.Parameter):  # quantized or sharded: its values are elsewhere
        raise CheckpointError(f"{where}: {name} is a {type(tensor).__name__}: {expected}")


def _left_out(others: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> set[str]:
    """Return the modules that other tensors belong to. DialoGPT's second copy of the embedding does not count."""
    head = found.get(HEAD, found["wte.weight"])
    return {
        name.rpartition(".")[0] or name
        for name, tensor in others.items()
        if not (name == "lm_head.decoder.weight" and _equal(tensor, head))
    }


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same in kind and in every number."""
    alike = all(getattr(one, what) == getattr(other, what) for what in ("dtype", "shape", "layout", "device"))
    return alike and torch.equal(one, other)


def _some(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
