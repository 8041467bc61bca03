"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.predictions.metrics import checked_top
from cutaway.analyses.unigram.algebra import Contexts, Head, closest, divergence, head, match, smoothed
from cutaway.analyses.unigram.result import Comparison, ReadOut
from cutaway.analyses.unigram.texts import (
    Predicted,
    checked_counts,
    corpus_source,
    counts_source,
    read_texts,
    training_counts,
)
from cutaway.arguments import is_whole
from cutaway.errors import InputError
from cutaway.files import expand_user
from cutaway.model.model import Model
from cutaway.model.modes import plainly
from cutaway.results.call import describe
from cutaway.results.labels import token_id, token_labels, token_strings


@plainly
def read(model: Model, top: int = 10, also: Sequence[str | int] | None = None) -> ReadOut:
    """The likeliest tokens under the softmax of the unembedded final bias, and tokens asked for.

    Args:
        also: tokens by their text, such as " war" (mind the space), or by id.

    Raises:
        InputError: a model without a final bias, or one whose bias says the same of all tokens; an id outside the
            vocabulary.
        TokenizerError: a text that is not exactly one token; the message names its pieces.
    """
    top = checked_top(model, top)
    several: Any = () if also is None else also
    also = [several] if isinstance(several, str) or is_whole(several) else list(several)
    wanted = [token_id(model, token) for token in also]
    u = _bias(model).u.cpu()
    ids = [*u.topk(top).indices.tolist(), *wanted]
    log_p = u.log_softmax(0)
    p = log_p.exp()
    return ReadOut(
        meta=describe(model, "unigram.read", None, top=top, also=also or None),
        ids=ids,
        tokens=token_strings(model, ids),
        display=token_labels(model, ids),
        probabilities=p[ids].tolist(),
        ranks=[1 + int((u > u[i]).sum()) for i in ids],
        asked=[False] * top + [True] * len(wanted),
        d_vocab=len(u),
        perplexity=float((-(p * log_p).sum()).exp()),
    )


@plainly
def compare(model: Model, against: Any = None, *, bos: bool = False) -> Comparison:
    """KL and correlation of the read-out with a unigram distribution, beside yardsticks of what a bias can do.

    Yardsticks: the uniform distribution; u times the number that serves best (its direction, whatever its size); the
    best bias, which minimises KL(p || softmax(W_U b)); least squares, which fits W_U b + c to log p over the tokens
    that occur (c, which the softmax does not see, is dropped).

    Args:
        against: a corpus (whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents), whose next
            tokens are counted; or counts, an array or tensor [V], or the path of a .npy file that holds one.
            `unigram.training_counts()` are those of the bundled model's whole training text.

    Raises InputError for a model without a final bias, counts of another vocabulary, a corpus with nothing to predict.
    """
    top = _bias(model)
    counts, name, parameter = _counts(model, against, bos)
    counts = counts.to(top.W.device)
    p = smoothed(counts)
    seen = counts > 0
    one = Contexts(top.W, torch.zeros_like(top.b)[None])
    best = match(one, top.W.T @ p)
    line = Contexts(top.u[:, None], top.u.new_zeros(1, 1))
    scaled = match(line, (top.u @ p)[None])
    fitted = _least_squares(top.W[seen], p[seen].log())
    kl = {
        "final bias": top.u,
        "uniform": torch.zeros_like(top.u),
        "final bias, rescaled": top.u * scaled.beta,
        "best bias of this width": top.W @ best.beta,
        "least squares on log p": top.W @ fitted,
    }
    x, y = top.u[seen] - top.u[seen].mean(), p[seen].log() - p[seen].log().mean()
    V = model.config.d_vocab
    return Comparison(
        meta=describe(model, "unigram.compare", None, against=parameter, bos=bos) | {"input": name},
        against=name,
        counts=counts.cpu(),
        p=p.cpu(),
        u=top.u.cpu(),
        tokens=token_strings(model, range(V)),
        display=token_labels(model, range(V)),
        kl={name: max(0.0, float(divergence(p, z))) for name, z in kl.items()},
        r=float(x @ y / (x.norm() * y.norm())),
        slope=float(x @ y / (x @ x)),
        scale=float(scaled.beta),
        evaluations=best.evaluations,
    )


def _bias(model: Model) -> Head:
    """The head. Raises InputError where the final bias says nothing."""
    top = head(model)
    if top.silent:
        raise InputError(
            f"{model.name} has no final bias: the final LayerNorm's is absent or all zeros, and softmax(W_U b) uniform"
        )
    return top


def _counts(model: Model, against: Any, bos: bool) -> tuple[Tensor, str, Any]:
    """Counts, whose they are, and how they are spelled in meta."""
    if isinstance(against, (str, Path)) and Path(against).suffix == ".npy":
        return checked_counts(model, counts_from(str(against))), str(against), str(against)
    if isinstance(against, (np.ndarray, Tensor)):
        given = against.cpu() if isinstance(against, Tensor) else against
        literal = counts_source(given)
        return checked_counts(model, given), str(literal), literal
    sink = Predicted(model.config.d_vocab)
    source = read_texts(model, against, sink, bos)
    return sink.counts.sum(0), source.name, corpus_source(against)


def counts_from(source: str) -> Any:
    """Counts from a .npy file; "training": the bundled model's. Raises InputError for a file that holds none."""
    if source == "training":
        return training_counts()
    try:
        return np.load(expand_user(source), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise InputError(f"{source} cannot be read as counts (a .npy file, or 'training'): {reason}") from None


def _least_squares(W: Tensor, log_p: Tensor) -> Tensor:
    """Return the b of the best W b + c, by what is centred, which leaves c out."""
    return closest(W - W.mean(0), log_p - log_p.mean())
