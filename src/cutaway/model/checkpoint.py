"""Checkpoints: from the bundled model, a folder, the Hugging Face hub or a transformers model to checked weights.

    checkpoint = read(None)                 the bundled model
    checkpoint = read("~/models/mine")      a folder with config.json and the weights
    checkpoint = read("gpt2-xl")            a hub id, from the cache where it is there
    checkpoint.config, .weights, .tokenizer, .name

No pickle is run: weights are safetensors, or a pytorch_model.bin read with `weights_only`. Every tensor is checked for
its name, shape and finiteness before anything runs. On a CPU, safetensors already in the compute dtype stay
memory-mapped.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import pickle
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from cutaway.errors import CheckpointError
from cutaway.model.config import Config
from cutaway.model.gpt2 import Block, LayerNorm, Weights
from cutaway.tokens import Tokenizer

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

Source: TypeAlias = "str | os.PathLike[str] | GPT2LMHeadModel | None"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
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


def read(source: Source, device: torch.device, dtype: torch.dtype | None, revision: str | None = None) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError, naming the file or tensor, for anything that is not a sound GPT-2.

    `dtype` None keeps the file's own on CUDA and is float32 on a CPU.
    """
    dtype = dtype or (None if device.type == "cuda" else torch.float32)
    if hasattr(source, "state_dict"):
        return _from_transformers(source, device, dtype)
    folder = bundled_folder() if source is None else _folder(source, revision)
    where = str(folder) if source is None else str(source)
    config = Config.from_hf(_read_json(folder / "config.json"), f"{where}/config.json")
    weights = build(_read_tensors(folder), config, device, dtype, where)
    name = "sotu" if source is None else Path(where).expanduser().name
    return Checkpoint(name, config, weights, Tokenizer.from_folder(folder))


def _from_transformers(model: Any, device: torch.device, dtype: torch.dtype | None) -> Checkpoint:
    """A loaded transformers model. Tensors already in place are shared, never written to."""
    kind = type(model).__name__
    if kind != "GPT2LMHeadModel":
        raise CheckpointError(f"a {kind} was given: a transformers GPT2LMHeadModel, a folder or a hub id was expected")
    config = Config.from_hf(model.config.to_dict(), f"the {kind}'s configuration")
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    weights = build(tensors, config, device, dtype, f"the {kind}")
    home = Path(model.config.name_or_path or os.devnull).expanduser()
    tokenizer = Tokenizer.from_folder(home) if home.is_dir() else None
    return Checkpoint(home.name if home.is_dir() else kind, config, weights, tokenizer)


def _folder(source: Any, revision: str | None) -> Path:
    """Where the files of a source are: the folder itself, or the hub's cache."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{str(source)!r} is a file: the folder with config.json and the weights was expected")
    if not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"{str(source)!r} is not there: a folder with config.json and the weights was expected")
    return _download(str(source), revision)


def _download(repo: str, revision: str | None) -> Path:
    """Fetch a hub checkpoint's files into the hub's cache; files that are there already need no network."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()

    def fetch(name: str) -> Path | None:
        try:
            return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
        except EntryNotFoundError as error:  # a LocalEntryNotFoundError is one too
            if isinstance(error, LocalEntryNotFoundError) and name == "config.json":
                raise
            return None

    try:
        config = fetch("config.json")
        if config is None:
            raise CheckpointError(f"the hub's {repo!r} is no model: it has no config.json")
        found = next((path for path in map(fetch, WEIGHTS) if path), None)
        if found is None:
            raise CheckpointError(f"the hub's {repo!r} has no weights here: none of {', '.join(WEIGHTS)}")
        if found.suffix == ".json":
            for shard in sorted(set(_weight_map(found).values())):
                fetch(shard)
        for name in TOKENIZER:
            fetch(name)
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client raises its own errors, its HTTP library's and OSError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "without a network give a folder, or load() for the bundled model"
        raise CheckpointError(
            f"{repo!r} is no folder here, and not to be had from the hub: {reason} ({hint})"
        ) from None
    return config.parent


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


def _weight_map(index: Path) -> Mapping[str, str]:
    files = _read_json(index).get("weight_map")
    # A name with a folder in it could point anywhere.
    if not isinstance(files, dict) or any(not isinstance(f, str) or Path(f).name != f for f in files.values()):
        raise CheckpointError(f"{index} has no sound weight_map: tensor names to files beside it were expected")
    return files


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by its name in the files, memory-mapped where the format allows."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has no weights: {WEIGHTS[0]} (or {', '.join(WEIGHTS[1:])}) was expected")
    if path.suffix != ".json":
        return _read_file(path)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(_weight_map(path).values())):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks {name}, which {path.name} names")
        tensors |= _read_file(folder / name)
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    import safetensors

    size = path.stat().st_size
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} ({size:,} bytes) is damaged or no safetensors file: {error}") from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path} holds more than tensors; it was not run. Convert it to safetensors") from None
    except (OSError, ValueError, RuntimeError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} ({size:,} bytes) is damaged or no PyTorch file: {reason}") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path} holds a {type(tensors).__name__}: a dictionary of tensors was expected")
    return tensors


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


def _checked(tensors: Mapping[str, Tensor], config: Config, where: str) -> dict[str, Tensor]:
    """The tensors by plain name, each known to be expected, present and of the right shape."""
    found = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("transformer.")
        if not name.endswith((".attn.bias", ".attn.masked_bias")):  # causal masks of old transformers versions
            found[name] = tensor
    shapes = expected_shapes(config)
    head = found.pop("lm_head.weight", None) if config.tied else None
    if head is not None and not torch.equal(head, found.get("wte.weight", head)):
        raise CheckpointError(f"{where}: the configuration ties the head to wte.weight, but lm_head.weight differs")
    if missing := [name for name in shapes if name not in found]:
        raise CheckpointError(f"{where} lacks {_some(missing)}, which its configuration asks for")
    if extra := [name for name in found if name not in shapes]:
        raise CheckpointError(f"{where} holds {_some(extra)}, which a GPT-2 of its configuration does not have")
    for name, shape in shapes.items():
        if tuple(found[name].shape) != shape:
            got, want = list(found[name].shape), list(shape)
            raise CheckpointError(f"{where}: {name} has shape {got}, but the configuration makes it {want}")
        if not found[name].is_floating_point():
            raise CheckpointError(f"{where}: {name} has dtype {found[name].dtype}: floating point was expected")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


def _finite(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor)  # one pass, no copy; NaN comes through
    return bool(torch.isfinite(low) & torch.isfinite(high))


def build(
    tensors: Mapping[str, Tensor], config: Config, device: torch.device, dtype: torch.dtype | None, where: str
) -> Weights:
    """Tensors by their names in a file -> checked weights on a device."""
    found = _checked(tensors, config, where)

    def get(name: str) -> Tensor:
        tensor = found[name]
        if not _finite(tensor):
            raise CheckpointError(f"{where}: {name} holds NaN or infinite values: the file is damaged")
        moved = tensor.to(device, dtype).contiguous()
        if moved.dtype != tensor.dtype and not _finite(moved):
            raise CheckpointError(f"{where}: {name} does not fit into {moved.dtype}: ask for a wider dtype")
        return moved

    blocks = []
    for i in range(config.n_layers):
        fields = {field: get(f"h.{i}.{name}") for name, (field, _) in BLOCK_TENSORS.items()}
        norms = {ln: LayerNorm(fields.pop(f"{ln}.w"), fields.pop(f"{ln}.b")) for ln in ("ln1", "ln2")}
        blocks.append(Block(**norms, **fields))  # type: ignore[arg-type]
    embedding = get("wte.weight")
    head = embedding if config.tied else get("lm_head.weight")
    return Weights(embedding, get("wpe.weight"), blocks, LayerNorm(get("ln_f.weight"), get("ln_f.bias")), head)
