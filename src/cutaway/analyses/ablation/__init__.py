"""Ablation: replace each head, MLP, layer or site by itself, and measure how much worse the model predicts.

    found = run(model, "The people of the United States")      every head and every MLP, replaced by its mean
    found = run(model, corpus, "heads", "resample", "kl")      by other documents' values; also KL, with intervals
    found.largest(5), found.table(), found.chart()

Three ways to replace: "zero"; "mean", the site's mean over tokens; "resample", the value that another document has at
the same position. A mean is the usual choice: it takes out what a component says about this text, and leaves what it
always says. No state is ever zero, so much of what breaks with "zero" may be the model's surprise. Resampled values are
all real, but they bring another text's message with them, which may do harm of its own.

Wang et al. 2022, Interpretability in the Wild, section 2.2 (mean ablation). Chan et al. 2022, Causal Scrubbing
(resampling ablation).
"""

from __future__ import annotations

from cutaway.analyses.ablation.result import Ablation
from cutaway.analyses.ablation.run import run

__all__ = ["Ablation", "run"]
