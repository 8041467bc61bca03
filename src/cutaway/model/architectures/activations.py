"""Name the functions between an MLP's two matrices as transformers does.

`prelu` and `xielu` have weights of their own, so that a name does not say what they compute: they are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.model.products import GELU


def laplace(x: Tensor) -> Tensor:
    """Return the Laplace function of x. Ma et al. 2022, Mega; equation 15."""
    return 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2))))


ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": GELU,
    "gelu_pytorch_tanh": GELU,
    "gelu_python_tanh": GELU,
    "gelu_fast": GELU,
    "gelu_accurate": GELU,
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_10": lambda x: F.gelu(x).clamp(-10, 10),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "swish": F.silu,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "laplace": laplace,
    "sqrtsoftplus": lambda x: F.softplus(x).sqrt(),
    "linear": torch.clone,  # a tensor of its own: what is written into one site must not show at the other
}
