"""Attention: where each head looks, and scores that say what kind of head it is.

    found = read(model, "The people of the United States")
    found.patterns[layer, head, query, key]; found.scores[layer, head]; found.chart()
    average(model, corpus)           the same scores over documents, with intervals

The scores of a pattern A [query, key] are means over the queries i after position 0, which can only look at itself:

    previous    A[i, i-1]                          entropy    -sum_j A[i, j] log A[i, j]   (nats)
    first       A[i, 0]                            distance   sum_j A[i, j] (i - j)        (tokens)
    duplicate   sum of A[i, j] over the earlier j with the same token as i
    induction   sum of A[i, j] over the j right after an earlier token that is the same as i's

The last two are means over the queries that have such a j. `read` measures them on random tokens repeated twice, where
the repetition is all that can be known; `average` on the repetitions in the text itself.

Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (induction heads). Olsson et al. 2022, In-context
Learning and Induction Heads (the score on repeated random tokens).
"""

from __future__ import annotations

from cutaway.analyses.attention.heads import average, read
from cutaway.analyses.attention.result import Attention, AttentionMeans

__all__ = ["Attention", "AttentionMeans", "average", "read"]
