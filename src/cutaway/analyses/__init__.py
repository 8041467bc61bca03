"""Analyses: one question each; every function returns a frozen result.

anatomy, verification       the model and its input; what is certain about them
predictions, logit_lens     what the model says next, and at each layer
attention, attribution      what attention looks at; what a logit is made of
patching, causal_trace, ablation    what a state, a head or an MLP does
norms, states, unigram      how large states are, how Gaussian, and what the final bias holds
logits                      reductions over the vocabulary, for all of them
"""
