"""Read texts with the logit lens, and average it over a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.logit_lens.metrics import METRICS, lens_metrics, lens_runs, lens_sites
from cutaway.analyses.logit_lens.result import STREAM, Lens, LensMeans
from cutaway.analyses.predictions.metrics import checked_run, checked_top
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.progress import meter
from cutaway.results.bootstrap import draw_weights, interval
from cutaway.results.call import analysis, call_input, describe, meta_of
from cutaway.results.labels import token_id, token_labels, token_strings
from cutaway.surveys.reading import BATCH_TOKENS
from cutaway.text.batches import model_batches
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
    parts = [part for run in runs for part in lens_metrics(model, run, sites, top, target_ids, metrics)]
    joined = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
    ids = [i for row in tokens.rows() for i in row]
    best = joined["top_ids"].tolist()
    return Lens(
        meta=meta_of(model, call_input(model, text, tokens.rows()), top=top, targets=names or None),
        sites=[site.name for site in sites],
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
) -> LensMeans:
    """Average the logit lens over all tokens of a corpus by layer, read in windows of the model's context.

    `corpus` is whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents. Metrics: loss,
    entropy, kl, js, tv; `right` (the share of tokens whose next token is the first choice) and `agrees` (the
    share where the first choice is the model's own). Intervals are percentiles of `resamples` bootstrap means
    that draw whole documents with replacement (the tokens of one document are not independent).

    Raises InputError for a site without the stream's width, or a corpus without two tokens in any document.
    """
    resamples, seed = whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    sites = lens_sites(model, at)
    source = open_corpus(corpus)
    names = ["loss", "entropy", "kl", "js", "tv", "right", "agrees"]
    by_document: dict[int, Tensor] = {}  # by number: tokens, then sums [row, metric]
    no_targets = torch.empty(0, dtype=torch.long, device=model.device)
    with meter("reading documents", "tokens") as advance:
        for batch in model_batches(model, source, BATCH_TOKENS, bos):
            numbers = torch.tensor([row.number for row in batch.rows for _ in row.ids])
            done = 0
            runs = lens_runs(model, model.tokens(batch.tokens), sites)
            for part in (part for run in runs for part in lens_metrics(model, run, sites, 1, no_targets)):
                first = part["top_ids"][..., 0]
                shares = {"right": (part["rank"] == 1).double(), "agrees": (first == part["own_top"]).double()}
                values = torch.stack([shares.get(name, part.get(name, first)) for name in names], -1)
                counted = part["rank"][0] > 0  # tokens that have a next one
                of_part = numbers[done : done + first.shape[1]]
                done += first.shape[1]
                for number in sorted(set(of_part[counted].tolist())):
                    chosen = counted & (of_part == number)
                    sums = torch.cat([chosen.sum()[None], values[:, chosen].sum(1).flatten()])
                    by_document[number] = by_document.get(number, torch.zeros(1)) + sums
            advance(batch.size, None)
    if not by_document:
        raise InputError(f"corpus {source.name}: no document has two tokens, there is nothing to predict")
    totals = torch.stack([by_document[number] for number in sorted(by_document)])
    counts, sums = totals[:, 0], totals[:, 1:].view(-1, len(sites), len(names))
    weights = draw_weights(len(counts), resamples, seed)
    low, high = interval(torch.einsum("rd,dsm->rsm", weights, sums) / (weights @ counts)[:, None, None])
    parameters = {"at": at, "resamples": resamples, "seed": seed, "bos": bos}
    meta = describe(model, "logit_lens.average", corpus, **parameters) | {"input": source.name}
    return LensMeans(
        meta,
        [site.name for site in sites],
        [site.layer or 0 for site in sites],
        names,
        sums.sum(0) / counts.sum(),
        low,
        high,
        len(counts),
        int(counts.sum()),
    )
