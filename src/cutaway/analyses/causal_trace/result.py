"""Hold causal traces: the scores of one prompt's cells, and means over prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from cutaway.analyses.causal_trace.restorations import restorations
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first token after",
    "further tokens",
    "last token",
)
BOUNDS = ("mean", "low", "high")
QUANTITIES = ("probability", "effect", "log_probability")


@dataclass(frozen=True, eq=False, repr=False)
class TraceMeans(Result):
    """Means over prompts by kind, role and layer, with 95% intervals from resampling prompts.

    Tensors are float64 on the CPU. A role that few prompts have, so that a resample can have none, has no interval
    (NaN).
    """

    analysis: ClassVar[str] = "causal_trace.average"
    title: ClassVar[str] = "Where do the effects lie?"

    kinds: list[str]
    windows: list[int]
    roles: list[str]
    prompts: list[int]  # how many have a token of each role
    means: Tensor  # kind role layer quantity: probability, effect, log_probability (nats); NaN where no prompt has one
    low: Tensor
    high: Tensor
    clean: float  # mean probability of the answers in the clean runs
    corrupted: float

    def table(self) -> pd.DataFrame:
        """Return one row a kind, role, layer and quantity (probability, effect, log_probability in nats): prompts,
        mean, low, high."""
        import pandas as pd

        shape = self.means.shape
        cells = [
            (k, r, i, q) for k in range(shape[0]) for r in range(shape[1]) for i in range(shape[2]) for q in range(3)
        ]
        return pd.DataFrame(
            {
                "kind": [self.kinds[k] for k, _, _, _ in cells],
                "role": [self.roles[r] for _, r, _, _ in cells],
                "layer": [i for _, _, i, _ in cells],
                "prompts": [self.prompts[r] for _, r, _, _ in cells],
                "quantity": [QUANTITIES[q] for _, _, _, q in cells],
                **{name: getattr(self, f"{name}s" if name == "mean" else name).flatten().numpy() for name in BOUNDS},
            }
        )

    @property
    def count(self) -> int:
        """Return the number of prompts."""
        return max(self.prompts)

    def summary(self) -> str:
        """Return the largest mean effect of each role and kind."""
        few = "; under 30 prompts the bands are rough" if self.count < 30 else ""
        lines = [
            f"{self.count} prompts: answers {self.clean:.1%} clean, {self.corrupted:.1%} with the subject hidden",
            f"{'largest mean effect':<24}{''.join(f'{kind:>30}' for kind in self.kinds)}",
        ]
        for r, role in enumerate(self.roles):
            if not self.prompts[r]:
                continue
            best = []
            for k in range(len(self.kinds)):
                layer = int(self.means[k, r, :, 1].argmax())
                low, high = float(self.low[k, r, layer, 1]), float(self.high[k, r, layer, 1])
                band = f"({low:+.1%} to {high:+.1%})" if not math.isnan(low) else "(no band)"
                best.append(f"{self.means[k, r, layer, 1]:+.1%} {band} {layer:>2}")
            lines.append(f"{role:<24}{''.join(f'{text:>30}' for text in best)}")
        return "\n".join([*lines, f"points of probability, (95% over prompts), layer{few}"])

    def facts(self) -> list[tuple[str, str]]:
        """Return the number of prompts."""
        return [("prompts traced", f"{self.count:,}")]

    def caption(self) -> str:
        """Return what the chart shows."""
        wide = max(self.windows)
        several = f"; of MLPs and attention {wide} layers around it at once" if wide > 1 else ""
        some = " In brackets, how many prompts have such a token." if len({*self.prompts} - {0}) > 1 else ""
        return (
            "Mean indirect effect of putting one clean state back, by the role of its token in the prompt: how much it "
            f"raises the answer's probability above {self.corrupted:.1%}, to which hiding the subject lowers it from "
            f"{self.clean:.1%}. Layer of the restored state{several}. Bands: 95% intervals from resampling prompts."
            f"{some}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Trace(Result):
    """Scores of every cell: a state of one kind, at one position and layer. NaN where a partial result is not done.

    Tensors are float64 on the CPU. Probabilities are of the whole answer: for several tokens the product, each token
    given the tokens before it.
    """

    analysis: ClassVar[str] = "causal_trace.trace"
    title: ClassVar[str] = "Which states bring the answer back?"

    kinds: list[str]
    windows: list[int]  # layers restored together, for each kind
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
    computed: int  # token-layers, each one block at one position of one run
    plain: int  # token-layers of a whole run for each cell

    @property
    def probability(self) -> Tensor:
        """Return the score, the mean over corrupted runs: [kind, position, layer]."""
        return self.log_probabilities.exp().mean(-1)

    @property
    def probability_sd(self) -> Tensor:
        """Return the score's standard deviation over corrupted runs: [kind, position, layer]; NaN for a single run."""
        return _sd(self.log_probabilities.exp())

    @property
    def log_probability(self) -> Tensor:
        """Return the mean log-probability over corrupted runs, nats: [kind, position, layer]."""
        return self.log_probabilities.mean(-1)

    @property
    def log_probability_sd(self) -> Tensor:
        """Return the log-probability's standard deviation over corrupted runs: [kind, position, layer]."""
        return _sd(self.log_probabilities)

    @property
    def clean(self) -> float:
        """Return the answer's probability in the clean run."""
        return math.exp(self.clean_log_probability)

    @property
    def corrupted(self) -> float:
        """Return the answer's mean probability in the corrupted runs."""
        return float(self.corrupted_log_probabilities.exp().mean())

    @property
    def corrupted_sd(self) -> float:
        """Return the standard deviation of the answer's probability over the corrupted runs; NaN for a single run."""
        return float(_sd(self.corrupted_log_probabilities.exp()))

    @property
    def effect(self) -> Tensor:
        """Return indirect effects, the scores less that of the corrupted runs: [kind, position, layer]."""
        return self.probability - self.corrupted

    @property
    def total_effect(self) -> float:
        """Return the answer's probability in the clean run less that in the corrupted runs."""
        return self.clean - self.corrupted

    @property
    def done(self) -> int:
        """Return the number of positions whose cells are all computed."""
        return int((~self.log_probabilities.isnan().any(-1).any(-1).any(0)).sum())

    def strongest(self, kind: str) -> tuple[int, int, float] | None:
        """Return position, layer and score of the kind's best cell; None where none is computed yet."""
        scores = self.probability[self.kinds.index(kind)]
        if scores.isnan().all():
            return None
        best = int(scores.nan_to_num(-1.0).argmax())
        position, layer = divmod(best, scores.shape[1])
        return position, layer, float(scores[position, layer])

    def layers_of(self, kind: str, layer: int) -> tuple[int, int]:
        """Return the first and the last layer that a kind's cell at a layer restores."""
        every = restorations(kind, self.log_probabilities.shape[2], self.windows[self.kinds.index(kind)])
        return every[layer].first, every[layer].end - 1

    def table(self) -> pd.DataFrame:
        """Return one row a cell: kind, layer, first_layer and last_layer restored, position, token, subject (whether
        the token is the subject's), probability and log_probability (nats) with their standard deviations over
        samples, indirect_effect."""
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
        """Return the clean and the corrupted level, each kind's best cell, and the token-layers computed."""
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
        """Return the answer's probability in the clean and in the corrupted runs."""
        return [("an answer, its subject hidden", f"{percent(self.clean)}, {percent(self.corrupted)}")]

    def caption(self) -> str:
        """Return what the chart shows."""
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


def _sd(values: Tensor) -> Tensor:
    """Return standard deviations over the last dimension; NaN for a single value."""
    return values.std(-1) if values.shape[-1] > 1 else torch.full_like(values[..., 0], torch.nan)


def percent(probability: float) -> str:
    """Return a probability as 68.4%, or as 0.0021% where one decimal would show 0.0%."""
    return f"{probability:.1%}" if probability >= 0.001 or not probability else f"{100 * probability:.2g}%"


def _ending(display: list[str]) -> str:
    """Return the last eight tokens of the prompt."""
    return ("…" if len(display) > 8 else "") + "".join(display[-8:])
