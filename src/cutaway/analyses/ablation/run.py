"""Ablate each component over a text or a corpus. Public as ablation.run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cutaway.analyses.ablation.components import Ablated, find_components
from cutaway.analyses.ablation.engine import Scan
from cutaway.analyses.ablation.metrics import MetricFunction, choose_metrics
from cutaway.analyses.ablation.replacements import Means, Pool, Replacement, Resampled, SiteMean, Zeros
from cutaway.analyses.ablation.result import HOW, Ablation, How
from cutaway.analyses.ablation.sink import Ablations, Totals
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError, Interrupted
from cutaway.model.trunk import BUDGET
from cutaway.results.bootstrap import means_over_documents
from cutaway.results.call import Code, analysis, ids_source, meta_of
from cutaway.surveys.reading import BATCH_TOKENS, Text, open_text
from cutaway.surveys.state import StatePath, state_of
from cutaway.surveys.survey import survey
from cutaway.text.batches import model_batches
from cutaway.text.corpus import Corpus, Source, open_corpus
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model


@analysis("ablation.run")
def run(
    model: Model,
    text: Text = None,
    components: str | Sequence[str] = ("heads", "mlps"),
    how: How = "mean",
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None = None,
    *,
    reference: Source = None,
    resamples: int = 1000,
    seed: int = 0,
    budget: int = BUDGET,
    bos: bool = False,
    state: StatePath = None,
) -> Ablation:
    """Replace each component by itself, and measure how much worse the model predicts.

    Args:
        text: a string is the text itself, and an error where it names files; whatever else
            cutaway.text.corpus.open_corpus takes (a pathlib path, texts, a DataFrame, a Corpus, None for the bundled
            documents) is read as documents, in windows of the model's context; Tokens or ids [batch, pos] are taken
            as they are, a row a document.
        components: "head 3.1" (at attn.z), "mlp 2", "neuron 3.712" (at mlp.post), "layer 2" (attention and MLP of a
            block both), "heads", "mlps" or "layers" (each of them), site patterns ("blocks.2.ln1.out": each matching
            site by itself), or several of these.
        how: "zero" sets zero, at position 0, too. "mean" sets the mean over the reference's tokens; position 0 of
            each window has its own mean, taken over position 0 only. "resample" sets at every position the value at
            that position of a window of another document, drawn once for each window and the same for all components.
        metric: also measure "kl" (KL from the whole model's predictions, nats), "accuracy" (the share of tokens that
            were the first choice), "rank" (the mean rank of the token that came), or a function of log-probabilities
            [n, d_vocab] and their Places that gives n numbers, NaN for positions that do not count. Several in a list.
        reference: a corpus to take means and other documents' values from; None for the text itself.
        resamples: bootstrap draws of whole documents for the intervals.
        seed: equal seeds give equal donors and intervals, whatever the batches.
        budget: bytes for the states of components that run side by side. The whole model's own states of one batch of
            windows take up to as much again, or more where a single window does.
        state: a file that the work saves itself to as it goes, and resumes from, as in `cutaway.survey`; with "mean"
            another beside it, with ".means" before its ending, for the pass that takes the means.

    Raises:
        SiteError: a pattern that matches nothing.
        InputError: an unknown way or metric, a site that is not [batch, pos, ...], nothing to predict, no other text
            to resample from.
        Interrupted: Ctrl-C after something was done; its `result` is that of the documents, or of the components, done.
    """
    if how not in HOW:
        raise InputError(f"how={how!r} is unknown: {', '.join(HOW)} were expected")
    budget, resamples, seed = whole("budget", budget, 1), whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    metrics = choose_metrics(metric)
    chosen = find_components(model, [components] if isinstance(components, str) else list(components))
    _check_edits(model)
    text = list(text) if isinstance(text, Iterator) else text  # it is read more than once
    corpus = open_text(model, text, bos)
    others = corpus if reference is None else open_corpus(reference)
    replacement = _replacement(model, others, chosen, how, seed, bos, state)
    sink = Ablations(chosen, replacement, metrics, budget)
    subject = ids_source(model.tokens(text).rows()) if isinstance(text, (Tokens, Tensor)) else text
    meta = meta_of(
        model,
        subject,
        components=components if isinstance(components, str) else tuple(components),
        metric=None if metric is None else [Code(name) if f else name for name, f in list(metrics.items())[1:]],
        reference=None if reference is None else Code("reference"),
    )
    if reference is not None:
        meta["call"] = _define_reference(meta["call"], reference)

    def result(totals: Totals) -> Ablation:
        names = list(dict.fromkeys(totals.documents))
        about = meta if isinstance(text, str) else meta | {"input": names}
        return _result(about, model, how, chosen, list(metrics), totals, resamples, seed, budget)

    try:
        batch_tokens = Scan(model, chosen, replacement, metrics, budget).batch_tokens()
        survey(model, corpus, {"ablations": sink}, batch_tokens=batch_tokens, bos=bos, state=state)
    except KeyboardInterrupt:
        done = sink.totals()
        if done is None:
            raise
        some = f"{len(done.sums[0]) - 1} of {len(chosen)} components, {done.tokens:,} tokens"
        raise Interrupted(result(done), f"interrupted: {some} were done") from None
    return result(_checked(sink.totals(), means_of_text=how == "mean" and reference is None))


def _check_edits(model: Model) -> None:
    """Raise InputError where an edit of the logits is in force, which losses would not see."""
    if any(site.startswith("logits") for edits in model.active_edits for site in edits):
        raise InputError("an edit at 'logits' is in force: ablation computes losses without it; leave it out")


def _replacement(
    model: Model,
    reference: Corpus,
    components: list[Ablated],
    how: How,
    seed: int,
    bos: bool,
    state: StatePath,
) -> Replacement:
    """Return what replaces the components' values, after one pass over the reference where it needs one."""
    if how == "zero":
        return Zeros()
    sites = list(dict.fromkeys(site for component in components for site in component.sites))
    if how == "resample":
        rows = (row for batch in model_batches(model, reference, BATCH_TOKENS, bos) for row in batch.rows)
        return Resampled(sites, Pool(rows, seed))
    means = {site: SiteMean(site) for site in sites}
    survey(model, reference, means, bos=bos, state=state_of(state, "means"))
    return Means(means.values())


def _define_reference(call: str, reference: Source) -> str:
    """Return a call with the line that defines its `reference` put in after the model's."""
    corpus = open_corpus(reference)
    return call.replace("\n", f"\nreference = {corpus.origin}  # {corpus.name}\n", 1)


def _checked(totals: Totals | None, means_of_text: bool) -> Totals:
    """Return the totals. Raises InputError where nothing is predicted, or where each mean is of the token itself."""
    if totals is None or not totals.counts[:, 0].sum():
        raise InputError("no document has two tokens: there is nothing to predict")
    if means_of_text and totals.counts[:, 0].sum() == 1:
        raise InputError(
            "one token is predicted, from position 0, whose mean is itself: give a longer text, or reference="
        )
    return totals


def _result(
    meta: dict[str, Any],
    model: Model,
    how: How,
    components: list[Ablated],
    metrics: list[str],
    totals: Totals,
    resamples: int,
    seed: int,
    budget: int,
) -> Ablation:
    """Return means and their intervals for the components that are done."""
    used = (totals.counts > 0).any(1)
    counts, sums = totals.counts[used], totals.sums[used]
    change = sums[:, 1:] - sums[:, :1]  # document component metric
    means, low, high = means_over_documents(change, counts[:, None], resamples, seed)
    return Ablation(
        meta,
        how,
        components[: change.shape[1]],
        metrics,
        whole=sums[:, 0].sum(0) / counts.sum(0),
        change=means,
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
