"""What is installed: for a result's meta and for reports of problems."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

from cutaway import __version__


def versions() -> dict[str, str]:
    """Versions that can change a number: Cutaway's, torch's, tokenizers' and Python's."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "tokenizers")}
    return {"cutaway": __version__, **packages, "python": platform.python_version()}


def show_versions() -> str:
    """Everything a report of a problem should say about the machine, as text."""
    import torch

    names = ["safetensors", "huggingface_hub", "numpy", "scipy", "statsmodels", "pandas", "altair"]
    names += ["vl-convert-python", "typer", "rich", "starlette", "uvicorn"]
    found = versions()
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["machine"] = f"{platform.platform()}, {torch.get_num_threads()} threads"
    found["CUDA"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return "\n".join(f"{name:<18}{version}" for name, version in found.items())
