"""What breaks without it: each head, MLP, layer or site is replaced alone, and the loss is measured again.

    found = run(model, "The people of the United States")      every head and every MLP, by its mean
    found = run(model, corpus, "heads", "resample", "kl")      by other documents' values; also KL, with intervals
    found.largest(5), found.table(), found.chart()

What stands in: "zero"; "mean", the site's mean over tokens; "resample", the value that another document has there, at
the same position. A mean is the usual choice: it takes out what a component says about this text, and leaves what it
always says. Zero is a value that no state ever has, so that much of what breaks may be surprise at it. Resampled values
are all real ones, but bring another text's message with them, which may do harm of its own.

Wang et al. 2022, Interpretability in the Wild, section 2.2 (mean ablation). Chan et al. 2022, Causal Scrubbing
(resampling ablation).
"""

from __future__ import annotations

from cutaway.analyses.ablation.result import Ablation
from cutaway.analyses.ablation.run import run

__all__ = ["Ablation", "run"]
