"""Edit unigram statistics through the final bias.

A change of bias that makes a token likelier moves others too. Least squares (the notebook's way) keeps logits, not
probabilities; Fisher's metric, averaged over the model's own predictions in texts, measures the cost of a small change
there; the exact edit minimises that cost, E KL(q || q'), itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cutaway.analyses.unigram.contexts import Contexts, ContextSource, draw_contexts
from cutaway.analyses.unigram.directions import exact, fisher, least_squares, leverage
from cutaway.arguments import seed_of, shown, whole
from cutaway.errors import InputError
from cutaway.model.model import Model
from cutaway.results.call import analysis, corpus_source, meta_of
from cutaway.results.labels import token_id, token_labels, token_strings
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("least-squares", "fisher", "exact")
MOVED = 10  # other tokens that a result lists

UNEDITED = "unedited"


@dataclass(frozen=True, eq=False, repr=False)
class Edit(Result):
    """A model with another final bias, and how its predictions changed.

    Changes are means over contexts, in nats, for the bias as the model's dtype stores it.
    """

    analysis: ClassVar[str] = "unigram.edit"
    title: ClassVar[str] = "What does changing a token's weight do?"

    method: str
    contexts: int  # predictions that the means are over
    ids: list[int]  # the tokens asked to change, then those that moved most
    tokens: list[str]
    display: list[str]
    asked: list[float]  # NaN for those that were not asked
    achieved: list[float]  # change of log-probability
    before: list[float]  # mean probability
    after: list[float]
    leverage: list[float]  # of the tokens asked to change: the share by which least squares lifts their logit
    collateral: float  # E KL(q || q')
    model: Model = field(repr=False)  # shares every other weight

    def table(self) -> pd.DataFrame:
        """Return one row a token: token_id, token, asked and achieved (nats), before and after (mean probability).

        `asked` is NaN for tokens that were not asked to change.
        """
        import pandas as pd

        names = ("tokens", "asked", "achieved", "before", "after")
        columns = {name.removesuffix("s"): getattr(self, name) for name in names}
        return pd.DataFrame({"token_id": self.ids, **columns})

    def summary(self) -> str:
        lines = [f"{'':<18} {'asked':>8} {'achieved':>9}   mean probability"]
        for i, name in enumerate(self.display):
            wanted = "" if math.isnan(self.asked[i]) else f"{self.asked[i]:+.3f}"
            lines.append(
                f"{name:<18} {wanted:>8} {self.achieved[i]:>+9.3f}   {self.before[i]:.2e} to {self.after[i]:.2e}"
            )
        where = f"over {self.contexts:,}" if self.contexts > 1 else "where it sees no text"
        lines.append(f"collateral: {self.collateral:.3g} nats a prediction, {where}; by {self.method}")
        if self.method == "least-squares":
            shares = ", ".join(f"{h:.1%}" for h in self.leverage)
            lines.append(f"least squares lifts a logit by its leverage only: {shares} of what was asked")
        return "\n".join(lines)

    def caption(self) -> str:
        return (
            "Change of each token's log-probability in nats, mean over contexts: in orange the tokens asked for, with "
            "a tick at what was asked; in blue the other tokens that moved most. The collateral is the mean KL "
            "divergence of the edited predictions from the model's own."
        )


@analysis("unigram.edit")
def edit(
    model: Model,
    changes: Mapping[Any, float],
    corpus: ContextSource = None,
    method: str = "fisher",
    *,
    contexts: int = 1024,
    seed: int = 0,
    bos: bool = False,
) -> Edit:
    """Make a new model whose final bias makes tokens likelier or less likely; it shares every other weight.

    With metric S and mean m of the embeddings that the model expects, averaged over contexts, "fisher" is the change
    of bias S^-1 G (G' S^-1 G)^-1 d, G = w_t - m: right to first order. "exact" changes mean log-probabilities by
    exactly d, with the least mean KL divergence. "least-squares" is b + (W' W)^-1 w_t d, which lifts a logit only by a
    token's leverage, a few percent of d. In a folded model the unembedding's bias changes, within D dimensions.

    Args:
        changes: a mapping from tokens (text or id) to the wanted change of their mean log-probability, nats.
        corpus: the documents that contexts are drawn from and that the result describes: whatever
            cutaway.text.corpus.open_corpus takes; None for the bundled documents; False for no text, where softmax(u)
            stands for all predictions (cruder).
        contexts: the number of predictions to draw.

    Raises:
        InputError: no tokens, a token given twice, a change that is not a finite number or cannot be reached.
        TokenizerError: a text that is not exactly one token; the message names its pieces.
    """
    contexts, seed = whole("contexts", contexts, 1), seed_of(seed)
    ids, nats = read_changes(model, changes)
    check_method(method)
    drawn = draw_contexts(model, corpus, contexts, seed, bos)
    delta = change_of_bias(model, ids, nats, drawn, method)
    meta = meta_of(model, None, changes=dict(changes), corpus=corpus_source(corpus))
    call = meta["call"].rpartition("cutaway.unigram.edit(model, ")[2]
    made, stored = with_bias(model, delta, f"cutaway.unigram.edit({model.origin}, {call}.model")
    change = drawn.change(stored)
    listed = [*ids, *_moved(change.log_probability, ids)]
    return Edit(
        meta=meta,
        method=method,
        contexts=len(drawn),
        ids=listed,
        tokens=token_strings(model, listed),
        display=token_labels(model, listed),
        asked=[*nats.tolist(), *[float("nan")] * (len(listed) - len(ids))],
        achieved=change.log_probability[listed].tolist(),
        before=drawn.unedited.q[listed].tolist(),
        after=change.q[listed].tolist(),
        leverage=leverage(model, ids).tolist(),
        collateral=max(0.0, change.collateral),
        model=made,
    )


def change_of_bias(model: Model, ids: Sequence[int], nats: Tensor, contexts: Contexts, method: str) -> Tensor:
    """Return the change of the final bias, [D] in float64. After the first call it reuses the factors that are kept."""
    if method == "least-squares":
        return least_squares(model, ids, nats)
    return fisher(contexts, ids, nats) if method == "fisher" else exact(contexts, ids, nats)


def with_bias(model: Model, delta: Tensor, origin: str) -> tuple[Model, Tensor]:
    """Return a model with a changed final bias, which shares all other weights, and the change as its dtype stores it.

    The change is [D]; where the bias is folded, it is the unrounded `delta`.
    """
    w = model.weights
    old = w.ln_final.b
    name = f"{model.name} (bias edited)"
    if w.b_U is not None and old is None:
        b_U = (w.b_U.double() + w.W_U.double() @ delta).to(w.b_U.dtype)
        # The stored change differs from W delta only by rounding, which no change of D numbers could express.
        return model.with_weights({"b_U": b_U}, name=name, origin=origin), delta
    start = torch.zeros_like(delta) if old is None else old.double()
    stored = (start + delta).to(model.dtype)
    return model.with_weights({"ln_final.b": stored}, name=name, origin=origin), stored.double() - start


def read_changes(model: Model, changes: Mapping[Any, float]) -> tuple[list[int], Tensor]:
    """Return the ids of the tokens to change, and the nats to change them by.

    Raises InputError for no tokens, a token named twice, or a change that is not a finite number.
    """
    if not isinstance(changes, Mapping) or not changes:
        raise InputError(
            "changes name tokens with the nats to move them by, such as {' the': 1.0}: at least one was expected"
        )
    ids = [token_id(model, token) for token in changes]
    for token, index in zip(changes, ids, strict=True):
        if ids.count(index) > 1:
            raise InputError(f"{token!r} is named twice: each token once was expected")
    for token, nats in changes.items():
        check_nats(f"the change of {token!r}", nats)
    return ids, torch.tensor([float(nats) for nats in changes.values()], dtype=torch.float64, device=model.device)


def check_nats(what: str, value: Any) -> None:
    """Raise InputError for a value that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{what} is {shown(value)}: a finite number of nats was expected")


def check_method(method: str) -> None:
    """Raise InputError for an unknown way of editing."""
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown: {', '.join(METHODS)} are known")


def _moved(change: Tensor, asked: Sequence[int]) -> list[int]:
    """Return the other tokens whose log-probability moved most."""
    size = change.abs()
    size[list(asked)] = -1
    return size.topk(min(MOVED, len(size) - len(asked))).indices.tolist()
