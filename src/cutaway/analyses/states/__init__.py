"""Hidden states compared with Gaussians: their cosines, effective dimension, and distance from Gaussian.

    found = measure(model, corpus)             every layer; hidden states, attention outputs, MLP outputs
    found.chart(); found.verdict(); found.pair("blocks.2.mlp_out", 0.99)
    gaussian(1600)                             the baseline: Gaussians of fewer and fewer live dimensions

The cosines between pairs of tokens' states are compared with three nulls: an isotropic Gaussian of the states' width,
one of their effective dimension, and the Gaussian with their own mean and covariance. The last null is what "Gaussian"
means; the other two ask whether all directions are alike. Position 0 of every window, whose states are unlike all
others, is left out.

Ethayarajh 2019, How Contextual are Contextualized Word Representations? (anisotropy as a mean cosine). Timkey and van
Schijndel 2021, All Bark and No Bite (rogue dimensions).
"""

from __future__ import annotations

from cutaway.analyses.states.gaussian import Baseline, gaussian
from cutaway.analyses.states.measure import measure
from cutaway.analyses.states.result import KINDS, States

__all__ = ["KINDS", "Baseline", "States", "gaussian", "measure"]
