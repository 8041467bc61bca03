"""Set torch's modes for our own work and restore them: no result depends on what a notebook switched before.

    with gradients(False): ...      no autograd graph
    with gradients(True): ...       a graph, even if the caller turned gradients off or is in inference mode

Inference mode is switched off, since its tensors can never take part in a gradient; autocast, since a model computes in
its own dtype; and a default device, since every tensor is made on the device that is named for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


_process = os.getpid()


def _in_fork() -> None:
    """Compute with one thread in a forked process: OpenMP's other threads are not there, and it would wait for them."""
    global _process
    if os.getpid() != _process:
        torch.set_num_threads(1)
        _process = os.getpid()


@contextmanager
def gradients(wanted: bool) -> Iterator[None]:
    """Turn gradients on or off inside the block, whatever the caller's modes; restore those on leaving."""
    _in_fork()
    with (
        nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"),
        torch.inference_mode(False),
        torch.set_grad_enabled(wanted),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


def lasting(tensor: Tensor) -> Tensor:
    """Return a tensor that may take part in a gradient: itself, or a copy if it was made in inference mode."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def plainly(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function without gradients, outside inference mode and autocast."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with gradients(False):
            return function(*args, **kwargs)

    return call
