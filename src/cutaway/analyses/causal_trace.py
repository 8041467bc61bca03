"""Causal tracing: which states, restored in a run that cannot see its subject, bring the answer back.

    found = trace(model, "The Eiffel Tower is in", "Eiffel Tower", answer=" Paris")
    found.chart(); found.probability[kind, position, layer]; found.effect
    average([found, another])                the same by the role of the token, with bands over prompts

ROME's algorithm: a clean run; corrupted runs, in which noise on the subject's token embeddings hides it; and for each
cell the corrupted runs once more with one clean state put back, at one position in one layer (resid_post) or in a
window of layers (mlp_out, attn_out). A cell's score is the answer's probability, the mean over the corrupted runs. Its
indirect effect is the score less that of the corrupted runs. tracing.py says what need not be computed for that.

Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1. Vig et al. 2020, Investigating Gender
Bias in Language Models Using Causal Mediation Analysis (indirect effects).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from cutaway.analyses import corruption, tracing
from cutaway.analyses.corruption import Answer, Distribution, Subject
from cutaway.analyses.result import Code, Result, describe
from cutaway.analyses.trace_means import TraceMeans, average
from cutaway.analyses.tracing import KINDS
from cutaway.analyses.words import displays, strings
from cutaway.arguments import is_whole, shown, whole
from cutaway.errors import InputError, Interrupted
from cutaway.model.modes import plainly
from cutaway.model.trunk import BUDGET
from cutaway.progress import meter

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

__all__ = ["KINDS", "Trace", "TraceMeans", "average", "trace"]


@dataclass(frozen=True, eq=False, repr=False)
class Trace(Result):
    """Scores of every cell. What is not done (in a partial result) is NaN.

    Tensors are float64 on the CPU. Probabilities are the whole answer's: for several tokens the product, each token
    given the ones before it.
    """

    analysis: ClassVar[str] = "causal_trace.trace"
    title: ClassVar[str] = "Which states bring the answer back?"

    kinds: list[str]
    windows: list[int]  # layers restored together, of each kind
    ids: list[int]
    tokens: list[str]
    display: list[str]
    subject: range  # positions of the noised tokens
    answer: list[int]
    answer_text: str
    display_answer: str
    sigma: float  # of the noise
    log_probabilities: Tensor  # kind position layer sample; nats
    clean_log_probability: float
    corrupted_log_probabilities: Tensor  # sample
    computed: int  # token-layers: one block at one position of one run
    plain: int  # as many as a whole run for each cell takes

    @property
    def probability(self) -> Tensor:
        """The score, mean over corrupted runs: [kind, position, layer]."""
        return self.log_probabilities.exp().mean(-1)

    @property
    def probability_sd(self) -> Tensor:
        """Its standard deviation over corrupted runs: [kind, position, layer]; NaN for a single one."""
        return _sd(self.log_probabilities.exp())

    @property
    def log_probability(self) -> Tensor:
        """Mean log-probability over corrupted runs, nats: [kind, position, layer]."""
        return self.log_probabilities.mean(-1)

    @property
    def log_probability_sd(self) -> Tensor:
        return _sd(self.log_probabilities)

    @property
    def clean(self) -> float:
        """The answer's probability in the clean run."""
        return math.exp(self.clean_log_probability)

    @property
    def corrupted(self) -> float:
        """And in the corrupted runs, mean."""
        return float(self.corrupted_log_probabilities.exp().mean())

    @property
    def corrupted_sd(self) -> float:
        return float(_sd(self.corrupted_log_probabilities.exp()))

    @property
    def effect(self) -> Tensor:
        """Indirect effects: score less the corrupted runs', [kind, position, layer]."""
        return self.probability - self.corrupted

    @property
    def total_effect(self) -> float:
        return self.clean - self.corrupted

    @property
    def done(self) -> int:
        """Positions whose cells are all there."""
        return int((~self.log_probabilities.isnan().any(-1).any(-1).any(0)).sum())

    def strongest(self, kind: str) -> tuple[int, int, float] | None:
        """Position, layer and score of the kind's best cell; None where there is none yet."""
        scores = self.probability[self.kinds.index(kind)]
        if scores.isnan().all():
            return None
        best = int(scores.nan_to_num(-1.0).argmax())
        position, layer = divmod(best, scores.shape[1])
        return position, layer, float(scores[position, layer])

    def layers_of(self, kind: str, layer: int) -> tuple[int, int]:
        """The first and the last layer that a cell restores."""
        found = tracing.cells(kind, self.log_probabilities.shape[2], self.windows[self.kinds.index(kind)])[layer]
        return found.first, found.end - 1

    def table(self) -> pd.DataFrame:
        """One row a cell: kind, layer, first_layer and last_layer restored, position, token, whether of the subject,
        probability and log_probability (nats) with their standard deviations over samples, indirect_effect."""
        import pandas as pd

        kinds, positions, layers, _ = self.log_probabilities.shape
        cells = [(k, p, i) for k in range(kinds) for p in range(positions) for i in range(layers)]
        reach = [self.layers_of(self.kinds[k], i) for k, _, i in cells]
        columns = {
            "kind": [self.kinds[k] for k, _, _ in cells],
            "layer": [i for _, _, i in cells],
            "first_layer": [first for first, _ in reach],
            "last_layer": [last for _, last in reach],
            "position": [p for _, p, _ in cells],
            "token": [self.tokens[p] for _, p, _ in cells],
            "subject": [p in self.subject for _, p, _ in cells],
        }
        for name in ("probability", "probability_sd", "log_probability", "log_probability_sd"):
            columns[name] = getattr(self, name).flatten().numpy()
        return pd.DataFrame({**columns, "indirect_effect": self.effect.flatten().numpy()})

    def summary(self) -> str:
        positions, layers = self.log_probabilities.shape[1:3]
        samples = len(self.corrupted_log_probabilities)
        hidden = "".join(self.display[i] for i in self.subject)
        spread = f" ± {percent(self.corrupted_sd)}" if samples > 1 else ""
        lines = [
            f"{self.display_answer} after {_ending(self.display)}: {percent(self.clean)}; "
            f"{percent(self.corrupted)}{spread} with "
            f"{hidden} hidden ({samples} sample{'s' * (samples > 1)}, noise {self.sigma:.3g})"
        ]
        names = [
            kind + (f", {w} layers at once" if w > 1 else "") for kind, w in zip(self.kinds, self.windows, strict=True)
        ]
        for kind, name in zip(self.kinds, names, strict=True):
            if best := self.strongest(kind):
                position, layer, score = best
                first, last = self.layers_of(kind, layer)
                where = f"layer {layer}" if first == last else f"layers {first} to {last}"
                at = f"{self.display[position]} ({position}), {where}"
                lines.append(f"{name:<{max(map(len, names))}}  at most {percent(score)}, at {at}")
        if self.done < positions:
            lines.append(f"not finished: {self.done} of {positions} positions x {layers} layers are done")
        else:
            fewer = f"{self.plain:,}: {self.plain / self.computed:.1f} x fewer"
            lines.append(f"{self.computed:,} token-layers computed; whole runs would take {fewer}")
        return "\n".join(lines)

    def facts(self) -> list[tuple[str, str]]:
        return [("an answer, its subject hidden", f"{percent(self.clean)}, {percent(self.corrupted)}")]

    def caption(self) -> str:
        hidden = "".join(self.display[i] for i in self.subject)
        wide = max(self.windows)
        several = f" ({wide} layers of MLP or attention outputs around it)" if wide > 1 else ""
        samples = len(self.corrupted_log_probabilities)
        mean = f"the mean over {samples} draws of the noise" if samples > 1 else "with one draw of the noise"
        return (
            f"Noise on the embeddings of {hidden} (starred) hides it: the probability of {self.display_answer} goes "
            f"from {percent(self.clean)} (clean) to {percent(self.corrupted)} (corrupted). Each cell puts one clean "
            f"state back, at a token in a layer{several}, and shows the answer's probability then, {mean}. Orange is "
            "more than in the corrupted runs, blue is less."
        )


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
    sigma = corruption.level(model, asked, noise, noise_from)
    drawn = corruption.draw(distribution, seed, samples, asked.subject, model.config.d_model)
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
        tokens=strings(model, asked.ids),
        display=displays(model, asked.ids),
        subject=asked.subject,
        answer=tracer.answer,
        answer_text="".join(strings(model, tracer.answer)),
        display_answer="".join(displays(model, tracer.answer)),
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


def _sd(values: Tensor) -> Tensor:
    """Over the last dimension; NaN for a single value."""
    return values.std(-1) if values.shape[-1] > 1 else torch.full_like(values[..., 0], torch.nan)


def percent(probability: float) -> str:
    """68.4%; 0.0021% where one digit behind the point would show nothing."""
    return f"{probability:.1%}" if probability >= 0.001 or not probability else f"{100 * probability:.2g}%"


def _ending(display: list[str]) -> str:
    return ("…" if len(display) > 8 else "") + "".join(display[-8:])
