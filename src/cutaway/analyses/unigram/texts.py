"""Read the next tokens in a corpus, and the states that predict them.

A predicted position is one with a next token in its window, the first position included: what the model says there is
part of what it says. Documents are dealt into at most GROUPS groups, which intervals resample: with fewer documents
than that, each document is a group of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.model import Model
from cutaway.stats.base import Keys, State, from_numpy, to_numpy
from cutaway.stats.sample import Sample
from cutaway.surveys.sinks import Seen, check_alike
from cutaway.surveys.state import StatePath
from cutaway.surveys.survey import survey
from cutaway.text.corpus import Corpus, Source, open_corpus

SITE = "ln_final.out"
GROUPS = 64


class Predicted:
    """A sink of predicted positions: counts of their next tokens by group of documents.

    With `states` (the width of a state), also the sums of the states that predict them; with `size`, also a sample of
    that many states with their next tokens, for each of `folds` folds (document i is in fold i % folds).
    """

    def __init__(self, d_vocab: int, states: int = 0, folds: int = 1, size: int = 0, seed: int = 0) -> None:
        self.d_vocab, self.width, self.folds, self.size, self.seed = d_vocab, states, folds, size, seed
        self.counts = torch.zeros(GROUPS, d_vocab, dtype=torch.int64)  # G V
        self.sums = torch.zeros(GROUPS, states, dtype=torch.float64)  # G D
        self.documents: set[int] = set()  # their numbers
        self.samples = [Sample(size, seed) for _ in range(folds)] if size else []

    def settings(self) -> dict[str, Any]:
        """Return the arguments that it was made with."""
        names = {"d_vocab": self.d_vocab, "states": self.width, "folds": self.folds}
        return names | {"size": self.size, "seed": self.seed}

    @property
    def sites(self) -> Sequence[str]:
        """Return the sites to capture."""
        return (SITE,) if self.width else ()

    def add(self, seen: Seen) -> None:
        """Count one batch's predicted positions."""
        numbers, next_ids, chosen, keys = predicted_positions(seen)
        self.documents.update(numbers.tolist())
        group = numbers % GROUPS
        flat = (group * self.d_vocab + next_ids).cpu()
        self.counts += torch.bincount(flat, minlength=GROUPS * self.d_vocab).view(GROUPS, -1)
        if not self.width or seen.run is None:
            return
        states = seen.run[SITE][chosen]  # n D
        self.sums = self.sums.to(states.device).index_add_(0, group, states.double())
        # Beside each state its next token: a float32 tells all ids below 2^24 apart.
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        both = torch.cat([wide, next_ids[:, None].to(wide.dtype)], 1)
        for fold, sample in enumerate(self.samples):
            inside = numbers % self.folds == fold
            if bool(inside.any()):
                sample.add(both[inside], keys=keys[to_numpy(inside)])

    def merge(self, other: Predicted) -> None:
        """Add what another sink has counted. Raises InputError for one with other settings."""
        check_alike(self, other, "settings")
        self.documents |= other.documents
        self.counts = self.counts + other.counts
        self.sums = self.sums + other.sums.to(self.sums.device)
        for mine, theirs in zip(self.samples, other.samples, strict=True):
            mine.merge(theirs)

    def empty(self) -> Predicted:
        """Return a new sink with the same settings that has seen nothing."""
        return Predicted(**self.settings())

    def state(self) -> State:
        """Return everything counted, as plain arrays."""
        parts = {f"sample {i}/{key}": a for i, s in enumerate(self.samples) for key, a in s.state().items()}
        numbers = np.array(sorted(self.documents), dtype=np.int64)
        return {"counts": to_numpy(self.counts), "sums": to_numpy(self.sums), "documents": numbers, **parts}

    def load_state(self, state: State) -> None:
        """Replace what was counted by a state that state() returned."""
        self.counts, self.sums = from_numpy(state["counts"]), from_numpy(state["sums"])
        self.documents = set(state["documents"].tolist())
        for i, sample in enumerate(self.samples):
            prefix = f"sample {i}/"
            sample.load_state({key.removeprefix(prefix): a for key, a in state.items() if key.startswith(prefix)})

    def __repr__(self) -> str:
        return f"Predicted({self.d_vocab}, {self.width}, {self.folds}, {self.size}, {self.seed})"


def predicted_positions(seen: Seen) -> tuple[Tensor, Tensor, Tensor, Keys]:
    """Find a batch's predicted positions.

    Returns, in row-major order: the numbers of their documents [n], their next tokens [n], a boolean mask [batch, pos]
    that is True at them, and their keys.
    """
    ids = seen.batch.tokens.ids.to(seen.mask.device)
    chosen = torch.zeros_like(seen.mask, dtype=torch.bool)
    chosen[:, :-1] = seen.mask[:, 1:].bool()
    next_ids = ids[:, 1:][chosen[:, :-1]]
    numbers = torch.tensor([row.number for row in seen.batch.rows], device=ids.device)[:, None].expand_as(ids)[chosen]
    return numbers, next_ids, chosen, seen.keys[to_numpy(chosen[seen.mask.bool()])]


def read_texts(model: Model, corpus: Source, sink: Predicted, bos: bool, state: StatePath = None) -> Corpus:
    """Feed a sink with a corpus in one pass, and return the open corpus.

    Raises InputError for a corpus without a predicted position, and for states that are not finite.
    """
    source = open_corpus(corpus)
    survey(model, source, {"predicted": sink}, bos=bos, state=state)
    if not sink.counts.any():
        raise InputError(f"corpus {source.name}: no document has two tokens, there is nothing to predict")
    if not sink.sums.isfinite().all():
        raise InputError(f"the states of {model.name} on {source.name} are not finite: look at the edits and the dtype")
    return source


def split(sample: Sample) -> tuple[Tensor, Tensor]:
    """Split a sample of states with their next tokens into states [n, D] in float64 and ids [n]."""
    values = sample.result().values
    return values[:, :-1].double(), values[:, -1].long()
