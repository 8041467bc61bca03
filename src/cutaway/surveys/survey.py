"""One pass of a model over a corpus, feeding sinks.

    found = survey(model, corpus, {"resid_post": [Moments(), Sample(2000)], "attn_out": [Moments()], "ids": [...]})
    found["blocks.3.resid_post"]["moments"].result().mean

A sink says which sites it wants and takes each run; the pass captures only those, stops after the last of them, and
goes through the corpus once however many sinks there are. Statistics of one site, and any sink of one site that has a
method `take`, see its values as they arise, so that no more than one of them is in memory at a time. With
`state="survey.npz"` it saves itself as it goes, and takes up from there when it is called again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cutaway.errors import InputError
from cutaway.files import expand_user
from cutaway.model.modes import plainly
from cutaway.model.taps.tap import Context, only_looks
from cutaway.progress import meter
from cutaway.stats.base import Statistic
from cutaway.stopping import undisturbed
from cutaway.surveys.sinks import IDS, Seen, Sink, SiteStatistics, _seen
from cutaway.surveys.state import _about, _new, _Progress, _resume, _save
from cutaway.text import batches as packing
from cutaway.text.batches import Batch
from cutaway.text.corpus import Corpus, Problems, Source, open_corpus

if TYPE_CHECKING:
    from cutaway.model.model import Model

BATCH_TOKENS = 4096  # width x rows of a batch
SAVE_EVERY = 60.0  # seconds between saved states
SINKS = "site patterns with statistics, such as {'resid_post': [Moments()]}"


class Survey(Mapping[str, Any]):
    """A finished pass: sinks by name (for statistics: the site), and what was read."""

    def __init__(self, sinks: dict[str, Any], documents: int, tokens: int, problems: Problems) -> None:
        self._sinks = sinks
        self.documents = documents
        self.tokens = tokens
        self.problems = problems

    def __getitem__(self, name: str) -> Any:
        if name not in self._sinks:
            raise InputError(f"this survey has no {name!r}: it has {', '.join(self._sinks)}")
        return self._sinks[name]

    def __iter__(self) -> Any:
        return iter(self._sinks)

    def __len__(self) -> int:
        return len(self._sinks)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        left_out = f"; {self.problems}" if self.problems else ""
        return f"Survey of {self.documents:,} documents, {self.tokens:,} tokens: {', '.join(self)}{left_out}"


Sinks = Mapping[str, Sequence[Statistic] | Sink]


@plainly
def survey(
    model: Model,
    corpus: Source = None,
    sinks: Sinks | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    state: str | os.PathLike[str] | None = None,
    save_every: float = SAVE_EVERY,
    bos: bool = False,
) -> Survey:
    """Run a model over a corpus once and feed sinks.

    Args:
        corpus: whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents.
        sinks: site pattern -> statistics, of which every matching site gets its own; "ids" are the token ids; or any
            name -> a Sink of your own, which goes on from what it has seen.
        batch_tokens: width x rows of a batch, padding included.
        state: a file that the pass saves itself to every `save_every` seconds and at an interruption (Ctrl-C lets the
            batch under way finish), and goes on from if it is there. It must be of the same model, corpus, sinks and
            settings.

    Raises:
        SiteError: a pattern that matches nothing.
        InputError: an empty corpus, no sinks, a state of another survey.
    """
    source = open_corpus(corpus)
    named = expand(model, {} if sinks is None else sinks)
    if not named:
        raise InputError(f"a survey needs sinks: {SINKS}")
    about: dict[str, Any] = {}
    progress = _Progress()
    if state is not None:
        about = _about(model, source, named, batch_tokens, bos)  # hashes the weights: anew, and only for a state
        state = expand_user(state)
        if state.exists():
            _resume(state, about, named, progress)
        else:
            _save(state, about, named, progress)  # what cannot be written is known before the work
    batches = packing.model_batches(model, source, batch_tokens, bos)
    saved, whole = time.monotonic(), True  # whole: every sink has seen the same batches
    try:
        with meter("surveying", "tokens") as advance:
            for batch in _new(batches, progress, state):
                with undisturbed() if state is not None else nullcontext():
                    whole = False
                    feed(model, batch, list(named.values()))
                    progress.count(batch)
                    whole = True
                advance(batch.size, _expected(source, progress.tokens + batch.left))
                if state is not None and time.monotonic() - saved > save_every:
                    _save(state, about, named, progress)
                    saved = time.monotonic()
    finally:
        if state is not None and whole:
            _save(state, about, named, progress)
    return Survey(named, progress.documents, progress.tokens, source.problems)


def _expected(corpus: Corpus, read: int) -> float | None:
    """Tokens in the whole corpus, judged by those of the documents read; None where their number is not known."""
    return read * corpus.total / corpus.read if corpus.total and corpus.read else None


def feed(model: Model, batch: Batch, sinks: Sequence[Sink]) -> None:
    """Run one batch and give every sink what it wants."""
    seen = _seen(model, batch)
    streamed: dict[str, list[Callable[[Tensor, Seen], object]]] = {}
    others = []
    for sink in sinks:
        take, wanted = getattr(sink, "take", None), model.sites().match(sink.sites)
        if take and len(wanted) == 1:
            streamed.setdefault(wanted[0].name, []).append(take)
        else:
            others.append(sink)
    capture = sorted({site for sink in others for site in sink.sites})

    def show(values: Tensor, context: Context) -> None:
        for take in streamed[context.site]:
            take(values, seen)

    if capture or streamed:
        run = model.run(batch.tokens, capture=capture, watch=dict.fromkeys(streamed, only_looks(show)), logits=None)
        seen = replace(seen, run=run)
    for sink in others:
        sink.add(seen)


def expand(model: Model, sinks: Sinks) -> dict[str, Any]:
    """Return one sink for each site that a pattern with statistics names, by the site's name; other sinks as they are.

    Raises SiteError for a pattern that matches nothing, InputError for what is neither statistics nor a sink.
    """
    if not isinstance(sinks, Mapping):
        raise InputError(f"{type(sinks).__name__} was given as sinks: a mapping from {SINKS} was expected")
    named: dict[str, Any] = {}
    statistics: dict[str, list[Statistic]] = {}  # a site's from all the patterns that match it
    for name, given in sinks.items():
        if _is_sink(given):
            named[name] = given
            continue
        found = _statistics(name, given)
        for site in [IDS] if name == IDS else _sites(model, name):
            statistics[site] = [*statistics.get(site, []), *found]
    for site in statistics:
        if site in named:
            raise InputError(f"statistics are asked for at {site!r}, and a sink has that name: give the sink another")
    return named | {site: SiteStatistics(site, found) for site, found in statistics.items()}


def _is_sink(given: Any) -> bool:
    return not isinstance(given, (type, Statistic)) and hasattr(given, "add") and hasattr(given, "sites")


def _statistics(name: Any, given: Any) -> list[Statistic]:
    """Return statistics in a list. Raises InputError for anything else, telling what it is."""
    if isinstance(given, Statistic):
        raise InputError(f"{name!r}: {given} is no sink: put statistics in a list")
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = [item for item in items if not isinstance(item, Statistic)]
    if wrong or not items:
        got = "an empty list"
        for item in wrong[:1]:
            got = f"the class {item.__name__}" if isinstance(item, type) else repr(item)[:60]
        raise InputError(f"{name!r}: {got} was given: statistics in a list, [Moments()], or a sink were expected")
    return items


def _sites(model: Model, pattern: str) -> list[str]:
    found = model.sites().match(pattern)
    for site in found:
        if not site.shape.startswith("B P"):
            raise InputError(f"{site.name!r} is {site.shape}: statistics are of sites [batch, pos, ...]")
    return [site.name for site in found]
