"""List everything that a family of models has to offer, so that the rest of Cutaway works on it.

A family is a module with the names of `Architecture`: gpt2.py is the example. Passes, checkpoints, folding and analyses
reach its forward pass, its names and its tensors through `model.architecture`, and in no other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from cutaway.model.cache import Past
    from cutaway.model.taps.sites import SiteTable
    from cutaway.model.taps.tap import Tap


@dataclass(frozen=True)
class TensorTable:
    """A checkpoint's tensors by their plain names, without prefixes such as `transformer.`.

    Each has the field of Weights or of Block that it becomes, and its shape in letters ("D 3D", as Sizes.shape reads
    them). The head is a tensor of its own only if the model is not tied.
    """

    before: Mapping[str, tuple[str, str]]
    block: Mapping[str, tuple[str, str]]  # names behind `h.i.`
    after: Mapping[str, tuple[str, str]]
    blocks: str  # name of the list of blocks
    embedding: str
    head: str


class Architecture(Protocol):
    """A family of models: its tables, its weights, and its forward pass, function by function.

    A block is attention and what comes after it, which may stand on top of attention or beside it. Functions take the
    weights w (a Block's, or a whole model's). Shapes are B P D if nothing else is said.
    """

    NAME: str  # config.json's model_type
    TITLE: str  # for people
    SITES: SiteTable
    TENSORS: TensorTable
    PARTS: Sequence[tuple[str, str, str]]  # the parts of the anatomy: name, pattern of parameters, what they are called
    READS: Mapping[str, Sequence[tuple[str, str]]]  # a block's norms: the matrices and biases that read each
    WRITES: Sequence[str]  # the fields that write to the residual stream
    VALUE_BIASES: str  # the field of Block whose last H K numbers are the values' biases

    Config: type[Any]  # its from_hf reads config.json; its sizes are Sizes
    Norm: type[Any]  # w and b of a norm
    Block: type[Any]
    Weights: type[Any]  # with W_E, blocks, ln_final, W_U and b_U

    def embed(self, w: Any, ids: Tensor, tap: Tap) -> Tensor:
        """Return the stream that enters the first block, for ids B P."""

    def block(self, w: Any, config: Any, i: int, x: Tensor, tap: Tap, past: Past | None = None) -> Tensor:
        """Return the stream that leaves block i, given the one that enters it."""

    def attention(self, w: Any, config: Any, i: int, x: Tensor, tap: Tap, past: Past | None = None) -> Tensor:
        """Return what attention adds to the stream, given the one that enters block i."""

    def after_attention(self, w: Any, config: Any, i: int, resid_pre: Tensor, attn_out: Tensor, tap: Tap) -> Tensor:
        """Return the stream that leaves block i, given what enters it and what attention adds."""

    def project_qkv(self, w: Any, config: Any, i: int, x: Tensor, tap: Tap) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, B P H K, of the stream that enters block i."""

    def mlp(self, w: Any, config: Any, i: int, x: Tensor, tap: Tap) -> Tensor:
        """Return what block i's MLP adds to the stream, given what it reads."""

    def head(self, w: Any, config: Any, x: Tensor, tap: Tap) -> Tensor:
        """Return the logits, B P V, of the stream that leaves the last block: unembed(final_norm(x))."""

    def final_norm(self, w: Any, config: Any, x: Tensor, tap: Tap) -> Tensor:
        """Return what the unembedding reads."""

    def unembed(self, w: Any, x: Tensor) -> Tensor:
        """Return the logits [..., V] of what final_norm returned, [..., D]."""
