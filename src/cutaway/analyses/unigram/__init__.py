"""Unigram statistics in the final bias: read them out, test whether they are all the model knows, and edit them.

    read(model, also=[" war"])               softmax(W_U b): the tokens the bias favours, whatever the text
    compare(model, corpus or counts)         how close that is to the unigram distribution, beside yardsticks
    claim(model, corpus)                     is it all the model knows? by the bias, by the mean residual, by both
    edit(model, {" the": 1.0})               a model with another bias that makes a token likelier, by 1 nat
    edit_effects(model, " the")              what the ways of doing so cost, and what texts they lead to

logits = W_U (g * n(x) + b), with n the normalized residual, g and b the final LayerNorm's weight and bias, so
u = W_U b is the same for all texts; in a folded model the bias has moved to the unembedding, and is u itself. The
unigram distribution is p = (counts + 1/2) / (N + V/2), counts those of the next tokens at predicted positions: all with
a next token in their window, the first one included. All divergences and losses are in nats.

After "GPT-2's final LayerNorm bias encodes unigram statistics", a notebook that reads the bias out and edits it by
least squares. The metric of an edit is Fisher's: Amari 1998, Natural Gradient Works Efficiently in Learning.
"""

from __future__ import annotations

from cutaway.analyses.unigram.claim import Claim, claim
from cutaway.analyses.unigram.counts import training_counts
from cutaway.analyses.unigram.edit import Edit, edit
from cutaway.analyses.unigram.effects import Effects, edit_effects
from cutaway.analyses.unigram.readout import Comparison, ReadOut, compare, read

__all__ = [
    "Claim",
    "Comparison",
    "Edit",
    "Effects",
    "ReadOut",
    "claim",
    "compare",
    "edit",
    "edit_effects",
    "read",
    "training_counts",
]
