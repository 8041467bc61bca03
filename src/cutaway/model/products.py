"""Compute matrix products fast on a CPU, so that a forward pass can be written as its equations.

linear(x, W, b)                    x W + b, W stored [in, out]
unembedding(x, W_U, b_U)           x W_U' + b_U, W_U stored [vocabulary, width]
activate(function, x, spent)       an activation function, in place where nobody reads x again
keep_pages()                       keep freed memory for the next pass
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GELU: Callable[[Tensor], Tensor] = functools.partial(F.gelu, approximate="tanh")

# --- products ---


def onednn_works() -> bool:
    """Return whether oneDNN's float32 product is available, worth taking, and right.

    torch's own float32 products on a CPU are MKL's, which keeps AVX-512 to Intel's processors. oneDNN, the other
    library inside torch, uses it on all: more than 2 x faster on AMD's. torch reaches it through an operator of its
    compiler, which a future version may change; then this returns False and everything works as before.
    """
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    numbers = torch.arange(12, dtype=torch.float32)
    x, W = numbers[:6].view(2, 3), numbers.view(3, 4)
    try:
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, W.T, None, "none", [], ""), x @ W)
    except (AttributeError, RuntimeError, TypeError):
        return False


ONEDNN = onednn_works()


def takes_onednn(x: Tensor) -> bool:
    """Return whether oneDNN can take this product: float32 on a CPU, without gradients."""
    return ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


def linear(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    """Return x W + b: x [..., in], W [in, out], b [out] -> [..., out]."""
    rows = x.reshape(-1, x.shape[-1])
    if takes_onednn(rows):
        out = torch.ops.mkldnn._linear_pointwise(rows, W.T, b, "none", [], "")
    else:
        out = F.linear(rows, W.T, b)
    return out.view(*x.shape[:-1], W.shape[1])  # type: ignore[no-any-return]


def unembedding(x: Tensor, W_U: Tensor, b_U: Tensor | None) -> Tensor:
    """Return x W_U' + b_U: x [..., D], W_U [V, D], b_U [V] -> [..., V].

    Without oneDNN the product runs vocabulary-major, which is faster, and the result is a transposed view of it.
    """
    if takes_onednn(x):
        return linear(x, W_U.T, b_U)
    logits = (W_U @ x.reshape(-1, x.shape[-1]).T).T.view(*x.shape[:-1], len(W_U))
    return logits if b_U is None else logits + b_U


def activate(function: Callable[[Tensor], Tensor], x: Tensor, spent: bool) -> Tensor:
    """Return function(x). If x is `spent` (nobody reads it again), GELU writes over it.

    Fresh memory costs more than the arithmetic.
    """
    if spent and function is GELU and not torch.is_grad_enabled():
        return torch.ops.aten.gelu_(x, approximate="tanh")  # type: ignore[no-any-return]
    return function(x)


# --- memory ---

KEPT = 1 << 30  # bytes: larger blocks, and free memory beyond it, still go back
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
TUNED = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")  # how users tune theirs


@functools.cache
def keep_pages() -> bool:
    """Raise glibc's thresholds, once in a process, so that freed memory is kept; return whether that was done.

    glibc hands every large block back to the system as soon as it is freed, so each forward pass pays for fresh,
    zeroed pages again: a tenth of its time on a CPU. A user who tunes the allocator, or brings another, keeps theirs.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(TUNED) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT) and mallopt(M_TRIM_THRESHOLD, KEPT))
