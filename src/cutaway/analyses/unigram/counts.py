"""Read counts of tokens, and make the unigram distribution from them.

smoothed(counts)                p = (counts + 1/2) / (N + V/2)
divergence(p, z)                KL(p || softmax z)
training_counts()               counts of the bundled model's training text
read_counts(path)               counts from a .npy file
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.files import expand_user
from cutaway.model.model import Model
from cutaway.results.call import Code

if TYPE_CHECKING:
    from numpy.typing import NDArray


def smoothed(counts: Tensor) -> Tensor:
    """Return p = (counts + 1/2) / (N + V/2) of counts [..., V]."""
    counts = counts.double() + 0.5
    return counts / counts.sum(-1, keepdim=True)


def divergence(p: Tensor, z: Tensor) -> Tensor:
    """Return KL(p || softmax z) in nats: [..., V] twice -> [...]."""
    return (p * p.log()).sum(-1) - (p * z).sum(-1) + z.logsumexp(-1)


def training_counts() -> NDArray[np.int64]:
    """Return how often each token occurs in the text that the bundled model was trained on: int64 [8192]."""
    from cutaway.model.checkpoints.checkpoint import bundled_folder

    counts: NDArray[np.int64] = np.load(bundled_folder() / "train_counts.npy")
    return counts


def read_counts(source: str) -> Any:
    """Read counts from a .npy file; "training" stands for the bundled model's training counts.

    Raises InputError for a file that holds no counts.
    """
    if source == "training":
        return training_counts()
    try:
        return np.load(expand_user(source), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise InputError(f"{source} cannot be read as counts (a .npy file, or 'training'): {reason}") from None


def checked_counts(model: Model, counts: Any) -> Tensor:
    """Return counts over a model's vocabulary as a tensor, int64 or float64 [V].

    Raises InputError for another length, for negative or infinite counts, and where all counts are 0; and for the
    bundled model's training counts where the model has another vocabulary.
    """
    try:
        checked = torch.as_tensor(np.asarray(counts))
    except (TypeError, ValueError) as error:
        raise InputError(f"counts cannot be read as numbers: {error}") from None
    V = model.config.d_vocab
    if checked.dim() != 1 or len(checked) != V or checked.is_complex() or checked.dtype == torch.bool:
        shape = f"{str(checked.dtype).removeprefix('torch.')} {list(checked.shape)}"
        raise InputError(
            f"counts are {shape}, and the vocabulary of {model.name} has {V:,}: one number a token was expected"
        )
    if not checked.double().isfinite().all() or bool((checked < 0).any()) or not bool((checked > 0).any()):
        raise InputError(
            "counts hold negative numbers, infinities or nothing above 0: how often each token occurs was expected"
        )
    if _are_training_counts(checked) and model.has_tokenizer and model.tokenizer.vocabulary != _bundled_vocabulary():
        raise InputError(f"these are the bundled model's training counts, and {model.name} has another vocabulary")
    return checked.to(model.device)


def counts_source(counts: Any) -> Code:
    """Return counts as they appear in `meta`: the call that loads the training counts, or "..."."""
    if _are_training_counts(counts):
        return Code("cutaway.unigram.training_counts()", "training counts")
    return Code("...", "counts")


def _are_training_counts(counts: Any) -> bool:
    """Return whether counts are those of the bundled model's training text."""
    return bool(np.array_equal(np.asarray(counts), training_counts()))


def _bundled_vocabulary() -> list[str]:
    """Return the bundled model's vocabulary."""
    from cutaway.model.checkpoints.checkpoint import bundled_folder
    from cutaway.text.tokens import Tokenizer

    tokenizer = Tokenizer.from_folder(bundled_folder())
    return tokenizer.vocabulary if tokenizer else []
