"""Predictions of the next token, by prompt, along a text, and over documents.

    next_tokens(model, ["The people of the United"], top=5)    the most likely next tokens of each prompt
    along(model, text)                                         predictions at every prefix of a text, and what came next
    losses(model, corpus)                                      how well whole documents are predicted

Probabilities are over the whole vocabulary. The loss of a token is -log p(token | what precedes it), in nats. Its
rank is 1 + the number of tokens with a larger logit.
"""

from __future__ import annotations

from cutaway.analyses.predictions.along import along
from cutaway.analyses.predictions.losses import losses
from cutaway.analyses.predictions.next_tokens import next_tokens
from cutaway.analyses.predictions.result import Along, Losses, NextTokens

__all__ = ["Along", "Losses", "NextTokens", "along", "losses", "next_tokens"]
