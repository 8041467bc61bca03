"""Checkpoints: from a folder, a hub id or the bundled model to checked weights.

    checkpoint = read(None)                 the bundled model
    checkpoint = read("~/models/mine")      a folder with config.json and the weights
    checkpoint.config, .weights, .tokenizer, .name

Nothing is pickled in: safetensors, or a pytorch_model.bin read with `weights_only`. Every tensor is checked for its
name, shape and finiteness before anything runs.
"""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import CheckpointError
from cutaway.model.config import Config
from cutaway.model.gpt2 import Block, LayerNorm, Weights
from cutaway.tokens import Tokenizer

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
BLOCK_TENSORS = {  # name behind `h.i.` -> (field of Block, shape)
    "ln_1.weight": ("ln1.w", "D"),
    "ln_1.bias": ("ln1.b", "D"),
    "attn.c_attn.weight": ("W_QKV", "D 3D"),
    "attn.c_attn.bias": ("b_QKV", "3D"),
    "attn.c_proj.weight": ("W_O", "D D"),
    "attn.c_proj.bias": ("b_O", "D"),
    "ln_2.weight": ("ln2.w", "D"),
    "ln_2.bias": ("ln2.b", "D"),
    "mlp.c_fc.weight": ("W_in", "D M"),
    "mlp.c_fc.bias": ("b_in", "M"),
    "mlp.c_proj.weight": ("W_out", "M D"),
    "mlp.c_proj.bias": ("b_out", "D"),
}


@dataclass(frozen=True)
class Checkpoint:
    name: str
    config: Config
    weights: Weights
    tokenizer: Tokenizer | None


def read(source: str | os.PathLike[str] | None, device: torch.device, dtype: torch.dtype | None) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError, naming the file or tensor, for anything that is not a sound GPT-2."""
    folder = bundled_folder() if source is None else Path(source).expanduser()
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "not there"
        raise CheckpointError(
            f"{str(source)!r} is {kind}: a folder with config.json and model.safetensors was expected"
        )
    config = Config.from_hf(_read_json(folder / "config.json"), str(folder / "config.json"))
    tensors = _checked(dict(_read_tensors(folder)), config, str(folder))
    weights = build(tensors, config, device, dtype)
    name = "sotu" if source is None else folder.resolve().name
    return Checkpoint(name, config, weights, Tokenizer.from_folder(folder))


def bundled_folder() -> Path:
    """Where the small model, its documents and its training counts are installed."""
    return Path(str(importlib.resources.files("cutaway"))) / "bundled"


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is no model: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds a JSON {type(raw).__name__}: an object was expected")
    return raw


def _read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    import safetensors

    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no weights: model.safetensors was expected")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                yield key, file.get_tensor(key)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        size = path.stat().st_size
        raise CheckpointError(f"{path} ({size:,} bytes) is damaged or no safetensors file: {error}") from None


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint, by its name without `transformer.`, and its shape."""
    c = config
    size = {"D": c.d_model, "3D": 3 * c.d_model, "M": c.d_mlp}
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (c.d_vocab, c.d_model), "wpe.weight": (c.n_ctx, c.d_model)}
    for i in range(c.n_layers):
        for name, (_, letters) in BLOCK_TENSORS.items():
            shapes[f"h.{i}.{name}"] = tuple(size[letter] for letter in letters.split())
    shapes |= {"ln_f.weight": (c.d_model,), "ln_f.bias": (c.d_model,)}
    return shapes if c.tied else shapes | {"lm_head.weight": (c.d_vocab, c.d_model)}


def _checked(tensors: dict[str, Tensor], config: Config, where: str) -> dict[str, Tensor]:
    """The tensors by plain name, each known to be expected, present, of the right shape and finite."""
    found = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("transformer.")
        if not name.endswith((".attn.bias", ".attn.masked_bias")):  # causal masks of old transformers versions
            found[name] = tensor
    shapes = expected_shapes(config)
    head = found.pop("lm_head.weight", None) if config.tied else None
    if head is not None and not torch.equal(head, found.get("wte.weight", head)):
        raise CheckpointError(f"{where}: config.json ties the head to wte.weight, but lm_head.weight differs from it")
    if missing := [name for name in shapes if name not in found]:
        raise CheckpointError(f"{where} lacks {_some(missing)}: config.json says {config.n_layers} layers")
    if extra := [name for name in found if name not in shapes]:
        raise CheckpointError(f"{where} holds {_some(extra)}, which no GPT-2 of {config.n_layers} layers has")
    for name, shape in shapes.items():
        tensor = found[name]
        if tuple(tensor.shape) != shape:
            got, want = list(tensor.shape), list(shape)
            raise CheckpointError(f"{where}: {name} has shape {got}, but config.json makes it {want}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: {name} has dtype {tensor.dtype}: floating point was expected")
        low, high = torch.aminmax(tensor)
        if not torch.isfinite(high - low):
            raise CheckpointError(f"{where}: {name} holds NaN or infinite values: the file is damaged")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


def build(tensors: Mapping[str, Tensor], config: Config, device: torch.device, dtype: torch.dtype | None) -> Weights:
    """Checked tensors -> weights on a device. `dtype` None keeps the file's own on CUDA and is float32 on a CPU."""
    dtype = dtype or (None if device.type == "cuda" else torch.float32)

    def get(name: str) -> Tensor:
        return tensors[name].to(device, dtype)

    blocks = []
    for i in range(config.n_layers):
        fields = {field: get(f"h.{i}.{name}") for name, (field, _) in BLOCK_TENSORS.items()}
        norms = {ln: LayerNorm(fields.pop(f"{ln}.w"), fields.pop(f"{ln}.b")) for ln in ("ln1", "ln2")}
        blocks.append(Block(**norms, **fields))  # type: ignore[arg-type]
    embedding = get("wte.weight")
    head = embedding if config.tied else get("lm_head.weight")
    return Weights(embedding, get("wpe.weight"), blocks, LayerNorm(get("ln_f.weight"), get("ln_f.bias")), head)
