"""Read texts with the logit lens, and average it over a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cutaway.analyses.logit_lens.metrics import METRICS, final_site, lens_metrics, lens_runs, lens_sites
from cutaway.analyses.logit_lens.result import STREAM, Lens, LensMeans
from cutaway.analyses.logit_lens.sink import MEANS, LensSums
from cutaway.analyses.predictions.metrics import checked_run, checked_top
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.results.bootstrap import means_over_documents
from cutaway.results.call import analysis, call_input, meta_of
from cutaway.results.labels import token_id, token_labels, token_strings
from cutaway.surveys.state import StatePath
from cutaway.surveys.survey import survey
from cutaway.text.corpus import Source, open_corpus, refuse_path

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run


@analysis("logit_lens.read")
def read(
    model: Model,
    text: Inputs,
    at: str = "resid_post",
    top: int = 10,
    targets: Sequence[str | int] | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    bos: bool = False,
    run: Run | None = None,
) -> Lens:
    """Read one or several texts with the logit lens.

    Args:
        at: a site of width d_model: "resid_post", "resid_mid", "resid_pre" (the stream), "attn_out", "mlp_out" (each
            layer's output, read as if it were the whole stream), or a pattern such as "blocks.{0,-1}.resid_post".
        targets: tokens whose probability and rank are kept at every layer and position; each is the text of exactly one
            token, such as " States", or its id.
        metrics: the metrics to compute; of the others, kl, js, tv and entropy (which take the most time) are NaN.
        run: a run over exactly this text that kept `at` and the last resid_post, where one was made before.

    Raises:
        InputError: a site without the width of the stream, an empty or too long text, a `run` over another text.
        TokenizerError: a target that is not one token.
    """
    sites = lens_sites(model, at)
    names = [targets] if isinstance(targets, str) else list(targets or [])
    targeted = [token_id(model, name) for name in names]
    target_ids = torch.tensor(targeted, dtype=torch.long, device=model.device)
    if unknown := [name for name in metrics if name not in METRICS]:
        raise InputError(f"no metric is called {unknown[0]!r}: there are {', '.join(METRICS)}")
    top = checked_top(model, top)
    refuse_path(text)
    tokens = model.tokens(text, bos=bos)
    runs = lens_runs(model, tokens, sites) if run is None else [checked_run(model, run, tokens)]
    read_at = [site.name for site in sites]
    parts = [part for run in runs for part in lens_metrics(model, run, read_at, top, target_ids, metrics)]
    joined = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
    ids = [i for row in tokens.rows() for i in row]
    best = joined["top_ids"].tolist()
    return Lens(
        meta=meta_of(model, call_input(model, text, tokens.rows()), top=top, targets=names or None),
        sites=read_at,
        layers=[site.layer or 0 for site in sites],
        writes=sites[0].kind not in STREAM,
        lengths=tokens.lengths.tolist(),
        ids=ids,
        tokens=token_strings(model, ids),
        display=token_labels(model, ids),
        **{name: joined[name] for name in METRICS},
        top_ids=joined["top_ids"],
        top_probabilities=joined["top_probabilities"],
        top_tokens=[[token_strings(model, some) for some in row] for row in best],
        top_display=[[token_labels(model, some) for some in row] for row in best],
        targets=token_strings(model, targeted),
        target_probability=joined["target_probability"],
        target_rank=joined["target_rank"],
    )


@analysis("logit_lens.average")
def average(
    model: Model,
    corpus: Source = None,
    at: str = "resid_post",
    *,
    resamples: int = 1000,
    seed: int = 0,
    bos: bool = False,
    state: StatePath = None,
) -> LensMeans:
    """Average the logit lens over all tokens of a corpus by layer, read in windows of the model's context.

    `corpus` is whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents. Metrics: loss,
    entropy, kl, js, tv; `right` (the share of tokens whose next token is the first choice) and `agrees` (the
    share where the first choice is the model's own). Intervals are percentiles of `resamples` bootstrap means
    that draw whole documents with replacement (the tokens of one document are not independent). `state` is a file
    that the pass saves itself to, and resumes from, as in `cutaway.survey`.

    Raises InputError for a site without the stream's width, or a corpus without two tokens in any document.
    """
    resamples, seed = whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    sites = lens_sites(model, at)
    source = open_corpus(corpus)
    sink = LensSums([site.name for site in sites], final_site(model))
    survey(model, source, {"lens": sink}, bos=bos, state=state)
    if not sink.numbers:
        raise InputError(f"corpus {source.name}: no document has two tokens, there is nothing to predict")
    totals = sink.sums()
    counts, sums = totals[:, 0], totals[:, 1:].view(-1, len(sites), len(MEANS))
    means, low, high = means_over_documents(sums, counts[:, None, None], resamples, seed)
    meta = meta_of(model, corpus) | {"input": source.name}
    return LensMeans(
        meta,
        [site.name for site in sites],
        [site.layer or 0 for site in sites],
        list(MEANS),
        means,
        low,
        high,
        len(counts),
        int(counts.sum()),
    )
