"""TODO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cutaway.analyses.causal_trace import engine as tracing
from cutaway.analyses.causal_trace import prompt as corruption
from cutaway.analyses.causal_trace.engine import KINDS
from cutaway.analyses.causal_trace.noise import Distribution, draw, level
from cutaway.analyses.causal_trace.prompt import Answer, Subject
from cutaway.analyses.causal_trace.result import Trace
from cutaway.arguments import is_whole, shown, whole
from cutaway.errors import InputError, Interrupted
from cutaway.model.modes import plainly
from cutaway.model.trunk import BUDGET
from cutaway.progress import meter
from cutaway.results.call import Code, describe
from cutaway.results.labels import token_labels, token_strings

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model


@plainly
def trace(
    model: Model,
    prompt: Inputs,
    subject: Subject,
    answer: Answer = None,
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
    """Restore each clean state in runs whose subject is noised, and ask for the answer.

    Args:
        prompt: one text, Tokens, or ids [1, pos].
        subject: words of the prompt (whole words are preferred to parts of others), characters (start, end) of it, or
            a range of token positions. Every token that shares a character with it is noised.
        answer: what the prompt leads to, such as " Paris" (mind the leading space), or token ids; None for the clean
            run's first choice. Of several tokens the probability is the product, each given the ones before it.
        kinds: of "resid_post", "mlp_out" and "attn_out".
        window: layers of mlp_out and attn_out restored together, from layer - window // 2 on, clipped to the layers
            there are; None for ROME's share of the layers, max(1, round(10 L / 48)). resid_post is restored alone.
        noise: its standard deviation (for "uniform" its bound), in standard deviations of the entries of the token
            embeddings of the subjects in `noise_from`; those are read as they are given. None: this prompt's subject.
        samples: corrupted runs.
        seed: sample i at position p has the same noise whatever else is asked.
        occurrence: which one, where the words are in the prompt several times: 0 is the first, -1 the last.
        budget: bytes that a batch may take; the corrupted runs' own states, keys and values are not counted.
        each: called with the partial result as positions are finished.

    Raises:
        InputError: a subject or an answer that cannot be, a parameter out of its range. One line says which.
        Interrupted: Ctrl-C; its `result` is what was done.
    """
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise InputError(f"kinds={kinds!r}: some of {', '.join(KINDS)} were expected, each once")
    windows = [1 if kind == "resid_post" else _window(model, window) for kind in kinds]
    asked = corruption.read(model, prompt, subject, answer, occurrence, bos=bos)
    sigma = level(model, asked, noise, noise_from)
    drawn = draw(distribution, seed, samples, asked.subject, model.config.d_model)
    noised, budget = sigma * drawn, whole("budget", budget, 1)
    tracer = tracing.Tracer(model, asked.forced(asked.answer), asked.answer, asked.subject, noised, budget)
    n, layers = len(asked.ids), model.config.n_layers
    of = [cell for kind, wide in zip(kinds, windows, strict=True) for cell in tracing.cells(kind, layers, wide)]
    started = Trace(
        meta=describe(
            model,
            "causal_trace.trace",
            asked.text,
            subject=asked.subject if isinstance(asked.text, Code) else subject,
            answer=answer if answer is None or isinstance(answer, str) else asked.answer,
            kinds=tuple(kinds),
            window=window,
            noise=noise,
            samples=samples,
            seed=seed,
            noise_from=noise_from if noise_from is None else list(noise_from),
            distribution=distribution,
            occurrence=occurrence,
            bos=bos,
        ),
        kinds=kinds,
        windows=windows,
        ids=asked.ids,
        tokens=token_strings(model, asked.ids),
        display=token_labels(model, asked.ids),
        subject=asked.subject,
        answer=tracer.answer,
        answer_text="".join(token_strings(model, tracer.answer)),
        display_answer="".join(token_labels(model, tracer.answer)),
        sigma=sigma,
        log_probabilities=torch.full((len(kinds), n, layers, samples), torch.nan, dtype=torch.float64),
        clean_log_probability=tracer.clean,
        corrupted_log_probabilities=tracer.corrupted,
        computed=tracer.computed,
        plain=len(of) * n * (samples + 1) * tracer.width * layers,
    )
    return _fill(started, tracer, of, each)


def _fill(
    started: Trace, tracer: tracing.Tracer, of: list[tracing.Cell], each: Callable[[Trace], object] | None
) -> Trace:
    """Position by position; what is there when Ctrl-C comes is kept."""
    scores = started.log_probabilities
    kinds, n, layers, samples = scores.shape

    def now() -> Trace:
        return replace(started, log_probabilities=scores.clone(), computed=tracer.computed)

    costs = [tracer.cost(position, of) for position in range(n)]
    try:
        with meter("tracing", "token-layers", sum(costs)) as advance:
            for position in range(n):
                scores[:, position] = tracer.scores(position, of).view(kinds, layers, samples)
                advance(costs[position], sum(costs))
                if each and costs[position]:
                    each(now())
    except KeyboardInterrupt:
        found = now()
        raise Interrupted(found, f"interrupted: {found.done} of {n} positions are done") from None
    return now()


def _window(model: Model, window: int | None) -> int:
    layers = model.config.n_layers
    if window is None:
        return max(1, round(10 * layers / 48))
    if not is_whole(window) or not 1 <= window <= layers:
        raise InputError(
            f"window={shown(window)}: 1 to {layers} layers were expected, or None for {_window(model, None)}"
        )
    return int(window)
