"""Attribution: which components, and which tokens of the text, a logit comes from.

    direct(model, "The people of the United", " States")            every component's part of the logit
    direct(model, text, " States", " Kingdom", neurons=10)          of a difference of two, with the largest neurons
    gradient(model, text, " States", sites="resid_post")            gradient times activation, by token
    integrated(model, text, " States", steps=64)                    integrated gradients over the token embeddings

A logit is a sum over what was written to the residual stream, once the final LayerNorm's scale s is taken to be that of
this text at this position. With g = w_ln * (W_U[target] - W_U[versus]) and c the vector that a component wrote,

    contribution(c) = (c - mean(c)) / s . g = c . (g - mean(g)) / s

The biases of the final LayerNorm and of the unembedding are the rest. All parts sum to the logit. They count what a
component writes directly, not what it does through later layers.

Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, "Direct effect of the residual stream".
Simonyan et al. 2014, Deep Inside Convolutional Networks; Shrikumar et al. 2017, Not Just a Black Box (gradient times
input). Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, equation 1.
"""

from __future__ import annotations

from cutaway.analyses.attribution.direct import direct
from cutaway.analyses.attribution.gradients import gradient, integrated
from cutaway.analyses.attribution.result import Direct, Gradient, Integrated

__all__ = ["Direct", "Gradient", "Integrated", "direct", "gradient", "integrated"]
