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
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.analyses import ablation as ablation
    from cutaway.analyses import anatomy as anatomy
    from cutaway.analyses import attention as attention
    from cutaway.analyses import attribution as attribution
    from cutaway.analyses import causal_trace as causal_trace
    from cutaway.analyses import logit_lens as logit_lens
    from cutaway.analyses import norms as norms
    from cutaway.analyses import patching as patching
    from cutaway.analyses import predictions as predictions
    from cutaway.analyses import states as states
    from cutaway.analyses import unigram as unigram
    from cutaway.analyses.verification import verify as verify
    from cutaway.model.load import load as load
    from cutaway.pages.report import report as report
    from cutaway.surveys.survey import survey as survey
    from cutaway.versions import show_versions as show_versions

__version__ = "0.1.0"

_HOMES = {  # a name, and the module it is, or the function in a module
    "ablation": "cutaway.analyses.ablation",
    "anatomy": "cutaway.analyses.anatomy",
    "attention": "cutaway.analyses.attention",
    "attribution": "cutaway.analyses.attribution",
    "causal_trace": "cutaway.analyses.causal_trace",
    "load": "cutaway.model.load:load",
    "logit_lens": "cutaway.analyses.logit_lens",
    "norms": "cutaway.analyses.norms",
    "patching": "cutaway.analyses.patching",
    "predictions": "cutaway.analyses.predictions",
    "report": "cutaway.pages.report:report",
    "show_versions": "cutaway.versions:show_versions",
    "states": "cutaway.analyses.states",
    "survey": "cutaway.surveys.survey:survey",
    "unigram": "cutaway.analyses.unigram",
    "verify": "cutaway.analyses.verification:verify",
}
_RENAMED = {"similarity": "states"}  # old names, which work for one release

__all__ = sorted(_HOMES)  # the test of exported names compares it with the documented list


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        warnings.warn(f"cutaway.{name} is now cutaway.{new}", FutureWarning, stacklevel=2)
        return __getattr__(new)
    if name not in _HOMES:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    found = importlib.import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
