"""Measure how Gaussian the states of a model are, site by site, over a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cutaway.analyses.states.result import KINDS, States
from cutaway.analyses.states.sinks import context_text, state_sinks
from cutaway.analyses.states.site import SiteSettings, measure_site
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.progress import track
from cutaway.results.call import analysis, meta_of
from cutaway.surveys.state import StatePath
from cutaway.surveys.survey import survey
from cutaway.text.corpus import Source, open_corpus

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.sites import Site


@analysis("states.measure")
def measure(
    model: Model,
    corpus: Source = None,
    kinds: Sequence[str] = KINDS,
    layers: Sequence[int] | None = None,
    sample: int = 2000,
    centered: bool = False,
    seed: int = 0,
    *,
    replicates: int = 99,
    resamples: int = 1000,
    bos: bool = False,
    state: StatePath = None,
) -> States:
    """Compare the cosines between tokens' states over a corpus with Gaussian nulls.

    Args:
        corpus: whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents.
        kinds: kinds of sites of width d_model in a block.
        layers: None for all; negative ones count from the end.
        sample: the number of tokens whose states are paired, half with half; the same tokens at every site, whatever
            the batching.
        centered: use cosines of differences from the mean over tokens. (The effective dimension always does.)
        replicates: Monte-Carlo samples for each p-value, which is at least 1 / (replicates + 1); 19 or more.
        resamples: resamples of documents, for the intervals.
        state: a file that the pass saves itself to, and resumes from, as in `cutaway.survey`.

    Raises:
        SiteError, InputError: sites of another width, a sample that the corpus is too small for.
    """
    sites = _sites(model, kinds, layers)
    sample, seed = whole("sample", sample, 4), seed_of(seed)
    replicates = whole("replicates", replicates, 19, MOST_DRAWS)  # with fewer, no p-value could be 0.05
    resamples = whole("resamples", resamples, 2, MOST_DRAWS)
    source = open_corpus(corpus)
    seen = survey(model, source, state_sinks(model, sites, sample, seed), bos=bos, state=state)
    tokens = seen["contexts"].count
    if tokens < sample:
        raise InputError(
            f"corpus {source.name} has {tokens:,} tokens (position 0 of each window left out): at least {sample:,} "
            f"were expected for the sample; give more text, or sample={tokens // 2}"
        )
    drawn = seen["contexts"].sample.result()
    settings = SiteSettings(model.config.d_model, sample, replicates, resamples, seed, model.device)
    measured = [
        measure_site(seen, site.name, settings, centered, drawn.keys)
        for site in track(sites, "comparing states", len(sites))
    ]
    meta = meta_of(model, corpus, kinds=tuple(kinds)) | {"input": source.name}
    return States(
        meta,
        [site.name for site in sites],
        [site.kind for site in sites],
        [site.layer or 0 for site in sites],
        model.config.d_model,
        [of_site.numbers for of_site in measured],
        np.stack([of_site.density for of_site in measured]),
        np.stack([of_site.quantile_cosines for of_site in measured]),
        np.stack([of_site.quantile_pairs for of_site in measured]),
        [context_text(model, row) for row in drawn.values.tolist()],
        list(zip(drawn.keys.documents.tolist(), drawn.keys.offsets.tolist(), strict=True)),
        seen.documents,
        tokens,
    )


def _sites(model: Model, kinds: Sequence[str], layers: Sequence[int] | None) -> list[Site]:
    """Return the sites of given kinds and layers. Raises InputError for sites of another width, or none at all."""
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    patterns = None if layers is None else [f"blocks.{layer}.{kind}" for kind in kinds for layer in layers]
    sites = [site for pattern in (patterns or kinds) for site in model.sites().match(pattern)]
    for site in sites:
        if site.shape != "B P D" or site.layer is None:
            raise InputError(f"{site.name!r} is {site.shape}: states of width d_model in a block were expected")
    if not sites:
        raise InputError("no site was named: kinds such as 'resid_post' and layers such as [0, -1] were expected")
    return list(dict.fromkeys(sites))
