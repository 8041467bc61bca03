"""Where each head looks: its patterns, and scores that say what kind of head it is.

    found = read(model, "The people of the United States")
    found.patterns[layer, head, query, key]; found.scores[layer, head]; found.chart()
    average(model, corpus)           the same scores over documents, with intervals

Of a pattern A [query, key], means over the queries i after position 0, whose only key is itself:

    previous    A[i, i-1]                          entropy    -sum_j A[i, j] log A[i, j]   (nats)
    first       A[i, 0]                            distance   sum_j A[i, j] (i - j)        (tokens)
    duplicate   sum of A[i, j] over the earlier j with the token of i
    induction   sum of A[i, j] over the j that come after an earlier token of i's kind

The last two are means over the queries that have such a j. `read` takes them from random tokens repeated twice, where
nothing but the repetition can be known; `average` from the repetitions of the text itself.

Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (induction heads). Olsson et al. 2022, In-context
Learning and Induction Heads (the score on repeated random tokens).
"""

from __future__ import annotations

from cutaway.analyses.attention.heads import average, read
from cutaway.analyses.attention.result import Attention, AttentionMeans

__all__ = ["Attention", "AttentionMeans", "average", "read"]
