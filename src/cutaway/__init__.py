"""Cutaway opens up GPT-2-class language models.

    import cutaway

    model = cutaway.load()                                   the bundled model; no network
    run = model.run("some text", capture=["attn_out"])       every internal state by name
    cutaway.predictions.along(model, "some text").chart()    an analysis, its result, its chart
    cutaway.report([...], "report.html")                     results in one self-contained page

Importing this package is light: torch and the rest load when something first needs them.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.analyses import (
        ablation,
        anatomy,
        attention,
        attribution,
        causal_trace,
        logit_lens,
        norms,
        patching,
        predictions,
        similarity,
        unigram,
    )
    from cutaway.analyses.verification import verify
    from cutaway.model.loading import load
    from cutaway.report import report
    from cutaway.survey import survey
    from cutaway.versions import show_versions

__version__ = "0.1.0"
__all__ = [
    "ablation",
    "anatomy",
    "attention",
    "attribution",
    "causal_trace",
    "load",
    "logit_lens",
    "norms",
    "patching",
    "predictions",
    "report",
    "show_versions",
    "similarity",
    "survey",
    "unigram",
    "verify",
]

_HOMES = {
    "ablation": "cutaway.analyses.ablation",
    "anatomy": "cutaway.analyses.anatomy",
    "attention": "cutaway.analyses.attention",
    "attribution": "cutaway.analyses.attribution",
    "causal_trace": "cutaway.analyses.causal_trace",
    "logit_lens": "cutaway.analyses.logit_lens",
    "load": "cutaway.model.loading:load",
    "norms": "cutaway.analyses.norms",
    "patching": "cutaway.analyses.patching",
    "predictions": "cutaway.analyses.predictions",
    "report": "cutaway.report:report",
    "show_versions": "cutaway.versions:show_versions",
    "similarity": "cutaway.analyses.similarity",
    "survey": "cutaway.survey:survey",
    "unigram": "cutaway.analyses.unigram",
    "verify": "cutaway.analyses.verification:verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    found = importlib.import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


class _Package(types.ModuleType):
    """Importing `cutaway.report`, the package, leaves `cutaway.report` the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, types.ModuleType) and ":" in _HOMES.get(name, "")):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
