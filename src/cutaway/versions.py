"""Report what is installed, for a result's meta and for reports of problems."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

from cutaway import __version__


def versions() -> dict[str, str]:
    """Return the versions that can change a number: Cutaway's, torch's, tokenizers' and Python's."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "tokenizers")}
    return {"cutaway": __version__, **packages, "python": platform.python_version()}


def show_versions() -> str:
    """Return what a report of a problem should say about the machine, as text."""
    import torch

    names = ["safetensors", "huggingface_hub", "numpy", "scipy", "statsmodels", "pandas", "altair"]
    names += ["vl-convert-python", "typer", "rich", "starlette", "uvicorn"]
    report = versions()
    for name in names:
        try:
            report[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            report[name] = "not installed"
    report["machine"] = f"{platform.platform()}, {torch.get_num_threads()} threads"
    report["CUDA"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return "\n".join(f"{name:<18}{version}" for name, version in report.items())
