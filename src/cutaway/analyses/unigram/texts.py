"""What the unigram analyses read of texts: next tokens, and the states that predict them.

A predicted position is one with a next token in its window, the first position included: what the model says there is
part of what it says. Documents are dealt into at most GROUPS groups, which intervals resample: with fewer documents
than that each is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.unigram.algebra import Contexts, Head, head
from cutaway.errors import InputError
from cutaway.model.model import Model
from cutaway.results.call import Code
from cutaway.stats.base import Keys, State, from_numpy, to_numpy
from cutaway.stats.sample import Sample
from cutaway.surveys.sinks import Seen
from cutaway.surveys.survey import survey
from cutaway.text.corpus import Corpus, Source, open_corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

SITE = "ln_final.out"
GROUPS = 64
Texts: TypeAlias = Source | Literal[False]  # False: no text at all


def corpus_source(corpus: Any, longest: int = 1200) -> Any:
    """A corpus as a parameter in meta: None, False and paths as they are, texts by name, spelled where short."""
    if corpus is None or corpus is False or isinstance(corpus, str):
        return corpus
    if isinstance(corpus, Mapping):
        plain = all(isinstance(text, str) for text in corpus.values())
    else:
        plain = isinstance(corpus, (list, tuple)) and all(isinstance(text, str) for text in corpus)
    opened = open_corpus(corpus)
    source = repr(corpus) if plain else opened.origin
    return Code(source if len(source) <= longest else "...", opened.name)


class Predicted:
    """A sink: by group of documents the counts of next tokens and, with `states`, the sums of the states that predict
    them; and of each fold (documents by turns) a sample of states with their next tokens."""

    def __init__(self, d_vocab: int, states: int = 0, folds: int = 1, size: int = 0, seed: int = 0) -> None:
        self.d_vocab, self.width, self.folds, self.size, self.seed = d_vocab, states, folds, size, seed
        self.counts = torch.zeros(GROUPS, d_vocab, dtype=torch.int64)  # G V
        self.sums = torch.zeros(GROUPS, states, dtype=torch.float64)  # G D
        self.documents: set[int] = set()  # their numbers
        self.samples = [Sample(size, seed) for _ in range(folds)] if size else []

    @property
    def sites(self) -> Sequence[str]:
        return (SITE,) if self.width else ()

    def add(self, seen: Seen) -> None:
        numbers, came, chosen, keys = predicted(seen)
        self.documents.update(numbers.tolist())
        group = numbers % GROUPS
        flat = (group * self.d_vocab + came).cpu()
        self.counts += torch.bincount(flat, minlength=GROUPS * self.d_vocab).view(GROUPS, -1)
        if not self.width or seen.run is None:
            return
        states = seen.run[SITE][chosen]  # n D
        self.sums = self.sums.to(states.device).index_add_(0, group, states.double())
        # Beside each state its next token: a float32 tells all ids below 2^24 apart.
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        both = torch.cat([wide, came[:, None].to(wide.dtype)], 1)
        for fold, sample in enumerate(self.samples):
            here = numbers % self.folds == fold
            if bool(here.any()):
                sample.add(both[here], keys=keys[to_numpy(here)])

    def merge(self, other: Predicted) -> None:
        if repr(self) != repr(other):
            raise InputError(f"{self} cannot take in {other}: settings must be the same")
        self.documents |= other.documents
        self.counts = self.counts + other.counts
        self.sums = self.sums + other.sums.to(self.sums.device)
        for mine, theirs in zip(self.samples, other.samples, strict=True):
            mine.merge(theirs)

    def empty(self) -> Predicted:
        return Predicted(self.d_vocab, self.width, self.folds, self.size, self.seed)

    def state(self) -> State:
        parts = {f"sample {i}/{key}": a for i, s in enumerate(self.samples) for key, a in s.state().items()}
        seen = np.array(sorted(self.documents), dtype=np.int64)
        return {"counts": to_numpy(self.counts), "sums": to_numpy(self.sums), "documents": seen, **parts}

    def load_state(self, state: State) -> None:
        self.counts, self.sums = from_numpy(state["counts"]), from_numpy(state["sums"])
        self.documents = set(state["documents"].tolist())
        for i, sample in enumerate(self.samples):
            lead = f"sample {i}/"
            sample.load_state({key.removeprefix(lead): a for key, a in state.items() if key.startswith(lead)})

    def __repr__(self) -> str:
        return f"Predicted({self.d_vocab}, {self.width}, {self.folds}, {self.size}, {self.seed})"


def predicted(seen: Seen) -> tuple[Tensor, Tensor, Tensor, Keys]:
    """Of a batch's predicted positions, in row-major order: the documents' numbers [n], the next tokens [n], where they
    are [batch, pos] and their keys."""
    ids = seen.batch.tokens.ids.to(seen.mask.device)
    chosen = torch.zeros_like(seen.mask, dtype=torch.bool)
    chosen[:, :-1] = seen.mask[:, 1:].bool()
    came = ids[:, 1:][chosen[:, :-1]]
    numbers = torch.tensor([row.number for row in seen.batch.rows], device=ids.device)[:, None].expand_as(ids)[chosen]
    return numbers, came, chosen, seen.keys[to_numpy(chosen[seen.mask.bool()])]


def read_texts(model: Model, corpus: Source, sink: Predicted, bos: bool) -> Corpus:
    """One pass of a sink over a corpus, which is given back open.

    Raises InputError for a corpus without a prediction, and for states that are not finite.
    """
    source, found = open_corpus(corpus), sink
    survey(model, source, {"predicted": sink}, bos=bos)
    if not found.counts.any():
        raise InputError(f"corpus {source.name}: no document has two tokens, there is nothing to predict")
    if not found.sums.isfinite().all():
        raise InputError(f"the states of {model.name} on {source.name} are not finite: look at the edits and the dtype")
    return source


_CONTEXTS: WeakKeyDictionary[Model, dict[Any, Contexts]] = WeakKeyDictionary()


def contexts_of(model: Model, corpus: Texts, size: int, seed: int, bos: bool) -> Contexts:
    """Contexts of an edit: a sample of predicted positions; with corpus=False one, where the model sees no text, whose
    prediction is softmax(u). Those of the bundled documents and of no text are kept as long as the model."""
    key = (model.fresh_fingerprint(), corpus is None, size, seed, bos)
    kept = _CONTEXTS.setdefault(model, {})
    if key in kept and (corpus is None or corpus is False) and not model.active_edits:
        return kept[key]
    top = head(model)
    if corpus is False:
        states = top.b[None]
    else:
        if size < 1:
            raise InputError(f"contexts={size}: a whole number of at least 1 was expected")
        sink = Predicted(model.config.d_vocab, model.config.d_model, 1, size, seed)
        read_texts(model, corpus, sink, bos)
        states = split(sink.samples[0])[0]
    made = Contexts(top.W, states, top.c)
    if (corpus is None or corpus is False) and not model.active_edits:
        kept[key] = made
    return made


def split(sample: Sample) -> tuple[Tensor, Tensor]:
    """A sample of states with next tokens -> states [n, D] in float64, ids [n]."""
    values = sample.result().values
    return values[:, :-1].double(), values[:, -1].long()


def mean_signal(found: Predicted, top: Head) -> Tensor:
    """E[s]: the mean of ln_final.out over predicted positions, without the bias."""
    return found.sums.sum(0) / found.counts.sum() - top.b


# --- counts ---


def training_counts() -> NDArray[np.int64]:
    """How often each token stands in the text that the bundled model was trained on: int64 [8192]."""
    from cutaway.model.checkpoints.checkpoint import bundled_folder

    counts: NDArray[np.int64] = np.load(bundled_folder() / "train_counts.npy")
    return counts


def checked_counts(model: Model, counts: Any) -> Tensor:
    """Counts of a model's vocabulary, int64 or float64 [V].

    Raises InputError for another length, negative or infinite ones, or none above 0; and for the bundled model's counts
    where the vocabulary is not the bundled one's.
    """
    try:
        found = torch.as_tensor(np.asarray(counts))
    except (TypeError, ValueError) as error:
        raise InputError(f"counts cannot be read as numbers: {error}") from None
    V = model.config.d_vocab
    if found.dim() != 1 or len(found) != V or found.is_complex() or found.dtype == torch.bool:
        shape = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
        raise InputError(
            f"counts are {shape}, and the vocabulary of {model.name} has {V:,}: one number a token was expected"
        )
    if not found.double().isfinite().all() or bool((found < 0).any()) or not bool((found > 0).any()):
        raise InputError(
            "counts hold negative numbers, infinities or nothing above 0: how often each token occurs was expected"
        )
    if is_training(found) and model.has_tokenizer and model.tokenizer.vocabulary != _bundled_vocabulary():
        raise InputError(f"these are the bundled model's training counts, and {model.name} has another vocabulary")
    return found.to(model.device)


def is_training(counts: Any) -> bool:
    """Whether these are the bundled model's counts."""
    return bool(np.array_equal(np.asarray(counts), training_counts()))


def _bundled_vocabulary() -> list[str]:
    from cutaway.model.checkpoints.checkpoint import bundled_folder
    from cutaway.text.tokens import Tokenizer

    found = Tokenizer.from_folder(bundled_folder())
    return found.vocabulary if found else []


def counts_source(counts: Any) -> Code:
    """Counts as a parameter in meta."""
    if is_training(counts):
        return Code("cutaway.unigram.training_counts()", "training counts")
    return Code("...", "counts")
