"""Find the file of a folder that holds the weights, and read it.

    path = find(folder)                 model.safetensors, its shards' index, pytorch_model.bin, a variant, ckpt.pt
    held = read(path)                   .tensors by their names in the file, .model_args where nanoGPT wrote it
    raw = read_json(folder / "config.json")

No pickle is run: torch's files are read with `weights_only`. Safetensors stay memory-mapped.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import CheckpointError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ANY_WEIGHTS = f"{WEIGHTS[0]} (or {', '.join(WEIGHTS[1:])})"
VARIANT = re.compile(  # such as model.fp16.safetensors
    r"(model\.\w+\.safetensors|pytorch_model\.\w+\.bin|(model\.safetensors|pytorch_model\.bin)\.index\.\w+\.json)"
)
NANOGPT = "ckpt.pt"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
NESTED = ("model", "state_dict", "model_state_dict", "module")  # what training scripts call the model's tensors
FOREIGN = (  # (glob, whose, what to do)
    ("tf_model.h5", "TensorFlow's weights", "save it with transformers 4, from_pretrained(..., from_tf=True)"),
    ("flax_model*.msgpack", "JAX's weights", "save it with transformers 4, from_pretrained(..., from_flax=True)"),
    (
        "model*.ckpt*.index",
        "TensorFlow's weights",
        "convert it with transformers 4's convert_gpt2_checkpoint_to_pytorch",
    ),
    ("model-*.index", "TensorFlow's weights", "convert it with transformers 4's convert_gpt2_checkpoint_to_pytorch"),
    ("rust_model.ot", "rust-bert's weights", "give the model that it was made from"),
    ("*.onnx", "an ONNX graph", "give the model that it was made from"),
    ("*.gguf", "GGUF weights", "give the model that it was made from"),
    ("global_step*", "DeepSpeed's shards", "join them, python zero_to_fp32.py . pytorch_model.bin"),
)
LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Held:
    """A weights file's tensors by their names there, and nanoGPT's configuration if the file has one."""

    tensors: dict[str, Tensor]
    model_args: Mapping[str, Any] | None = None


def find(folder: Path, configured: bool) -> Path:
    """Find a folder's file of weights, or the index of its shards; without a configuration, only nanoGPT's file.

    Raises CheckpointError if there is none, or if there are several variants to choose from.
    """
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(_adapter(folder))
    names = [*WEIGHTS, NANOGPT] if configured else [NANOGPT]
    for path in (folder / name for name in names):
        if path.is_file():
            return path
    if not configured:
        foreign = _foreign(folder)
        missing = f"{folder} is not a model: it has no config.json" + (f"; {foreign}" if foreign else "")
        raise CheckpointError(_inside(folder) or missing)
    variants = sorted(path for path in folder.glob("*") if VARIANT.fullmatch(path.name))
    if len(variants) > 1:
        several = ", ".join(path.name for path in variants)
        raise CheckpointError(f"{folder} has several weights ({several}): give the path of one, such as {variants[0]}")
    if variants:
        return variants[0]
    missing = f"{folder} has no weights: {ANY_WEIGHTS} was expected"
    if foreign := _foreign(folder):
        raise CheckpointError(f"{missing}; {foreign}")
    if others := sorted(path for path in folder.glob("*.safetensors") if path.is_file()):
        missing += f"; if {others[0].name} holds them give its path"
    raise CheckpointError(_inside(folder) or missing)


def _foreign(folder: Path) -> str | None:
    """Return a hint about weights of another kind; None if there are none."""
    for pattern, kind, hint in FOREIGN:
        if found := sorted(folder.glob(pattern)):
            return f"{found[0].name} holds {kind}, which Cutaway does not read: {hint}"
    return None


def _adapter(folder: Path) -> str:
    """Return the message for a folder with a PEFT adapter."""
    try:
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    except CheckpointError:
        base = None
    load = f"PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained({base or 'its base model'!r}), {str(folder)!r})"
    adapter = f"a PEFT adapter of {base or 'a base model'!r}, and not a model"
    return f"{folder} is {adapter}: merge the two and give the result, cutaway.load({load}.merge_and_unload())"


def _inside(folder: Path) -> str | None:
    """Return a hint about models one level deeper, where a trainer leaves them; None if there are none."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal() and path.is_dir()]
    if not found:
        return None
    found.sort(key=lambda path: int(path.name[11:]))
    names = ", ".join(path.name for path in found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return f"{folder} is not a model, but holds {names}: give one of them, such as {found[-1]}"


def read_json(path: Path) -> Mapping[str, Any]:
    """Return a file's JSON object. Raises CheckpointError if there is no such file or it holds something else."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is not a model: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(_pointer(path) or f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds a JSON {type(raw).__name__}: an object was expected")
    return raw


def weight_map(index: Path) -> Mapping[str, str]:
    """Return the shard of each tensor, from an index. Raises CheckpointError for an index that says anything else."""
    files = read_json(index).get("weight_map")

    def sound(file: object) -> bool:  # a name with a folder in it could point anywhere
        return isinstance(file, str) and Path(file).name == file and file.endswith((".safetensors", ".bin"))

    if not isinstance(files, dict) or not all(map(sound, files.values())):
        raise CheckpointError(f"{index} has no sound weight_map: tensor names to files beside it were expected")
    return files


def read(path: Path) -> Held:
    """Read every tensor of a weights file, or of an index's shards, memory-mapped where the format allows.

    Raises CheckpointError for a file that is damaged, missing, or not made of named tensors.
    """
    if path.suffix == ".json":
        tensors: dict[str, Tensor] = {}
        for name in sorted(set(weight_map(path).values())):
            if not (path.parent / name).is_file():
                raise CheckpointError(f"{path.parent} lacks {name}, which {path.name} names")
            tensors |= read(path.parent / name).tensors
        return Held(tensors)
    if path.suffix == ".safetensors":
        return Held(_read_safetensors(path))
    held = _read_pickle(path)
    model_args = held.get("model_args") if isinstance(held, dict) else None
    return Held(_named_tensors(held, path), model_args if isinstance(model_args, dict) else None)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, memory-mapped. Raises CheckpointError for a damaged one."""
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        damaged = f"{path} ({path.stat().st_size:,} bytes) is damaged or not a safetensors file: {error}"
        raise CheckpointError(_pointer(path) or damaged) from None


def _read_pickle(path: Path) -> Any:
    """Read a file of torch.save without running it. Raises CheckpointError for a damaged one."""
    size = path.stat().st_size
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        hint = "it was not run; convert it to safetensors where you trust it"
        damaged = f"{path} ({size:,} bytes) holds more than tensors or is damaged: {hint}"
    except Exception as error:  # on damaged bytes the reader fails in any way
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        damaged = f"{path} ({size:,} bytes) is damaged or not a PyTorch file: {reason}"
    raise CheckpointError(_pointer(path) or damaged)


def _pointer(path: Path) -> str | None:
    """Return the message for a file that is only a Git LFS pointer; None for all others."""
    with path.open("rb") as file:
        if file.read(len(LFS)) != LFS:
            return None
    return f"{path} is a Git LFS pointer ({path.stat().st_size:,} bytes), not the file: run 'git lfs pull' beside it"


def _named_tensors(held: Any, path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a pickle, which may lie one level deeper."""
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds a {type(held).__name__}: a dictionary of tensors was expected")
    tensors: dict[Any, Any] = next((held[key] for key in NESTED if isinstance(held.get(key), dict)), held)
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds a {type(tensor).__name__} as {name!r}: named tensors were expected")
    return dict(tensors)
