"""Attribution: which components, and which tokens of the text, a logit comes from.

    direct(model, "The people of the United", " States")            every component's part of the logit
    direct(model, text, " States", " Kingdom", neurons=10)          of a difference of two, with the largest neurons
    gradient(model, text, " States", sites="resid_post")            gradient times activation, by token
    integrated(model, text, " States", steps=64)                    integrated gradients over the token embeddings

A logit is a sum over what was written to the residual stream, once the final LayerNorm's scale s is that of this very
text and position. With g = w_ln * (W_U[target] - W_U[versus]) and c what a component wrote,

    contribution(c) = (c - mean(c)) / s . g = c . (g - mean(g)) / s

The biases of the final LayerNorm and of the unembedding are what is left. The parts sum to the logit; what they do
through later layers is no part of them.

Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, "Direct effect of the residual stream".
Simonyan et al. 2014, Deep Inside Convolutional Networks; Shrikumar et al. 2017, Not Just a Black Box (gradient times
input). Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, equation 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from cutaway.analyses import asking
from cutaway.analyses.asking import Answer, Ask, Target
from cutaway.analyses.predictions import BATCH_TOKENS
from cutaway.analyses.result import describe
from cutaway.arguments import whole
from cutaway.errors import InputError
from cutaway.model.modes import gradients, plainly
from cutaway.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

Baseline: TypeAlias = Literal["zero", "mean"]
MOST_STEPS = 1000  # of an integral; the rule's points are eigenvalues of a matrix of that size
GROUPS = {  # kinds of component, in forward order, and what their sums are called
    "embed": "token embedding",
    "pos_embed": "position embedding",
    "head": "attention heads",
    "b_O": "attention biases",
    "mlp": "MLPs",
    "b_out": "MLP biases",
    "ln_final.b": "final LayerNorm's bias",
    "b_U": "unembedding's bias",
    "edits": "edits",
}


@dataclass(frozen=True, slots=True)
class Component:
    """Something that wrote to the logit."""

    kind: str  # of GROUPS, or "neuron", a part of its MLP
    layer: int | None
    index: int | None  # of the head or neuron
    contribution: float

    @property
    def name(self) -> str:
        place = "" if self.layer is None else f" {self.layer}" + ("" if self.index is None else f".{self.index}")
        return f"{self.kind}{place}"


@dataclass(frozen=True, eq=False, repr=False)
class Direct(Answer):
    """What each component wrote to a logit, or to a difference of two."""

    analysis: ClassVar[str] = "attribution.direct"
    title: ClassVar[str] = "Which components wrote the answer?"

    scale: float  # of the final LayerNorm at this position
    components: list[Component]  # they sum to the logit
    neurons: list[Component]  # the largest, each a part of its MLP
    layers: int
    heads: int
    accumulated: list[float]  # embeddings and final biases, then after each layer; the last is the logit

    @property
    def gap(self) -> float:
        """The sum of the components less the logit: rounding."""
        return sum(c.contribution for c in self.components) - self.logit

    def groups(self) -> dict[str, float]:
        """The sum over each kind of component."""
        sums: dict[str, float] = {}
        for c in self.components:
            sums[c.kind] = sums.get(c.kind, 0.0) + c.contribution
        return sums

    def largest(self, k: int = 8) -> list[Component]:
        """The components that moved the logit most, either way."""
        return sorted(self.components, key=lambda c: -abs(c.contribution))[:k]

    def table(self) -> pd.DataFrame:
        """One row a component: component, kind, layer, index, contribution. Rows of kind "neuron" are parts of their
        MLP's row; all others sum to the logit."""
        import pandas as pd

        rows = [(c.name, c.kind, c.layer, c.index, c.contribution) for c in (*self.components, *self.neurons)]
        frame = pd.DataFrame(rows, columns=["component", "kind", "layer", "index", "contribution"])
        return frame.astype({"layer": "Int64", "index": "Int64"})

    def by_layer(self) -> pd.DataFrame:
        """The logit as it accumulates: layer (-1 before the first), accumulated, and what the layer added."""
        import pandas as pd

        frame = pd.DataFrame({"layer": range(-1, self.layers), "accumulated": self.accumulated})
        return frame.assign(added=frame["accumulated"].diff().fillna(frame["accumulated"].iloc[0]))

    def summary(self) -> str:
        lines = [self.heading()]
        lines += [f"  {GROUPS[kind]:<24}{value:+8.3f}" for kind, value in self.groups().items()]
        lines.append("largest: " + ", ".join(f"{c.name} {c.contribution:+.2f}" for c in self.largest()))
        if self.neurons:
            lines.append("neurons: " + ", ".join(f"{c.name} {c.contribution:+.2f}" for c in self.neurons[:8]))
        return "\n".join(lines)

    def caption(self) -> str:
        return (
            f"What each component wrote directly to the {self.what} {self.display_target} ({self.logit:+.2f} in all), "
            "through the final LayerNorm's own scale at this position; orange raises it, blue lowers it. Below: the "
            "sum after each layer (it begins with the embeddings and the final biases), and the sum of each kind. "
            "What a component does through later layers is counted as theirs."
        )


@dataclass(frozen=True, eq=False, repr=False)
class ByPosition(Answer):
    """A number for each site and token. `values` is [site, pos], float64 on the CPU."""

    sites: list[str]
    values: Tensor

    def table(self) -> pd.DataFrame:
        """One row a site and token: site, position, token, attribution."""
        import pandas as pd

        n = len(self.tokens)
        columns = {
            "site": [site for site in self.sites for _ in range(n)],
            "position": list(range(n)) * len(self.sites),
            "token": self.tokens * len(self.sites),
            "attribution": self.values.flatten().numpy(),
        }
        return pd.DataFrame(columns)

    def summary(self) -> str:
        lines = [self.heading()]
        width = max(map(len, self.sites))
        for site, row in zip(self.sites, self.values, strict=True):
            best = row.abs().topk(min(5, len(row))).indices.tolist()
            words = "  ".join(f"{self.display[i]} {row[i]:+.2f}" for i in best)
            lines.append(f"{site:<{width}}  sum {row.sum():+7.2f}  {words}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, repr=False)
class Gradient(ByPosition):
    """Gradient times activation."""

    analysis: ClassVar[str] = "attribution.gradient"
    title: ClassVar[str] = "Which states is the answer sensitive to?"

    def caption(self) -> str:
        return (
            f"Gradient of the logit {self.display_target} with respect to the state at each token, times the state: "
            "to first order, what setting it to zero would take away. Orange raises the logit, blue lowers it. Choose "
            "a site, or click a row."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Integrated(ByPosition):
    """Integrated gradients over the token embeddings."""

    analysis: ClassVar[str] = "attribution.integrated"
    title: ClassVar[str] = "Which tokens does the answer come from?"

    start: float  # the logit at the baseline
    steps: int
    baseline: str

    @property
    def gap(self) -> float:
        """Completeness: the sum of the attributions less (the logit here - the logit at the baseline)."""
        return float(self.values.sum()) - (self.logit - self.start)

    def summary(self) -> str:
        end = f"{self.start:+.3f} at the baseline ({self.baseline}), completeness gap {self.gap:+.1e}"
        return f"{super().summary()}\n{end} in {self.steps} steps"

    def caption(self) -> str:
        where = "zero" if self.baseline == "zero" else "the mean token embedding"
        return (
            f"Integrated gradients of the logit {self.display_target} along the straight path of the token "
            f"embeddings from {where} to the text's own: what each token adds to {self.start:+.2f}, the logit at the "
            f"start, to arrive at {self.logit:+.2f}. Orange raises it, blue lowers it."
        )


@plainly
def direct(
    model: Model,
    text: Inputs,
    target: Target = None,
    versus: Target = None,
    *,
    position: int = -1,
    neurons: int | None = None,
    bos: bool = False,
) -> Direct:
    """Every component's direct contribution to a logit at a position, or to the difference of two.

    Args:
        text: one text, Tokens, or ids [1, pos].
        target: a single token such as " States", or its id; None for the model's own first choice.
        versus: explain the logit of `target` less that of this token.
        position: of the token after which the model speaks; negative ones count from the end.
        neurons: also the so many single MLP neurons that contribute most, either way.

    With edits in force a component "edits" holds what they put there that no component wrote.

    Raises:
        InputError: several texts, a position that is not there, neurons below 1.
        TokenizerError: a target that is not one token.
    """
    neurons = None if neurons is None else whole("neurons", neurons, 1)
    ask = asking.ask(model, text, target, versus, position, bos)
    kinds = ["attn.result", "mlp_out", "resid_post", *(["mlp.post"] if neurons else [])]
    run = model.run(ask.tokens, capture=["embed", "pos_embed", *kinds, "ln_final.scale"], logits="last")
    ask = ask.settled(model, run.logits[0, -1])
    here = {name: value[0, -1].detach().double() for name, value in run.items()}
    scale = here["ln_final.scale"].item()
    toward, norm = ask.row(model.weights.W_U), model.weights.ln_final
    weighed = toward if norm.w is None else toward * norm.w.double()
    u = (weighed - weighed.mean()) / scale  # D; a state's product with it is its part of the logit
    before = [Component(name, None, None, (here[name] @ u).item()) for name in ("embed", "pos_embed")]
    after = []
    if norm.b is not None:
        after.append(Component("ln_final.b", None, None, (norm.b.double() @ toward).item()))
    if model.weights.b_U is not None:
        after.append(Component("b_U", None, None, ask.row(model.weights.b_U).item()))
    parts = [*before, *_blocks(model, here, u), *after]
    logit = ask.of(run.logits[0, -1]).item()
    if model.active_edits:
        parts.append(Component("edits", None, None, logit - sum(c.contribution for c in parts)))
    constant = sum(c.contribution for c in after)
    stream = [here[f"blocks.{i}.resid_post"] for i in range(model.config.n_layers)]
    parameters = {"target": target, "versus": versus, "position": position, "neurons": neurons, "bos": bos}
    return Direct(
        meta=describe(model, "attribution.direct", ask.subject, **parameters),
        **ask.words(model),
        logit=logit,
        scale=scale,
        components=parts,
        neurons=_neurons(model, here, u, neurons) if neurons else [],
        layers=model.config.n_layers,
        heads=model.config.n_heads,
        accumulated=[
            sum(c.contribution for c in before) + constant,
            *((x @ u).item() + constant for x in stream),
        ],
    )


@plainly
def gradient(
    model: Model,
    text: Inputs,
    target: Target = None,
    versus: Target = None,
    sites: str = "resid_post",
    *,
    position: int = -1,
    bos: bool = False,
) -> Gradient:
    """Gradient of a logit (or of a difference of two) at each site, times the site's value, summed at each token.

    `sites` is a pattern of any sites. Attention scores and patterns count at the token that is looked at. The other
    arguments are those of `direct`.

    Raises SiteError for a pattern that matches nothing, else as `direct` does.
    """
    ask = asking.ask(model, text, target, versus, position, bos)
    with gradients(True):
        run = model.run(ask.tokens, capture=sites, logits="last", grad=True)
        ask = ask.settled(model, run.logits[0, -1])
        logit = ask.of(run.logits[0, -1])
    names, states = list(run), list(run.values())
    found = torch.autograd.grad(logit, states, allow_unused=True) if logit.requires_grad else [None] * len(states)
    values = []
    for name, state, slope in zip(names, states, found, strict=True):
        product = torch.zeros_like(state) if slope is None else (state * slope).masked_fill(slope == 0, 0.0)
        wide = product.detach()[0].double()  # of masked scores, -inf with a slope of 0, nothing is left
        to_keys = name.endswith((".scores", ".pattern"))
        values.append(wide.sum((0, 1)) if to_keys else wide.flatten(1).sum(1))
    parameters = {"target": target, "versus": versus, "sites": sites, "position": position, "bos": bos}
    return Gradient(
        meta=describe(model, "attribution.gradient", ask.subject, **parameters),
        sites=names,
        **ask.words(model),
        logit=logit.item(),
        values=torch.stack(values).cpu(),
    )


@plainly
def integrated(
    model: Model,
    text: Inputs,
    target: Target = None,
    versus: Target = None,
    steps: int = 64,
    baseline: Baseline = "zero",
    *,
    position: int = -1,
    bos: bool = False,
) -> Integrated:
    """Integrated gradients of a logit (or of a difference of two) over the token embeddings, summed at each token.

    The path runs straight from the baseline (zero, or the mean of all token embeddings) to the text's own embeddings;
    position embeddings stay. The integral is Gauss and Legendre's of `steps` points; `gap` says how far the
    attributions' sum is from the difference of the logits at the two ends. The other arguments are those of `direct`.

    Raises InputError for steps below 1 or another baseline, else as `direct` does.
    """
    steps = whole("steps", steps, 1, MOST_STEPS)
    if baseline not in ("zero", "mean"):
        raise InputError(f"baseline={baseline!r} is unknown: 'zero' or 'mean' was expected")
    ask = asking.ask(model, text, target, versus, position, bos)
    run = model.run(ask.tokens, capture="embed", logits="last")
    ask = ask.settled(model, run.logits[0, -1])
    end = run["embed"].detach()  # 1 P D
    start = torch.zeros_like(end)
    if baseline == "mean":
        start = start + model.weights.W_E.detach().double().mean(0).to(end.dtype)
    low = model.run(ask.tokens, edits={"embed": start}, logits="last").logits[0, -1]
    slope = sum(_slopes(model, ask, start, end, steps))
    parameters = {"target": target, "versus": versus, "steps": steps, "baseline": baseline}
    return Integrated(
        meta=describe(model, "attribution.integrated", ask.subject, **parameters, position=position, bos=bos),
        sites=["embed"],
        **ask.words(model),
        logit=ask.of(run.logits[0, -1]).item(),
        values=((end - start)[0].double() * slope).sum(-1)[None].cpu(),
        start=ask.of(low).item(),
        steps=steps,
        baseline=baseline,
    )


def _blocks(model: Model, here: dict[str, Tensor], u: Tensor) -> Iterator[Component]:
    """What heads, MLPs and their biases wrote along u [D], in forward order."""
    for i, block in enumerate(model.weights.blocks):
        for head, value in enumerate((here[f"blocks.{i}.attn.result"] @ u).tolist()):
            yield Component("head", i, head, value)
        yield Component("b_O", i, None, (block.b_O.double() @ u).item())
        bias = (block.b_out.double() @ u).item()
        yield Component("mlp", i, None, (here[f"blocks.{i}.mlp_out"] @ u).item() - bias)
        yield Component("b_out", i, None, bias)


def _neurons(model: Model, here: dict[str, Tensor], u: Tensor, k: int) -> list[Component]:
    """The k neurons that wrote most along u, largest first."""
    rows = [
        here[f"blocks.{i}.mlp.post"] * (block.W_out.double() @ u)  # M
        for i, block in enumerate(model.weights.blocks)
    ]
    every = torch.stack(rows)  # layer M
    best = every.abs().flatten().topk(min(k, every.numel())).indices.tolist()
    places = [divmod(i, every.shape[1]) for i in best]
    return [Component("neuron", layer, j, every[layer, j].item()) for layer, j in places]


def _slopes(model: Model, ask: Ask, start: Tensor, end: Tensor, steps: int) -> Iterator[Tensor]:
    """The gradient's weighted sums over a few points of the path at a time: P D each, float64."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(steps)
    at_once = max(1, BATCH_TOKENS // end.shape[1])
    for i in range(0, steps, at_once):
        alpha = torch.from_numpy((points[i : i + at_once] + 1) / 2).to(end)[:, None, None]  # n 1 1
        weight = torch.from_numpy(weights[i : i + at_once] / 2).to(end.device)[:, None, None]
        several = Tokens(ask.tokens.ids.expand(len(alpha), -1), ask.tokens.mask.expand(len(alpha), -1))
        path = start + alpha * (end - start)  # n P D
        with gradients(True):
            run = model.run(several, capture="embed", edits={"embed": path}, logits="last", grad=True)
            logit = ask.of(run.logits[:, 0]).sum()
        if not logit.requires_grad:  # an edit further on may have cut the logit off from the text
            yield torch.zeros_like(end[0], dtype=torch.float64)
            continue
        [slope] = torch.autograd.grad(logit, [run["embed"]])
        yield (slope.double() * weight).sum(0)
