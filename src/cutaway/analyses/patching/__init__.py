"""Patching: which states make one text's answer out of another's.

    run(model, clean, corrupted)                           every layer and position of the residual stream
    run(model, clean, corrupted, sites="attn.z")           every head
    run(model, clean, corrupted, sites="mlp.post", neurons=20)         the 20 neurons with the largest estimates
    attribution(model, clean, corrupted, sites="attn.z", exact=True)   gradients' estimate, beside the exact numbers
    path(model, clean, corrupted, "heads", "head 3.1 q")   what each head tells the queries of head 3.1, directly

Two texts with the same number of tokens are run. Then one of them is run again with one value of the other's in its
place: "restore" puts clean values into the corrupted run and asks what brings the answer back, "corrupt" the reverse. A
metric of the last position's logits says how far that moves the answer; normalized, 0 is the corrupted run and 1 the
clean one.

Vig et al. 2020, Causal Mediation Analysis for Interpreting Neural NLP. Meng et al. 2022, Locating and Editing Factual
Associations in GPT. Wang et al. 2022, Interpretability in the Wild. Heimersheim and Nanda 2024, How to Use and
Interpret Activation Patching. Nanda 2023, Attribution Patching. Syed et al. 2023, Attribution Patching Outperforms
Automated Circuit Discovery, equation 2.
"""

from __future__ import annotations

from cutaway.analyses.patching.cells import Cell
from cutaway.analyses.patching.gradients import attribution
from cutaway.analyses.patching.metrics import METRICS
from cutaway.analyses.patching.path import path
from cutaway.analyses.patching.result import Attribution, Patched, Path
from cutaway.analyses.patching.run import run

__all__ = ["METRICS", "Attribution", "Cell", "Patched", "Path", "attribution", "path", "run"]
