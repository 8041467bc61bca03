"""One pass of a model over a corpus, feeding sinks.

    found = survey(model, corpus, {"resid_post": [Moments(), Sample(2000)], "attn_out": [Moments()], "ids": [...]})
    found["blocks.3.resid_post"]["moments"].result().mean

A sink says which sites it wants and takes each run; the pass captures only those, stops after the last of them, and
goes through the corpus once however many sinks there are. Statistics of one site, and any sink of one site that has a
method `take`, see its values as they arise, so that no more than one of them is in memory at a time. With
`state="survey.npz"` it saves itself as it goes, and takes up from there when it is called again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cutaway import batches as packing
from cutaway.batches import Batch, Row
from cutaway.corpus import Corpus, Problems, Source, open_corpus
from cutaway.errors import InputError
from cutaway.model.modes import plainly
from cutaway.model.tap import Context, only_looks
from cutaway.progress import meter, undisturbed
from cutaway.stats.base import Keys, State, Statistic, load_arrays, save_arrays

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.run import Run

BATCH_TOKENS = 4096  # width x rows of a batch
SAVE_EVERY = 60.0  # seconds between saved states
SINKS = "site patterns with statistics, such as {'resid_post': [Moments()]}"
IDS = "ids"  # the token ids themselves, as if they were a site


@dataclass(frozen=True)
class Seen:
    """What a sink is given: one batch, its run, and which tokens count."""

    batch: Batch
    run: Run | None  # None where no sink wants a site
    mask: Tensor  # batch pos; 1 where a token is
    keys: Keys  # of the tokens that count, in row-major order
    later: Tensor  # batch pos; as mask, without position 0 of every window
    later_keys: Keys


class Sink(Protocol):
    """Anything that a survey can feed.

    One that has a method `take(values, seen)` and wants a single site is streamed: it is given that site's values
    [batch, pos, ...] as they arise, in place of a run that keeps them, and its `add` is not called.
    """

    @property
    def sites(self) -> Sequence[str]:
        """Patterns of the sites it wants; they may be none."""

    def add(self, seen: Seen) -> None: ...
    def merge(self, other: Any) -> None: ...
    def empty(self) -> Any: ...
    def state(self) -> State: ...
    def load_state(self, state: State) -> None: ...


class At:
    """Statistics of the values at one site (or of the token ids, at "ids").

    `of` turns values [batch, pos, ...] into what is counted. `first=False` leaves out position 0 of every window, whose
    states are unlike all others.
    """

    def __init__(
        self,
        site: str,
        statistics: Sequence[Statistic],
        of: Callable[[Tensor], Tensor] | None = None,
        first: bool = True,
    ) -> None:
        self.site, self.of, self.first = site, of, first
        self.statistics: dict[str, Statistic] = {}
        for statistic in statistics:
            name, n = statistic.kind, 2
            while name in self.statistics:
                name, n = f"{statistic.kind} {n}", n + 1
            self.statistics[name] = statistic.empty()

    @property
    def sites(self) -> Sequence[str]:
        return () if self.site == IDS else (self.site,)

    def __getitem__(self, kind: str) -> Statistic:
        return self.statistics[kind]

    def add(self, seen: Seen) -> None:
        if self.site == IDS or seen.run is None:
            self.take(seen.batch.tokens.ids.to(seen.mask.device), seen)
        else:
            self.take(seen.run[self.site], seen)

    def take(self, values: Tensor, seen: Seen) -> None:
        """Count one batch's values, as they arise."""
        values = values if self.of is None else self.of(values)
        mask, keys = (seen.mask, seen.keys) if self.first else (seen.later, seen.later_keys)
        if self.site == IDS:
            values = values.unsqueeze(-1)
        for statistic in self.statistics.values():
            statistic.add(values, mask, keys)

    def merge(self, other: At) -> None:
        if repr(self) != repr(other):
            raise InputError(f"{self} cannot take in {other}: site and statistics must be the same")
        for name, statistic in self.statistics.items():
            statistic.merge(other.statistics[name])

    def empty(self) -> At:
        return At(self.site, list(self.statistics.values()), self.of, self.first)

    def state(self) -> State:
        return {f"{n}/{key}": a for n, s in self.statistics.items() for key, a in s.state().items()}

    def load_state(self, state: State) -> None:
        for name, statistic in self.statistics.items():
            mine = {k.removeprefix(f"{name}/"): a for k, a in state.items() if k.startswith(f"{name}/")}
            statistic.load_state(mine)

    def __repr__(self) -> str:
        of = "" if self.of is None else f", of={getattr(self.of, '__qualname__', self.of)}"
        return f"At({self.site!r}, {list(self.statistics.values())}{of}, first={self.first})"


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
        corpus: whatever cutaway.corpus.open_corpus takes; None for the bundled documents.
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
        state = os.path.expanduser(state)  # noqa: PTH111 - Path.expanduser raises for an unknown user
        if Path(state).exists():
            _resume(state, about, named, progress)
        else:
            _save(state, about, named, progress)  # what cannot be written is known before the work
    batches = packing.of_model(model, source, batch_tokens, bos)
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


def _seen(model: Model, batch: Batch) -> Seen:
    mask = batch.tokens.mask.to(model.device)
    keys = keys_of(batch)
    later = mask.clone()
    later[:, 0] = 0
    starts = np.cumsum([0, *(len(row.ids) for row in batch.rows[:-1])])
    later_keys = keys[np.setdiff1d(np.arange(len(keys)), starts, assume_unique=True)]
    return Seen(batch, None, mask, keys, later, later_keys)


def keys_of(batch: Batch) -> Keys:
    """Document and token offset of every token of a batch, in row-major order.

    A BOS, which is no token of the document, has a negative offset of its own: -1 less that of the token after it.
    """

    def offsets(row: Row) -> NDArray[np.int64]:
        found = np.arange(row.offset, row.offset + len(row.ids))
        found[: row.front] = -2 - found[: row.front]
        return found

    lengths = [len(row.ids) for row in batch.rows]
    documents = np.repeat(np.array([row.document for row in batch.rows]), lengths)
    return Keys(documents, np.concatenate([offsets(row) for row in batch.rows]))


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
    return named | {site: At(site, found) for site, found in statistics.items()}


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


@dataclass
class _Progress:
    batches: int = 0
    documents: int = 0
    tokens: int = 0
    read: str = ""  # a hash of the batches seen

    def count(self, batch: Batch) -> None:
        self.batches += 1
        self.read = _digest(self.read, batch)
        self.tokens += batch.size
        self.documents += sum(row.offset + row.front == 0 for row in batch.rows)  # every document has one first window


def _digest(before: str, batch: Batch) -> str:
    keys = json.dumps([(row.document, row.offset, len(row.ids)) for row in batch.rows])
    ids = batch.tokens.ids.numpy().tobytes()
    return hashlib.blake2b(before.encode() + keys.encode() + ids, digest_size=8).hexdigest()


def _new(batches: Iterator[Batch], done: _Progress, state: Any) -> Iterator[Batch]:
    """The batches that a saved state has not seen. Raises InputError for a corpus that does not begin with the rest."""
    read = ""
    for batch in islice(batches, done.batches):
        read = _digest(read, batch)
    if read != done.read:
        raise _another(state, "corpus")
    yield from batches


def _another(path: Any, differs: str) -> InputError:
    return InputError(f"{path} is the state of another survey (another {differs}): give another file, or remove it")


def _about(model: Model, corpus: Corpus, sinks: Mapping[str, Any], batch_tokens: int, bos: bool) -> dict[str, Any]:
    # Without the address that Python's own repr gives: it is another in every process.
    described = {name: re.sub(" at 0x[0-9a-f]+", "", repr(sink)) for name, sink in sinks.items()}
    return {
        "what": "survey",
        "model": model.fresh_fingerprint(),
        "edits": model.active_edits,
        "corpus": corpus.name,
        "batch_tokens": batch_tokens,
        "bos": bos,
        "group": packing.GROUP,
        "sinks": hashlib.sha256(repr(sorted(described.items())).encode()).hexdigest()[:16],
    }


def _save(path: Any, about: dict[str, Any], sinks: Mapping[str, Any], progress: _Progress) -> None:
    arrays = {f"{name}|{key}": array for name, sink in sinks.items() for key, array in sink.state().items()}
    save_arrays(path, arrays, {**about, "progress": vars(progress)})


def _resume(path: Any, about: dict[str, Any], sinks: Mapping[str, Any], progress: _Progress) -> None:
    arrays, found = load_arrays(path)
    done = found.pop("progress", None)
    if found != about or done is None:
        raise _another(path, ", ".join(key for key in about if found.get(key) != about[key]) or "progress")
    for name, sink in sinks.items():
        sink.load_state({k.removeprefix(f"{name}|"): a for k, a in arrays.items() if k.startswith(f"{name}|")})
    for key, value in done.items():
        setattr(progress, key, value)
