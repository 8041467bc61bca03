"""Causal traces of several prompts, averaged by the role of the token. Public as causal_trace.average.

Prompts have subjects of different lengths at different places, so their cells are put together by what the token is:
first, middle and last token of the subject, the first one after it, further ones, and the last token of the prompt. A
token can have two roles (the only token of a subject is its first and its last), as in ROME's own averages.

Meng et al. 2022, Locating and Editing Factual Associations in GPT, figure 2 and appendix B.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cutaway.analyses.resampling import draw_weights, interval
from cutaway.analyses.result import LONGEST, Result
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.model.modes import plainly
from cutaway.versions import versions

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.analyses.causal_trace import Trace

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
    """Means over prompts by kind, role and layer, with 95% intervals that resample prompts. float64, on the CPU.
    Where so few prompts have a role that a resample may have none there is no interval (NaN)."""

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
        """One row a kind, role, layer and quantity (probability, effect, log_probability in nats): prompts, mean, low,
        high."""
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
        return max(self.prompts)

    def summary(self) -> str:
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
                band = f"({low:+.1%} to {high:+.1%})" if low == low else "(no band)"
                best.append(f"{self.means[k, r, layer, 1]:+.1%} {band} {layer:>2}")
            lines.append(f"{role:<24}{''.join(f'{text:>30}' for text in best)}")
        return "\n".join([*lines, f"points of probability, (95% over prompts), layer{few}"])

    def facts(self) -> list[tuple[str, str]]:
        return [("prompts traced", f"{self.count:,}")]

    def caption(self) -> str:
        wide = max(self.windows)
        several = f"; of MLPs and attention {wide} layers around it at once" if wide > 1 else ""
        some = " In brackets, how many prompts have such a token." if len({*self.prompts} - {0}) > 1 else ""
        return (
            "Mean indirect effect of putting one clean state back, by what its token is in the prompt: how much it "
            f"raises the answer's probability above {self.corrupted:.1%}, which is what the hidden subject leaves of "
            f"{self.clean:.1%}. Layer of the restored state{several}. Bands: 95% intervals from resampling prompts."
            f"{some}"
        )


@plainly
def average(traces: Iterable[Trace], resamples: int = 1000, seed: int = 0) -> TraceMeans:
    """Means of traces over prompts, by role of the token and layer, with 95% bands that resample prompts.

    Each prompt counts once: its tokens of one role (middle subject tokens, further tokens) are averaged first.

    Raises InputError for fewer than two traces, traces of different models, kinds or windows, or unfinished ones.
    """
    traces = list(traces)
    if len(traces) < 2:
        got = "1 trace was" if traces else "no traces were"
        raise InputError(f"{got} given: two or more prompts were expected to average over")
    resamples, seed = whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    first = traces[0]
    for i, found in enumerate(traces):
        if _about(found) != _about(first):
            raise InputError(f"trace {i + 1} and trace 1 differ in model, kinds or windows: trace all prompts alike")
        if found.done < len(found.ids):
            raise InputError(f"trace {i + 1} is not finished: {found.done} of {len(found.ids)} positions are done")
    values = torch.stack([_by_role(found) for found in traces])  # prompt kind role layer quantity
    has = ~values[:, 0, :, 0, 0].isnan()  # prompt role
    weights = draw_weights(len(traces), resamples, seed)
    low, high = interval(_means(values, has, weights))
    [means] = _means(values, has, torch.ones(1, len(traces), dtype=torch.float64))
    return TraceMeans(
        meta=_meta(traces, resamples, seed),
        kinds=first.kinds,
        windows=first.windows,
        roles=list(ROLES),
        prompts=has.sum(0).tolist(),
        means=means,
        low=low,
        high=high,
        clean=sum(found.clean for found in traces) / len(traces),
        corrupted=sum(found.corrupted for found in traces) / len(traces),
    )


def roles_of(n: int, subject: range) -> dict[str, range]:
    """The positions of each role in a prompt of n tokens."""
    b, e = subject.start, subject.stop
    places = [range(b, b + 1), range(b + 1, e - 1), range(e - 1, e), range(e, min(e + 1, n)), range(e + 1, n - 1)]
    return dict(zip(ROLES, [*places, range(n - 1, n)], strict=True))


def _by_role(found: Trace) -> Tensor:
    """kind role layer quantity, NaN for roles that this prompt does not have."""
    values = torch.stack([getattr(found, name) for name in QUANTITIES], -1)  # kind position layer quantity
    places = roles_of(len(found.ids), found.subject).values()
    return torch.stack([values[:, list(place)].mean(1) for place in places], 1)


def _means(values: Tensor, has: Tensor, weights: Tensor) -> Tensor:
    """Weighted means over the prompts that have the role: [resample, kind, role, layer, quantity].

    A resample without any such prompt is NaN, and leaves the role without an interval.
    """
    total = torch.einsum("np,pkrlq->nkrlq", weights, values.nan_to_num())
    return total / (weights @ has.double())[:, None, :, None, None]


def _about(found: Trace) -> tuple[object, ...]:
    model = found.meta["model"]["fingerprint"]
    return model, found.meta["edits"], found.kinds, found.windows, found.log_probabilities.shape[2]


def _meta(traces: list[Trace], resamples: int, seed: int) -> dict[str, Any]:
    """As describe() makes it; the call makes the traces again, too, where they do not fill the page."""
    calls = [found.meta["call"].split("\n", 1) for found in traces]
    given = ",\n    ".join(call for _, call in calls)
    if len(given) > 4 * LONGEST or any("\n" in call for _, call in calls):
        given = f"...  # {len(traces)} calls of cutaway.causal_trace.trace"
    options = f"resamples={resamples}, seed={seed}"
    call = f"{calls[0][0]}\ntraces = [\n    {given},\n]\ncutaway.causal_trace.average(traces, {options})"
    return {
        "model": traces[0].meta["model"],
        "input": [found.meta["input"] for found in traces],
        "parameters": {"resamples": resamples, "seed": seed},
        "edits": traces[0].meta["edits"],
        "versions": versions(),
        "call": call,
    }
