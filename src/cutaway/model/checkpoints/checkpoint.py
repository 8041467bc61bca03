"""Checkpoints: from the bundled model, files, the Hugging Face hub or a transformers model to checked weights.

    checkpoint = read(None)                 the bundled model
    checkpoint = read("~/models/mine")      a folder with config.json and the weights, or one file of weights
    checkpoint = read("gpt2-xl")            a hub id, from the cache where it is there
    checkpoint.config, .weights, .tokenizer, .name

hub.py fetches, weight_files.py opens files, live.py looks into transformers models, state_dict.py knows the names.
Every tensor is checked for its name, shape and finiteness before anything runs. On a CPU, safetensors already in the
compute dtype stay memory-mapped.
"""

from __future__ import annotations

import importlib.resources
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from cutaway.errors import CheckpointError
from cutaway.model.architectures.config import Config
from cutaway.model.architectures.gpt2 import Block, LayerNorm, Weights
from cutaway.model.checkpoints import hub, live, weight_files
from cutaway.model.checkpoints.state_dict import BLOCK_TENSORS, Plain, plain_tensors, transposed
from cutaway.model.modes import lasting
from cutaway.text import tokenizer_files
from cutaway.text.tokens import Tokenizer

if TYPE_CHECKING:
    from transformers import Pipeline

Source: TypeAlias = "str | os.PathLike[str] | torch.nn.Module | Pipeline | None"


@dataclass(frozen=True)
class Checkpoint:
    name: str
    config: Config
    weights: Weights
    tokenizer: Tokenizer | None
    ends: tuple[int, ...] = ()  # ids that end a text, as the files or the transformers model declare them
    bundled: bool = False  # the very weights that ship with Cutaway, whatever the folder is called
    notes: list[str] = field(default_factory=list)  # what the user should know of it


def read(
    source: Source,
    device: torch.device,
    dtype: torch.dtype | None,
    revision: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError, naming the file or tensor, for anything that is not a sound GPT-2.

    `dtype` None keeps the file's own on CUDA and is float32 on a CPU. With a `tokenizer` the checkpoint's own is not
    read.
    """
    dtype = dtype or (None if device.type == "cuda" else torch.float32)
    if revision is not None and not isinstance(revision, str):
        raise CheckpointError(f"revision={revision!r} was given: a hub branch, tag or commit was expected")
    if revision is not None and (source is None or live.is_live(source)):
        raise CheckpointError(f"revision={revision!r} is for a hub id, and none was given: leave it out")
    if live.is_live(source):
        return _from_live(source, device, dtype, tokenizer)
    path = bundled_folder() if source is None else _path(source, revision)
    where = str(path) if source is None else str(source)
    folder = path if path.is_dir() else path.parent
    config, held, may_lack_biases = _read_files(path, where)
    plain = plain_tensors(held, config, where, may_lack_biases)
    held.clear()
    bundled = path.resolve() == bundled_folder().resolve()
    name = "sotu" if bundled else Path(where).expanduser().resolve().name
    weights = build(plain, device, dtype, where)
    ends = tokenizer_files.declared_ids(folder, "eos_token_id")
    own = Tokenizer.from_folder(folder) if tokenizer is None else tokenizer
    return Checkpoint(name, plain.config, weights, own, ends, bundled, plain.notes)


def _read_files(path: Path, where: str) -> tuple[Config, dict[str, Tensor], bool]:
    """Return the configuration and tensors of a folder or file, and whether it says that biases are missing."""
    folder, name = (path, f"{where}/config.json") if path.is_dir() else (path.parent, f"{path.parent}/config.json")
    config = None
    if (folder / "config.json").is_file():  # before the weights, which are large
        config = Config.from_hf(weight_files.read_json(folder / "config.json"), name)
    file = weight_files.find(folder, config is not None) if path.is_dir() else path
    held = weight_files.read(file)
    if held.model_args is not None:
        config = Config.from_nanogpt(held.model_args, str(file))
        return config, transposed(held.tensors), held.model_args.get("bias") is False
    return config or Config.from_hf(weight_files.read_json(folder / "config.json"), name), held.tensors, False


def _from_live(source: Any, device: torch.device, dtype: torch.dtype | None, tokenizer: Tokenizer | None) -> Checkpoint:
    """A loaded transformers model. Tensors already in place are shared, never written to."""
    found = live.read(source)
    where = f"the {found.kind}"
    plain = plain_tensors(found.tensors, found.config, where)
    weights = build(plain, device, dtype, where)
    if tokenizer is None and found.tokenizer is not None:
        tokenizer = Tokenizer.of(found.tokenizer)
    elif tokenizer is None and (home := _home(found.origin)):
        tokenizer = Tokenizer.from_folder(home)
    name = Path(found.origin).name or found.kind
    return Checkpoint(name, plain.config, weights, tokenizer, tokenizer_files.as_ids(found.ends), notes=plain.notes)


def _home(origin: str) -> Path | None:
    """Where a transformers model was read from: its folder, or what the hub's cache has of it. No network."""
    if origin and (folder := Path(origin).expanduser()).is_dir():
        return folder
    return hub.cached(origin, None) if hub.HUB_ID.fullmatch(origin) else None


def _path(source: Any, revision: str | None) -> Path:
    """Return where the files of a source are: the folder or file itself, or a folder of the hub's cache."""
    expected = "a folder with config.json and the weights was expected"
    if not isinstance(source, (str, os.PathLike)):
        raise CheckpointError(f"{type(source).__name__} was given: {live.EXPECTED}")
    try:
        path = Path(source).expanduser()
        there = bool(str(source)) and path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a ~user that nobody is
        raise CheckpointError(f"{str(source)!r} is not a path: {error}; {expected}") from None
    if not there and hub.HUB_ID.fullmatch(str(source)):
        return hub.download(str(source), revision)
    if not there:
        raise CheckpointError(f"{str(source)!r} is not there: {expected}")
    if not path.is_dir() and not path.name.endswith((".safetensors", ".index.json", *weight_files.PICKLES)):
        kinds = "weights (.safetensors, .bin, .pt)"
        raise CheckpointError(f"{str(source)!r} is a file, and not of {kinds}: {expected}")
    if revision is not None:
        what = "folder" if path.is_dir() else "file"
        raise CheckpointError(f"{str(source)!r} is a {what}, and revision={revision!r} is for a hub id: leave it out")
    return path


def bundled_folder() -> Path:
    """Where the small model, its documents and its training counts are installed."""
    return Path(str(importlib.resources.files("cutaway"))) / "bundled"


def _finite(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor)  # one pass, no copy; NaN comes through
    return math.isfinite(low.item()) and math.isfinite(high.item())


def build(plain: Plain, device: torch.device, dtype: torch.dtype | None, where: str) -> Weights:
    """Return weights on a device, made of checked tensors by their plain names, which this empties.

    Raises CheckpointError for values that are not finite, or too large for the dtype.
    """
    found, config = plain.tensors, plain.config

    def get(name: str) -> Tensor:
        tensor = found.pop(name)  # so that a converted one goes before the next is made
        if not _finite(tensor):
            raise CheckpointError(f"{where}: {name} holds NaN or infinite values: the file is damaged")
        moved = lasting(tensor.to(device, dtype).contiguous())
        if moved.dtype != tensor.dtype and not _finite(moved):
            narrow = str(dtype).removeprefix("torch.")
            raise CheckpointError(f"{where}: {name} holds values too large for {narrow}: ask for a wider dtype")
        return moved

    blocks = []
    for i in range(config.n_layers):
        fields = {field: get(f"h.{i}.{name}") for name, (field, _) in BLOCK_TENSORS.items()}
        norms = {ln: LayerNorm(fields.pop(f"{ln}.w"), fields.pop(f"{ln}.b")) for ln in ("ln1", "ln2")}
        blocks.append(Block(**norms, **fields))  # type: ignore[arg-type]
    embedding = get("wte.weight")
    head = embedding if config.tied else get("lm_head.weight")
    return Weights(embedding, get("wpe.weight"), blocks, LayerNorm(get("ln_f.weight"), get("ln_f.bias")), head)
