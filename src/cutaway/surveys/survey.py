"""Run a model over a corpus once, and feed sinks.

    found = survey(model, corpus, {"resid_post": [Moments(), Sample(2000)], "attn_out": [Moments()], "ids": [...]})
    found["blocks.3.resid_post"]["moments"].result().mean

A sink says which sites it wants and is given each run; the pass captures only the wanted sites, stops after the last of
them, and goes through the corpus once however many sinks there are. Statistics of one site, and any sink of one site
that has a method `take`, see the site's values as they arise, so that the values of no more than one site are in memory
at a time. With `state="survey.npz"` a survey saves itself as it goes, and resumes from the file when called again.

"""

from __future__ import annotations

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
from cutaway.progress import Advance, meter
from cutaway.stats.base import Statistic
from cutaway.stopping import undisturbed
from cutaway.surveys.reading import BATCH_TOKENS
from cutaway.surveys.sinks import IDS, Seen, Sink, SiteStatistics
from cutaway.surveys.state import Progress, StatePath, identity, resume, save, unseen
from cutaway.text import batches as packing
from cutaway.text.batches import Batch
from cutaway.text.corpus import Corpus, Problems, Source, open_corpus

if TYPE_CHECKING:
    from cutaway.model.model import Model


SAVE_EVERY = 60.0  # seconds between saved states
SINKS = "site patterns with statistics, such as {'resid_post': [Moments()]}"


class Survey(Mapping[str, Any]):
    """A finished pass: sinks by name (statistics by their site), and what was read."""

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
        """Return the names that IPython completes in brackets."""
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
    state: StatePath = None,
    save_every: float = SAVE_EVERY,
    bos: bool = False,
) -> Survey:
    """Run a model over a corpus once, and feed sinks.

    Args:
        corpus: whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents.
        sinks: a mapping from site patterns to statistics, of which every matching site gets its own ("ids" stands for
            the token ids), or from any name to a Sink of your own, which adds to what it has already counted.
        batch_tokens: width x rows of a batch, padding included.
        state: a file that the pass saves itself to every `save_every` seconds and at an interruption (Ctrl-C lets the
            current batch finish), and resumes from if it exists. It must be of the same model, corpus, sinks and
            settings.

    Raises:
        SiteError: a pattern that matches nothing.
        InputError: an empty corpus, no sinks, a state of another survey.
    """
    source = open_corpus(corpus)
    named = expand(model, {} if sinks is None else sinks)
    if not named:
        raise InputError(f"a survey needs sinks: {SINKS}")
    this_survey: dict[str, Any] = {}
    progress = Progress()
    if state is not None:
        this_survey = identity(model, source, named, batch_tokens, bos)  # hashes the weights, so only for a state
        state = expand_user(state)
        if state.exists():
            resume(state, this_survey, named, progress)
        else:
            save(state, this_survey, named, progress)  # so that a path that cannot be written fails before the work
    batches = packing.model_batches(model, source, batch_tokens, bos)
    saved, whole = time.monotonic(), True  # whole: every sink has seen the same batches
    try:
        with meter("reading documents", "tokens") as advance:
            before = progress.tokens  # by the survey that this one goes on from
            for batch in unseen(batches, progress, state):
                expected = _expected(source, progress.tokens + batch.size + batch.left)
                shown = _Shown(advance, batch.size, None if expected is None else expected - before)
                with undisturbed() if state is not None else nullcontext():
                    whole = False
                    feed(model, batch, list(named.values()), shown)
                    progress.count(batch)
                    whole = True
                shown(1.0)
                if state is not None and time.monotonic() - saved > save_every:
                    save(state, this_survey, named, progress)
                    saved = time.monotonic()
    finally:
        if state is not None and whole:
            save(state, this_survey, named, progress)
    return Survey(named, progress.documents, progress.tokens, source.problems)


def _expected(corpus: Corpus, read: int) -> float | None:
    """Estimate the tokens in the whole corpus from the documents read; None where the number is not known."""
    return read * corpus.total / corpus.read if corpus.total and corpus.read else None


class _Shown:
    """A function of the share of one batch that is done, which advances a bar by its tokens, at most all of them."""

    def __init__(self, advance: Advance, tokens: int, total: float | None) -> None:
        self._advance, self._tokens, self._total, self._left = advance, tokens, total, 1.0

    def __call__(self, share: float) -> None:
        share = min(share, self._left)
        self._left -= share
        self._advance(share * self._tokens, self._total)


def feed(
    model: Model, batch: Batch, sinks: Sequence[Sink], advance: Callable[[float], object] = lambda _: None
) -> None:
    """Run one batch, and give every sink the values of its sites. Sinks may call `advance` with the share done."""
    seen = replace(Seen.from_batch(model, batch), advance=advance)
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
    """Return sinks by name: for patterns with statistics one sink a matching site, other sinks unchanged.

    Raises SiteError for a pattern that matches nothing, InputError for a value that is neither statistics nor a sink.
    """
    if not isinstance(sinks, Mapping):
        raise InputError(f"{type(sinks).__name__} was given as sinks: a mapping from {SINKS} was expected")
    named: dict[str, Any] = {}
    statistics: dict[str, list[Statistic]] = {}  # by site, from all the patterns that match it
    for name, given in sinks.items():
        if _is_sink(given):
            named[name] = given
            continue
        of_pattern = _statistics(name, given)
        for site in [IDS] if name == IDS else _sites(model, name):
            statistics[site] = [*statistics.get(site, []), *of_pattern]
    for site in statistics:
        if site in named:
            raise InputError(f"statistics are asked for at {site!r}, and a sink has that name: give the sink another")
    return named | {site: SiteStatistics(site, of_site) for site, of_site in statistics.items()}


def _is_sink(given: Any) -> bool:
    """Return whether an object has the methods of a sink, and is not a class or a statistic."""
    return not isinstance(given, (type, Statistic)) and hasattr(given, "add") and hasattr(given, "sites")


def _statistics(name: Any, given: Any) -> list[Statistic]:
    """Return statistics in a list. Raises InputError for anything else, saying what it is."""
    if isinstance(given, Statistic):
        raise InputError(f"{name!r}: {given} is not a sink: put statistics in a list")
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = [item for item in items if not isinstance(item, Statistic)]
    if wrong or not items:
        got = "an empty list"
        for item in wrong[:1]:
            got = f"the class {item.__name__}" if isinstance(item, type) else repr(item)[:60]
        raise InputError(f"{name!r}: {got} was given: statistics in a list, [Moments()], or a sink were expected")
    return items


def _sites(model: Model, pattern: str) -> list[str]:
    """Return the names of matching sites. Raises InputError for a site that is not [batch, pos, ...]."""
    sites = model.sites().match(pattern)
    for site in sites:
        if not site.shape.startswith("B P"):
            raise InputError(f"{site.name!r} is {site.shape}: a site [batch, pos, ...] was expected for statistics")
    return [site.name for site in sites]
