"""Load a model by its name, its path, or from transformers: `cutaway.load`."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

from cutaway.errors import CutawayWarning, InputError
from cutaway.model.checkpoints import checkpoint
from cutaway.model.checkpoints.checkpoint import Source
from cutaway.model.model import Model
from cutaway.model.modes import plainly
from cutaway.text.tokens import Tokenizer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


@plainly
def load(
    source: Source = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
) -> Model:
    """Load a GPT-2.

    Args:
        source: None for the bundled model, or one of
            a folder with config.json and the weights (safetensors or pytorch_model.bin, whole or in shards), or with
            nanoGPT's ckpt.pt;
            one such file of weights (.safetensors, .bin, .pt), its config.json beside it;
            a Hugging Face hub id ("gpt2-xl"), or TransformerLens's name of one ("gpt2-small");
            a transformers model with a GPT-2 inside (GPT2LMHeadModel, GPT2Model, with other heads, a pipeline), also
            inside DataParallel or torch.compile. It stays untouched; weights already in place are shared.
            docs/checkpoints.md lists every form, and what is refused, with its reason.
        device: "auto" takes CUDA where there is one, else the CPU.
        dtype: "float32", "float16", "bfloat16", "float64" or the torch dtype; None is float32 on a CPU and the
            file's own on CUDA.
        revision: a hub branch, tag or commit.
        tokenizer: one to use instead of the checkpoint's own: a folder, a file (tokenizer.json, spiece.model,
            vocab.txt), a tokenizers.Tokenizer or a transformers tokenizer.

    Raises:
        CheckpointError: the source is not a sound GPT-2 checkpoint, or cannot be reached. The message names the file
            or tensor.
        InputError: an unknown device or dtype, or a tokenizer of no known kind.
        TokenizerError: tokenizer files that cannot be read.

    Warns with CutawayWarning of what is unusual in a checkpoint: heads of other tasks that are left out, a head that is
    not the embedding although the configuration says so, missing biases.
    """
    own = None if tokenizer is None else Tokenizer.of(tokenizer)
    found = checkpoint.read(source, _device(device), _dtype(dtype), revision, own)
    given = "" if source is None else repr(str(source)) if isinstance(source, (str, os.PathLike)) else "hf_model"
    options: dict[str, Any] = {"dtype": None if dtype is None else str(dtype).removeprefix("torch.")}
    options |= {"revision": revision, "tokenizer": str(tokenizer) if isinstance(tokenizer, os.PathLike) else tokenizer}
    spelled = {
        name: repr(value) if isinstance(value, str) else name for name, value in options.items() if value is not None
    }
    arguments = [given, *(f"{name}={value}" for name, value in spelled.items())]
    origin = f"cutaway.load({', '.join(filter(None, arguments))})"
    for note in found.notes:
        warnings.warn(note, CutawayWarning, stacklevel=3)  # over plainly()
    ends, bundled = found.ends, found.bundled
    return Model(
        found.config, found.weights, found.tokenizer, name=found.name, origin=origin, ends=ends, bundled=bundled
    )


def _device(device: str | torch.device) -> torch.device:
    """Return the device, known to work. Raises InputError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # torch's error differs from device to device
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(device)!r} cannot be used: {reason}; try 'cpu' or 'auto'") from None
    if found.type == "meta":
        raise InputError("device 'meta' has no memory, so nothing can be computed there; try 'cpu' or 'auto'")
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return a dtype given by name or as itself. Raises InputError."""
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    raise InputError(f"dtype {dtype!r} is unknown: {', '.join(DTYPES)} are known")
