"""Trace one prompt: restore each clean state in runs whose subject is noised. Public as causal_trace.trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cutaway.analyses.causal_trace.engine import Tracer
from cutaway.analyses.causal_trace.noise import Distribution, draw_noise, noise_level
from cutaway.analyses.causal_trace.prompt import AnswerLike, Prompt, Subject, read_prompt
from cutaway.analyses.causal_trace.restorations import KINDS, Restoration, restorations
from cutaway.analyses.causal_trace.result import Trace
from cutaway.arguments import is_whole, shown, whole
from cutaway.errors import InputError, Interrupted
from cutaway.model.trunk import BUDGET
from cutaway.progress import meter
from cutaway.results.call import Code, analysis, meta_of
from cutaway.results.labels import token_labels, token_strings

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model


@analysis("causal_trace.trace")
def trace(
    model: Model,
    prompt: Inputs,
    subject: Subject,
    answer: AnswerLike = None,
    kinds: Sequence[str] = KINDS,
    window: int | None = None,
    noise: float = 3.0,
    samples: int = 10,
    seed: int = 0,
    noise_from: Sequence[str] | None = None,
    *,
    distribution: Distribution = "gaussian",
    occurrence: int | None = None,
    bos: bool = False,
    budget: int = BUDGET,
    each: Callable[[Trace], object] | None = None,
) -> Trace:
    """Restore each clean state in runs whose subject is noised, and measure the answer's probability.

    Args:
        prompt: one text, Tokens, or ids [1, pos].
        subject: words of the prompt (whole words are preferred to parts of others), characters (start, end) of it, or
            a range of token positions. Every token that shares a character with it is noised.
        answer: the expected continuation, such as " Paris" (with the leading space), or token ids; None for the clean
            run's first choice. For several tokens the probability is the product, each given the ones before it.
        kinds: some of "resid_post", "mlp_out" and "attn_out".
        window: layers of mlp_out and attn_out restored together, from layer - window // 2 on, clipped to the model's
            layers; None for ROME's share of the layers, max(1, round(10 L / 48)). resid_post is restored in one layer.
        noise: its standard deviation (for "uniform" its bound), in standard deviations of the entries of the token
            embeddings of the subjects in `noise_from`.
        samples: corrupted runs.
        seed: sample i at position p has the same noise whatever the other arguments are.
        noise_from: texts of subjects, tokenized as they are given; None for this prompt's subject.
        distribution: "gaussian" or "uniform".
        occurrence: which one, where the words are in the prompt several times: 0 is the first, -1 the last.
        bos: put the end-of-text token in front of the prompt.
        budget: bytes that a batch may take; the corrupted runs' own states, keys and values are not counted.
        each: called with the partial result as positions are finished.

    Raises:
        InputError: a subject or an answer that cannot be used, or a parameter out of its range.
        Interrupted: Ctrl-C; its `result` is what was done.
    """
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise InputError(f"kinds={kinds!r}: some of {', '.join(KINDS)} were expected, each once")
    windows = [1 if kind == "resid_post" else _window(model, window) for kind in kinds]
    checked = read_prompt(model, prompt, subject, answer, occurrence, bos=bos)
    sigma = noise_level(model, checked, noise, noise_from)
    noised = sigma * draw_noise(distribution, seed, samples, checked.subject, model.config.d_model)
    tracer = Tracer(model, checked.ids_to_read, checked.answer, checked.subject, noised, whole("budget", budget, 1))
    meta = meta_of(
        model,
        checked.text,
        subject=checked.subject if isinstance(checked.text, Code) else subject,
        answer=answer if answer is None or isinstance(answer, str) else checked.answer,
        kinds=tuple(kinds),
        noise_from=noise_from if noise_from is None else list(noise_from),
    )
    empty = _empty_trace(model, meta, checked, tracer, kinds, windows, sigma)
    return _fill(empty, tracer, _chosen(model, kinds, windows), each)


def _window(model: Model, window: int | None) -> int:
    """Return the layers restored together. Raises InputError for a window that is not 1 to n_layers."""
    layers = model.config.n_layers
    if window is None:
        return max(1, round(10 * layers / 48))
    if not is_whole(window) or not 1 <= window <= layers:
        raise InputError(
            f"window={shown(window)}: 1 to {layers} layers were expected, or None for {_window(model, None)}"
        )
    return int(window)


def _chosen(model: Model, kinds: list[str], windows: list[int]) -> list[Restoration]:
    """Return the restorations at each position: kind by kind, one a layer."""
    layers = model.config.n_layers
    return [each for kind, window in zip(kinds, windows, strict=True) for each in restorations(kind, layers, window)]


def _empty_trace(
    model: Model,
    meta: dict[str, object],
    prompt: Prompt,
    tracer: Tracer,
    kinds: list[str],
    windows: list[int],
    sigma: float,
) -> Trace:
    """Return a trace of which the clean run and the corrupted runs are done, and no cell."""
    n, layers, samples = len(prompt.ids), model.config.n_layers, tracer.samples
    cells = len(kinds) * layers * n
    return Trace(
        meta=meta,
        kinds=kinds,
        windows=windows,
        ids=prompt.ids,
        tokens=token_strings(model, prompt.ids),
        display=token_labels(model, prompt.ids),
        subject=prompt.subject,
        answer=tracer.answer,
        answer_text="".join(token_strings(model, tracer.answer)),
        display_answer="".join(token_labels(model, tracer.answer)),
        sigma=sigma,
        log_probabilities=torch.full((len(kinds), n, layers, samples), torch.nan, dtype=torch.float64),
        clean_log_probability=tracer.clean,
        corrupted_log_probabilities=tracer.corrupted,
        computed=tracer.computed,
        plain=cells * (samples + 1) * tracer.width * layers,
    )


def _fill(empty: Trace, tracer: Tracer, chosen: list[Restoration], each: Callable[[Trace], object] | None) -> Trace:
    """Compute the scores position by position. Raises Interrupted with the positions that are done at Ctrl-C."""
    scores = empty.log_probabilities
    kinds, n, layers, samples = scores.shape

    def now() -> Trace:
        return replace(empty, log_probabilities=scores.clone(), computed=tracer.computed)

    costs = [tracer.cost(position, chosen) for position in range(n)]
    try:
        with meter("tracing", "token-layers", sum(costs)) as advance:
            for position in range(n):
                scores[:, position] = tracer.scores(position, chosen).view(kinds, layers, samples)
                advance(costs[position], sum(costs))
                if each and costs[position]:
                    each(now())
    except KeyboardInterrupt:
        partial = now()
        raise Interrupted(partial, f"interrupted: {partial.done} of {n} positions are done") from None
    return now()
