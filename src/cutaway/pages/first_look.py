"""Choose the results that `cutaway report` shows: a first look at a model, on a text or on documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cutaway.analyses import (
    ablation,
    anatomy,
    attention,
    attribution,
    causal_trace,
    logit_lens,
    norms,
    patching,
    predictions,
    states,
    unigram,
)
from cutaway.analyses.unigram.head import Head
from cutaway.analyses.verification import verify
from cutaway.errors import InputError
from cutaway.results.result import Result
from cutaway.text.corpus import bundled

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.text.corpus import Document

PROMPTS = {
    True: ["The people of the United", "I have the honor to", "The war in", "We ask the Congress to"],
    False: ["The people of the United", "The capital of France is", "Once upon a", "2 + 2 ="],
}
FACTS = {  # a prompt and its subject
    True: ("Fellow-citizens of the Senate and House of", "Senate and House"),
    False: ("The Eiffel Tower is located in the city of", "Eiffel Tower"),
}
PAIRS = {  # clean and corrupted
    True: ("The Soviet Union and the free", "The Indian Union and the free"),
    False: ("The Eiffel Tower is located in the city of", "The Colosseum is located in the city of"),
}
REPLICATES = 19  # for p-values in a report, which are then at least 1 / 20
MOST_LAYERS = 12  # whose states a report compares
BEGINNING = 4000  # characters of each document that the lens and the norms are taken from in a report
SHORTEST = 30  # rows that a regression in a report has at least
ABLATED = 600  # characters of each document that components are ablated in
MOST_WORK = 2e12  # of an ablation: tokens x components x parameters, some ten seconds
READ_ALONG = 192  # tokens of a document shown in a report


def standard(model: Model, text: str | None = None, documents: Sequence[Document] = ()) -> Iterator[Result]:
    """Yield the results of a first look at a model, each as soon as it is computed.

    With a text, they are of that text; with documents, of the opening of the last one and the losses of all. Without
    either, and for a checkpoint without a tokenizer, there is only what needs no text.
    """
    yield anatomy.read(model)
    yield verify(model)
    if text is not None:
        yield anatomy.tokens(model, text)
        yield predictions.along(model, text)
        yield logit_lens.read(model, text)
        yield attention.read(model, text)
        yield predictions.next_tokens(model, text)
        yield attribution.direct(model, text)
        yield from _ablation(model, text)
        yield from _norms(model, text)
        return
    if not (model.has_tokenizer or documents):
        return
    prompts = PROMPTS[model.bundled]
    yield predictions.next_tokens(model, prompts)
    yield attribution.direct(model, prompts[0])
    yield from _trace(model)
    yield from _patching(model)
    if documents:
        opening = _opening(model, documents[-1].text)
        yield predictions.along(model, opening)
        yield logit_lens.read(model, opening)
        yield attention.read(model, opening)
        beginnings = {document.id: document.text[:BEGINNING] for document in documents}
        yield logit_lens.average(model, beginnings)
        yield from _ablation(model, {document.id: document.text[:ABLATED] for document in documents})
        yield from _norms(model, beginnings)
        # The bundled ones go by None, so that the call in the report is one that anybody can make.
        texts = None if list(documents) == bundled() else {document.id: document.text for document in documents}
        yield predictions.losses(model, texts)
        yield from _states(model, texts)
        yield from _unigram(model, documents)


def _trace(model: Model) -> Iterator[Result]:
    """Yield the trace of a fact, unless the model has so many layers that it would take longer than all the rest."""
    if (layers := model.config.n_layers) > MOST_LAYERS:
        message = "causal tracing is left out: %s layers take long, call cutaway.causal_trace.trace"
        logging.getLogger(__name__).warning(message, layers)
        return
    yield causal_trace.trace(model, *FACTS[model.bundled])


def _patching(model: Model) -> Iterator[Result]:
    """Yield which states and heads tell two texts apart, if they have equally many tokens and different answers."""
    try:
        clean, corrupted = PAIRS[model.bundled]
        layers = _spread(model.config.n_layers)
        sites = ["resid_pre", "attn_out", "mlp_out"] if layers is None else "resid_pre"
        yield patching.run(model, clean, corrupted, sites, layers=layers)
        yield patching.path(model, clean, corrupted, ["heads", "mlps"])
    except InputError as error:  # another tokenizer, or a model that answers both alike
        logging.getLogger(__name__).warning("patching is left out: %s", error)


def _ablation(model: Model, text: str | dict[str, str]) -> Iterator[Result]:
    """Yield what breaks without each head and MLP; for larger models, without each MLP only."""
    c, rows = model.config, model.tokenizer.encode([text] if isinstance(text, str) else list(text.values()))[0]
    predicted = sum(max(len(ids) - 1, 0) for ids in rows)
    if predicted < 2:  # by means a single one changes nothing
        return
    for components, cells in ((("heads", "mlps"), c.n_layers * (c.n_heads + 1)), ("mlps", c.n_layers)):
        if predicted * cells * model.n_parameters < MOST_WORK:
            yield ablation.run(model, text, components)
            return
    logging.getLogger(__name__).warning("ablation is left out: it would take long, call cutaway.ablation.run")


def _states(model: Model, texts: dict[str, str] | None) -> Iterator[Result]:
    """Yield how Gaussian the states are, if there is enough text."""
    try:
        yield states.measure(model, texts, layers=_spread(model.config.n_layers), replicates=REPLICATES)
    except InputError as error:  # fewer tokens than the sample
        logging.getLogger(__name__).warning("the states' distributions are left out: %s", error)


def _spread(layers: int) -> list[int] | None:
    """Return at most MOST_LAYERS layers, the first and the last among them; None for all."""
    if layers <= MOST_LAYERS:
        return None
    return sorted({round(i * (layers - 1) / (MOST_LAYERS - 1)) for i in range(MOST_LAYERS)})


def _norms(model: Model, text: str | dict[str, str]) -> Iterator[Result]:
    """Yield norms, and their regression if the text is long enough."""
    found = norms.measure(model, text)
    yield found
    if found.rows(lags=2) >= SHORTEST:
        yield found.regress(lags=2)


def _unigram(model: Model, documents: Sequence[Document]) -> Iterator[Result]:
    """Yield what the final bias knows of unigram statistics; for the bundled model, of its training text's."""
    own = model.bundled
    if not Head.from_model(model).silent:
        yield unigram.read(model)
        yield unigram.compare(model, unigram.training_counts() if own else {d.id: d.text for d in documents})
    openings = {d.id: d.text[:BEGINNING] for d in documents}
    predicted = {name: text for name, text in openings.items() if len(model.tokenizer.encode([text])[0][0]) > 1}
    if len(predicted) > 1:
        yield unigram.claim(model, predicted, unigram.training_counts() if own else None, states=0)


def _opening(model: Model, text: str) -> str:
    """Return the first whole words of a text, as text: the call in the report then reads the same tokens."""
    tokens = model.tokenizer.tokens(text[: 40 * READ_ALONG]).first(min(READ_ALONG, model.config.n_ctx))
    end = tokens.offsets[0][-1][1] if tokens.offsets and tokens.offsets[0] else 0
    opening = text[:end]
    return opening if end == len(text) else opening.rsplit(maxsplit=1)[0]
