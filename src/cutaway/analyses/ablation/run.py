"""TODO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from cutaway.analyses.ablation.engine import Cell, Scan, Totals
from cutaway.analyses.ablation.metrics import Function, chosen_metrics
from cutaway.analyses.ablation.replacements import MeanAt, Means, Pool, Replacement, Resampled, Zeros
from cutaway.analyses.ablation.result import HOW, Ablation, How
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError, Interrupted
from cutaway.model.modes import plainly
from cutaway.model.trunk import BUDGET
from cutaway.progress import Advance, meter
from cutaway.results.bootstrap import draw_weights, interval
from cutaway.results.call import Code, describe, ids_source
from cutaway.surveys.reading import BATCH_TOKENS, Documents, Text
from cutaway.surveys.survey import feed, survey
from cutaway.text.corpus import Source, open_corpus

if TYPE_CHECKING:
    from cutaway.model.model import Model

COMPONENTS = ("heads", "mlps", "layers")
SHAPES = ("B P D", "B P 1", "B P H K", "B P M", "B P H D")  # of sites that can be ablated


@plainly
def run(
    model: Model,
    text: Text = None,
    components: str | Sequence[str] = ("heads", "mlps"),
    how: How = "mean",
    metric: str | Function | Sequence[str | Function] | None = None,
    *,
    reference: Source = None,
    resamples: int = 1000,
    seed: int = 0,
    budget: int = BUDGET,
    bos: bool = False,
) -> Ablation:
    """Replace each component alone, and measure how much worse the model predicts.

    Args:
        text: a string is the text itself, and an error where it names files; whatever else
            cutaway.text.corpus.open_corpus takes (a pathlib path, texts, a DataFrame, a Corpus, None for the bundled
            documents) is read as documents, in windows of the model's context; Tokens or ids [batch, pos] are taken
            as they are, a row a document.
        components: "heads" (each at attn.z), "mlps", "layers" (attention and MLP of a block both), site patterns
            ("blocks.2.ln1.out": each site alone), or several of these.
        how: "zero"; "mean", over the tokens of the reference, those at position 0 of a window apart, which has the mean
            there; "resample", at every position the value at that position of a window of another document, drawn once
            for each window and the same for all components. Zero holds at position 0, too.
        metric: also measure "kl" (of the predictions from the whole model's, nats), "accuracy" (the share of first
            choices that came), "rank" (mean rank of the token that came), or a function of log-probabilities
            [n, d_vocab] and Places (where these n are) that gives n numbers, NaN where nothing is to be counted.
            Several in a list.
        reference: a corpus that means and other texts come from, in place of the text itself.
        resamples: bootstrap draws of whole documents for the intervals.
        seed: equal seeds give equal donors and intervals, whatever the batches.
        budget: bytes for the states of cells that run side by side. The whole model's own states of one batch of
            windows come to as much again, or more where one window alone does.

    Raises:
        SiteError: a pattern that matches nothing.
        InputError: an unknown way or metric, a site that is not [batch, pos, ...], nothing to predict, no other text
            to resample from.
        Interrupted: Ctrl-C after something was done; its `result` is that of the documents, or of the components, done.
    """
    if how not in HOW:
        raise InputError(f"how={how!r} is unknown: {', '.join(HOW)} were expected")
    budget, resamples, seed = whole("budget", budget, 1), whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    metrics = chosen_metrics(metric)
    names = [components] if isinstance(components, str) else list(components)
    cells = _cells(model, names)
    if any(site.startswith("logits") for edits in model.active_edits for site in edits):
        raise InputError("an edit at 'logits' is in force: ablation reads losses from what stands before it")
    text = list(text) if isinstance(text, Iterator) else text  # which is read more than once
    found = Documents(model, text, bos)
    replacement = _replacement(model, found, cells, how, reference, seed, bos)
    scan = Scan(model, cells, replacement, metrics, budget)
    parameters = {
        "components": components if isinstance(components, str) else tuple(components),
        "how": how,
        "metric": None if metric is None else [Code(name) if f else name for name, f in list(metrics.items())[1:]],
        "reference": None if reference is None else Code("reference"),
        "resamples": resamples,
        "seed": seed,
        "budget": budget,
        "bos": bos,
    }
    subject = text if found.rows is None else ids_source(found.rows)
    meta = describe(model, "ablation.run", subject, **parameters)
    if reference is not None:
        other = open_corpus(reference)
        meta["call"] = meta["call"].replace("\n", f"\nreference = {other.origin}  # {other.name}\n", 1)

    def result(totals: Totals) -> Ablation:
        names = list(dict.fromkeys(totals.documents))
        about = meta if isinstance(text, str) else meta | {"input": names}
        return _result(about, model, how, cells, list(metrics), totals, resamples, seed, budget)

    try:
        with meter("ablating", "tokens") as advance:
            for batch in found.batches(scan.batch_tokens(replacement.passes)):
                tokens, expected = batch.size, found.expected(batch)
                total = expected and expected * len(cells)
                scan.add(batch, _told(advance, tokens, total))
    except KeyboardInterrupt:
        done = scan.totals()
        if done is None:
            raise
        some = f"{len(done.sums[0]) - 1} of {len(cells)} components, {done.tokens:,} tokens"
        raise Interrupted(result(done), f"interrupted: {some} were done") from None
    totals = scan.totals()
    if totals is None or not totals.counts[:, 0].sum():
        raise InputError("no document has two tokens: there is nothing to predict")
    if how == "mean" and reference is None and totals.counts[:, 0].sum() == 1:
        raise InputError(
            "one token is predicted, from position 0, whose mean is itself: give a longer text, or reference="
        )
    return result(totals)


def _told(advance: Advance, tokens: int, total: float | None) -> Callable[[int], None]:
    """Progress of cells, as tokens read with a cell ablated."""
    return lambda cells: advance(cells * tokens, total)


def _cells(model: Model, names: Sequence[str]) -> list[Cell]:
    """Components by name -> what is ablated, in the order given."""
    layers, heads = range(model.config.n_layers), range(model.config.n_heads)
    found: list[Cell] = []
    for name in names:
        match name:
            case "heads":
                found += [Cell("head", i, h, (f"blocks.{i}.attn.z",)) for i in layers for h in heads]
            case "mlps":
                found += [Cell("mlp", i, None, (f"blocks.{i}.mlp_out",)) for i in layers]
            case "layers":
                found += [Cell("layer", i, None, (f"blocks.{i}.attn_out", f"blocks.{i}.mlp_out")) for i in layers]
            case _:
                for site in model.sites().match(name):
                    if site.shape not in SHAPES:
                        raise InputError(
                            f"{site.name!r} is {site.shape}: heads, mlps, layers and sites [batch, pos, ...] before "
                            "the logits can be ablated"
                        )
                    found.append(Cell("site", site.layer, None, (site.name,)))
    if not found:
        raise InputError(f"components are {', '.join(COMPONENTS)} or site patterns: at least one was expected")
    return list(dict.fromkeys(found))


def _replacement(
    model: Model, documents: Documents, cells: list[Cell], how: How, reference: Source, seed: int, bos: bool
) -> Replacement:
    """What stands in, with the pass that it needs over the reference."""
    if how == "zero":
        return Zeros(model)
    sites = list(dict.fromkeys(site for cell in cells for site in cell.sites))
    if how == "resample":
        given = documents if reference is None else Documents(model, open_corpus(reference), bos)
        return Resampled(model, sites, Pool((row for batch in given.batches(BATCH_TOKENS) for row in batch.rows), seed))
    means = {site: MeanAt(site) for site in sites}
    source = documents.corpus if reference is None else open_corpus(reference)
    if source is not None:
        survey(model, source, means, bos=bos)
    else:
        for batch in documents.batches(BATCH_TOKENS):
            feed(model, batch, list(means.values()))
    return Means(model, means.values())


def _result(
    meta: dict[str, Any],
    model: Model,
    how: How,
    cells: list[Cell],
    metrics: list[str],
    totals: Totals,
    resamples: int,
    seed: int,
    budget: int,
) -> Ablation:
    """Means and their intervals, of the cells that were reached."""
    used = (totals.counts > 0).any(1)
    counts, sums = totals.counts[used], totals.sums[used]
    change = sums[:, 1:] - sums[:, :1]  # document cell metric
    weights = draw_weights(len(counts), resamples, seed)
    low, high = interval(torch.einsum("rd,dcm->rcm", weights, change) / (weights @ counts)[:, None])
    return Ablation(
        meta,
        how,
        cells[: change.shape[1]],
        metrics,
        whole=sums[:, 0].sum(0) / counts.sum(0),
        change=change.sum(0) / counts.sum(0),
        low=low,
        high=high,
        documents=len(counts),
        predicted=int(counts[:, 0].sum()),
        layers=model.config.n_layers,
        heads=model.config.n_heads,
        budget=budget,
        at_once=totals.at_once,
        token_layers=totals.token_layers,
        plain_token_layers=totals.plain,
    )
