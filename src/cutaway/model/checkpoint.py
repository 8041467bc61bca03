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
import math
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

from cutaway import tokenizer_files
from cutaway.errors import CheckpointError
from cutaway.model.config import Config
from cutaway.model.gpt2 import Block, LayerNorm, Weights
from cutaway.model.modes import lasting
from cutaway.tokens import Tokenizer

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

Source: TypeAlias = "str | os.PathLike[str] | GPT2LMHeadModel | None"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ANY_WEIGHTS = f"{WEIGHTS[0]} (or {', '.join(WEIGHTS[1:])})"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
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
    ends: tuple[int, ...] = ()  # ids that end a text, as the files or the transformers model declare them


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
    name = "sotu" if source is None else Path(where).expanduser().resolve().name
    ends = tokenizer_files.model_ids(folder, "eos_token_id")
    return Checkpoint(name, config, weights, Tokenizer.from_folder(folder), ends)


def _from_transformers(model: Any, device: torch.device, dtype: torch.dtype | None) -> Checkpoint:
    """A loaded transformers model. Tensors already in place are shared, never written to."""
    kind = type(model).__name__
    if kind != "GPT2LMHeadModel":
        raise CheckpointError(f"a {kind} was given: a transformers GPT2LMHeadModel, a folder or a hub id was expected")
    config = Config.from_hf(model.config.to_dict(), f"the {kind}'s configuration")
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    weights = build(tensors, config, device, dtype, f"the {kind}")
    origin = model.config.name_or_path or ""
    home = _home(origin, getattr(model.config, "_commit_hash", None))
    declared = getattr(model.generation_config, "eos_token_id", None)
    declared = model.config.eos_token_id if declared is None else declared
    tokenizer = Tokenizer.from_folder(home) if home else None
    return Checkpoint(Path(origin).name or kind, config, weights, tokenizer, tokenizer_files.as_ids(declared))


def _home(origin: str, revision: str | None) -> Path | None:
    """Where a transformers model was read from: its folder, or what the hub's cache has of it. No network."""
    if origin and (folder := Path(origin).expanduser()).is_dir():
        return folder
    if not HUB_ID.fullmatch(origin):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(origin, name, revision=revision) for name in tokenizer_files.VOCABULARIES)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def _folder(source: Any, revision: str | None) -> Path:
    """Where the files of a source are: the folder itself, or the hub's cache."""
    expected = "a folder with config.json and the weights was expected"
    if not isinstance(source, (str, os.PathLike)):
        raise CheckpointError(f"{type(source).__name__} was given: a folder, hub id or GPT2LMHeadModel was expected")
    try:
        folder = Path(source).expanduser()
        there = bool(str(source)) and folder.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a ~user that nobody is
        raise CheckpointError(f"{str(source)!r} is no path: {error}; {expected}") from None
    if not there and HUB_ID.fullmatch(str(source)):
        return _download(str(source), revision)
    if not there:
        raise CheckpointError(f"{str(source)!r} is not there: {expected}")
    if not folder.is_dir():
        raise CheckpointError(f"{str(source)!r} is a file: {expected}")
    if revision is not None:
        raise CheckpointError(f"{str(source)!r} is a folder, and revision={revision!r} is for a hub id: leave it out")
    return folder


def _download(repo: str, revision: str | None) -> Path:
    """Fetch a hub checkpoint's files into the hub's cache; the folder they are in.

    The hub is asked which commit is meant; what the cache has of that one needs no network.
    """
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    commit, unreachable = None, False

    def fetch(name: str) -> Path | None:
        nonlocal unreachable
        if commit and (known := try_to_load_from_cache(repo, name, revision=commit)):
            return Path(known) if isinstance(known, str) else None  # else: known not to be there
        try:
            return Path(hf_hub_download(repo, name, revision=commit or revision, local_files_only=unreachable))
        except errors.LocalEntryNotFoundError:  # the client has tried for long enough: from here on what is cached
            unreachable = True
            if name == "config.json":
                raise
        except errors.EntryNotFoundError:
            pass
        return None

    hint = "without a network give a folder, or load() for the bundled model"
    try:
        config = fetch("config.json")
        if config is None:
            raise CheckpointError(f"the hub's {repo!r} is no model: it has no config.json")
        commit = config.parent.name
        found = next((path for path in map(fetch, WEIGHTS) if path), None)
        if found is None:
            where = f"cache has no weights of {repo!r}" if unreachable else f"{repo!r} has no weights"
            raise CheckpointError(f"the hub's {where}: {ANY_WEIGHTS} was expected")
        if found.suffix == ".json":
            for shard in sorted(set(_weight_map(found).values())):
                fetch(shard)
        for name in tokenizer_files.BESIDE:
            fetch(name)
        for names in tokenizer_files.WHOLE:
            if None not in list(map(fetch, names)):
                break
    except CheckpointError:
        raise
    except errors.RevisionNotFoundError:
        expected = "a branch, tag or commit was expected"
        raise CheckpointError(f"the hub's {repo!r} has no revision {revision!r}: {expected}") from None
    except errors.GatedRepoError:
        raise CheckpointError(f"the hub's {repo!r} is gated: ask for access there and log in (hf auth login)") from None
    except errors.RepositoryNotFoundError:
        hint = "check its name, or log in (hf auth login) if it is private"
        raise CheckpointError(f"{repo!r} is no folder here, and the hub has no such model: {hint}") from None
    except errors.LocalEntryNotFoundError as error:
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE keeps from asking the hub" if offline else "the hub cannot be reached"
        raise CheckpointError(
            f"{repo!r} is no folder here, the hub's cache does not have it, and {why}: {hint}"
        ) from None
    except Exception as error:  # the hub's client raises its own errors, its HTTP library's and OSError
        raise CheckpointError(f"{repo!r} cannot be had from the hub: {_first_line(error)}; {hint}") from None
    return config.parent


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def bundled_folder() -> Path:
    """Where the small model, its documents and its training counts are installed."""
    return Path(str(importlib.resources.files("cutaway"))) / "bundled"


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is no model: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds a JSON {type(raw).__name__}: an object was expected")
    return raw


def _weight_map(index: Path) -> Mapping[str, str]:
    files = _read_json(index).get("weight_map")

    def sound(file: object) -> bool:  # a name with a folder in it could point anywhere
        return isinstance(file, str) and Path(file).name == file and file.endswith((".safetensors", ".bin"))

    if not isinstance(files, dict) or not all(map(sound, files.values())):
        raise CheckpointError(f"{index} has no sound weight_map: tensor names to files beside it were expected")
    return files


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by its name in the files, memory-mapped where the format allows."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has no weights: {ANY_WEIGHTS} was expected")
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
        hint = "it was not run; convert it to safetensors where you trust it"
        raise CheckpointError(f"{path} ({size:,} bytes) holds more than tensors or is damaged: {hint}") from None
    except Exception as error:  # on damaged bytes the reader fails as chance will have it
        reason = _first_line(error)
        raise CheckpointError(f"{path} ({size:,} bytes) is damaged or no PyTorch file: {reason}") from None
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path} holds a {type(tensors).__name__}: a dictionary of tensors was expected")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds a {type(tensor).__name__} as {name!r}: named tensors were expected")
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
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("transformer.")
        if name in found:
            raise CheckpointError(f"{where} holds {name} twice, with and without 'transformer.': one was expected")
        if not name.endswith((".attn.bias", ".attn.masked_bias")):  # causal masks of old transformers versions
            found[name] = tensor
    blocks = 1 + max((int(m[1]) for name in found if (m := re.match(r"h\.([0-9]{1,9})\.", name))), default=-1)
    if blocks != config.n_layers:
        raise CheckpointError(f"{where} holds {blocks} blocks, but the configuration gives n_layer = {config.n_layers}")
    shapes = expected_shapes(config)
    spare_head = config.tied and "lm_head.weight" in found
    if spare_head:
        shapes["lm_head.weight"] = shapes["wte.weight"]
    if missing := [name for name in shapes if name not in found]:
        raise CheckpointError(f"{where} lacks {_some(missing)}, which its configuration asks for")
    if extra := [name for name in found if name not in shapes]:
        raise CheckpointError(f"{where} holds {_some(extra)}, which a GPT-2 of its configuration does not have")
    for name, shape in shapes.items():
        if tuple(found[name].shape) != shape:
            got, want = list(found[name].shape), list(shape)
            raise CheckpointError(f"{where}: {name} has shape {got}, but the configuration makes it {want}")
        if found[name].is_meta:
            raise CheckpointError(f"{where}: {name} is on the meta device and has no values: load them first")
        if found[name].dtype not in DTYPES or found[name].layout != torch.strided:
            kind = f"{found[name].dtype}, {found[name].layout}".replace("torch.", "")
            raise CheckpointError(
                f"{where}: {name} is {kind}: dense float32, float16, bfloat16 or float64 was expected"
            )
    if spare_head and not torch.equal(found.pop("lm_head.weight"), found["wte.weight"]):
        raise CheckpointError(f"{where}: lm_head.weight is not wte.weight, but tie_word_embeddings is true")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


def _finite(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor)  # one pass, no copy; NaN comes through
    return math.isfinite(low.item()) and math.isfinite(high.item())


def build(
    tensors: dict[str, Tensor], config: Config, device: torch.device, dtype: torch.dtype | None, where: str
) -> Weights:
    """Tensors by their names in a file, which this empties, -> checked weights on a device."""
    found = _checked(tensors, config, where)
    tensors.clear()

    def get(name: str) -> Tensor:
        tensor = found.pop(name)  # so that a converted one goes before the next is made
        if not _finite(tensor):
            raise CheckpointError(f"{where}: {name} holds NaN or infinite values: the file is damaged")
        moved = lasting(tensor).to(device, dtype).contiguous()
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
