"""Causal tracing: which states, restored in a run that cannot see its subject, bring the answer back.

    found = trace(model, "The Eiffel Tower is in", "Eiffel Tower", answer=" Paris")
    found.chart(); found.probability[kind, position, layer]; found.effect
    average([found, another])                the same by the role of the token, with bands over prompts

ROME's algorithm: a clean run; corrupted runs, in which noise on the subject's token embeddings hides it; and for each
cell the corrupted runs once more with one clean state put back, at one position in one layer (resid_post) or in a
window of layers (mlp_out, attn_out). A cell's score is the answer's probability, averaged over the corrupted runs. Its
indirect effect is the score less that of the corrupted runs. engine.py says how little of that has to be computed.

Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1. Vig et al. 2020, Investigating Gender
Bias in Language Models Using Causal Mediation Analysis (indirect effects).
"""

from __future__ import annotations

from cutaway.analyses.causal_trace.average import average
from cutaway.analyses.causal_trace.restorations import KINDS
from cutaway.analyses.causal_trace.result import Trace, TraceMeans
from cutaway.analyses.causal_trace.trace import trace

__all__ = ["KINDS", "Trace", "TraceMeans", "average", "trace"]
