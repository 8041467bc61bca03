"""Read the patterns of every head on one text, or average their scores over documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cutaway.analyses.attention.result import REPETITION, Attention, AttentionMeans
from cutaway.analyses.attention.scores import (
    SCORES,
    SITE,
    HeadScores,
    SharedRepeats,
    random_repeated,
    score_sums,
    scores_of_rows,
)
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.results.bootstrap import means_over_documents
from cutaway.results.call import analysis, call_input, meta_of
from cutaway.results.labels import token_labels, token_strings
from cutaway.surveys.state import StatePath
from cutaway.surveys.survey import survey
from cutaway.text.corpus import Source, open_corpus, refuse_path

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model


@analysis("attention.read")
def read(model: Model, text: Inputs, *, repeats: int = 4, seed: int = 0, bos: bool = False) -> Attention:
    """Return the patterns and scores of every head on one text.

    Args:
        text: a text; or Tokens or ids [1, pos].
        repeats: how many random sequences duplicate and induction are measured on. Each is 50 different tokens
            (fewer where the context or the vocabulary is small), none of them special, twice over.
        seed: equal seeds give equal sequences.
        bos: put the end-of-text token in front of the text and of the random sequences.

    Raises InputError for more than one text, an empty or too long one, fewer than 1 repeat.
    """
    repeats, seed = whole("repeats", repeats, 1, MOST_DRAWS), seed_of(seed)
    refuse_path(text)
    tokens = model.tokens(text, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} texts were given: attention.read reads one; attention.average reads several")
    [ids] = tokens.rows()
    tokens = tokens.first(len(ids))
    run = model.run(tokens, capture=SITE, logits=None)
    patterns = torch.stack([run[site.name][0].cpu() for site in model.sites().match(SITE)])  # layer head query key
    totals = [score_sums(pattern, torch.tensor(ids)) for pattern in patterns]
    scores = torch.stack([total / count for total, count in totals])
    random = random_repeated(model, repeats, seed, bos)
    columns = [SCORES.index(name) for name in REPETITION]
    scores[..., columns] = scores_of_rows(model, random)[..., columns]
    return Attention(
        meta=meta_of(model, call_input(model, text, [ids])),
        ids=ids,
        tokens=token_strings(model, ids),
        display=token_labels(model, ids),
        patterns=patterns,
        scores=scores,
        front=random.shape[1] % 2,
        period=random.shape[1] // 2,
    )


@analysis("attention.average")
def average(
    model: Model,
    corpus: Source = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    bos: bool = False,
    state: StatePath = None,
) -> AttentionMeans:
    """Return the scores of every head over the tokens of documents, read in windows of the model's context.

    Duplicate and induction are measured where a token came before in its window. One layer's patterns of one batch are
    in memory at a time.

    Args:
        corpus: whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents.
        resamples: bootstrap draws of whole documents for the intervals, which are percentiles of the drawn means.
        seed: equal seeds give equal intervals.
        bos: put the end-of-text token in front of every window.
        state: a file that the pass saves itself to, and resumes from, as in `cutaway.survey`.

    Raises InputError for a corpus without two tokens in any document.
    """
    resamples, seed = whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    source = open_corpus(corpus)
    repeats = SharedRepeats()
    sinks = {site.name: HeadScores(site.name, repeats) for site in model.sites().match(SITE)}
    survey(model, source, sinks, bos=bos, state=state)
    layers = [sink.totals() for sink in sinks.values()]
    counts = layers[0][1]  # document score; the same for every layer
    if not counts[:, 0].sum():
        raise InputError(f"corpus {source.name}: no document has two tokens, there is no attention to measure")
    totals = torch.stack([total for total, _ in layers], 1)  # document layer head score
    used = counts[:, 0] > 0
    counts, totals = counts[used], totals[used]
    means, low, high = means_over_documents(totals, counts[:, None, None], resamples, seed)
    meta = meta_of(model, corpus)
    return AttentionMeans(
        meta=meta | {"input": source.name},
        scores=means,
        low=low,
        high=high,
        queries=[int(count) for count in counts.sum(0)],
        documents=len(counts),
    )
