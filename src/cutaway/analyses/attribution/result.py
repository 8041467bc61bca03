"""Hold what explains a logit: components that sum to it, or a number for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

GROUPS = {  # kinds of component in forward order, each with the name of its sum
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


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Result):
    """The base of all attributions: the text, and the logit, or difference of two logits, that is explained."""

    tokens: list[str]  # of the text, up to the position
    display: list[str]
    target: str
    versus: str | None
    display_target: str  # "·States", or "·States - ·Kingdom"
    logit: float  # of the target, or its difference from versus

    @property
    def what(self) -> str:
        """Return "logit" or "logit difference"."""
        return "logit" if self.versus is None else "logit difference"

    def heading(self) -> str:
        """Return the first line of the summary."""
        ending = ("…" if len(self.display) > 8 else "") + "".join(self.display[-8:])
        return f"{self.what} {self.display_target} after {ending}: {self.logit:+.3f}"


@dataclass(frozen=True, slots=True)
class Component:
    """A component that wrote to the logit, and its part of the logit."""

    kind: str  # one of GROUPS, or "neuron", which is a part of its MLP
    layer: int | None
    index: int | None  # the head or neuron
    contribution: float

    @property
    def name(self) -> str:
        """Return the component's address, such as "head 3.1" or "mlp 2"."""
        place = "" if self.layer is None else f" {self.layer}" + ("" if self.index is None else f".{self.index}")
        return f"{self.kind}{place}"


@dataclass(frozen=True, eq=False, repr=False)
class Direct(Explanation):
    """The direct contribution of each component to a logit, or to a difference of two."""

    analysis: ClassVar[str] = "attribution.direct"
    title: ClassVar[str] = "Which components wrote the answer?"

    scale: float  # of the final LayerNorm at this position
    components: list[Component]  # they sum to the logit
    neurons: list[Component]  # the largest; each is a part of its MLP
    layers: int
    heads: int
    accumulated: list[float]  # embeddings and final biases, then after each layer; the last is the logit

    @property
    def gap(self) -> float:
        """Return the sum of the components less the logit, which is rounding error."""
        return sum(c.contribution for c in self.components) - self.logit

    def groups(self) -> dict[str, float]:
        """Return the sum over each kind of component."""
        sums: dict[str, float] = {}
        for c in self.components:
            sums[c.kind] = sums.get(c.kind, 0.0) + c.contribution
        return sums

    def largest(self, k: int = 8) -> list[Component]:
        """Return the k components that moved the logit most, up or down."""
        return sorted(self.components, key=lambda c: -abs(c.contribution))[:k]

    def table(self) -> pd.DataFrame:
        """Return one row a component: component, kind, layer, index, contribution.

        Rows of kind "neuron" are parts of their MLP's row; all others sum to the logit.
        """
        import pandas as pd

        rows = [(c.name, c.kind, c.layer, c.index, c.contribution) for c in (*self.components, *self.neurons)]
        frame = pd.DataFrame(rows, columns=["component", "kind", "layer", "index", "contribution"])
        return frame.astype({"layer": "Int64", "index": "Int64"})

    def by_layer(self) -> pd.DataFrame:
        """Return the logit as it accumulates: layer (-1 before the first), accumulated, and added (by the layer)."""
        import pandas as pd

        frame = pd.DataFrame({"layer": range(-1, self.layers), "accumulated": self.accumulated})
        return frame.assign(added=frame["accumulated"].diff().fillna(frame["accumulated"].iloc[0]))

    def summary(self) -> str:
        """Return the sum of each kind of component, and the largest components."""
        lines = [self.heading()]
        lines += [f"  {GROUPS[kind]:<24}{value:+8.3f}" for kind, value in self.groups().items()]
        lines.append("largest: " + ", ".join(f"{c.name} {c.contribution:+.2f}" for c in self.largest()))
        if self.neurons:
            lines.append("neurons: " + ", ".join(f"{c.name} {c.contribution:+.2f}" for c in self.neurons[:8]))
        return "\n".join(lines)

    def caption(self) -> str:
        """Return what the chart shows."""
        return (
            f"What each component wrote directly to the {self.what} {self.display_target} ({self.logit:+.2f} in all), "
            "through the final LayerNorm's own scale at this position; orange raises it, blue lowers it. Below: the "
            "sum after each layer (it begins with the embeddings and the final biases), and the sum of each kind. "
            "What a component does through later layers counts as the later layers' part."
        )


@dataclass(frozen=True, eq=False, repr=False)
class ByPosition(Explanation):
    """A number for each site and token."""

    sites: list[str]
    values: Tensor  # site pos; float64 on the CPU

    def table(self) -> pd.DataFrame:
        """Return one row a site and token: site, position, token, attribution."""
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
        """Return each site's sum, and the tokens with the largest numbers."""
        lines = [self.heading()]
        width = max(map(len, self.sites))
        for site, row in zip(self.sites, self.values, strict=True):
            best = row.abs().topk(min(5, len(row))).indices.tolist()
            words = "  ".join(f"{self.display[i]} {row[i]:+.2f}" for i in best)
            lines.append(f"{site:<{width}}  sum {row.sum():+7.2f}  {words}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, repr=False)
class Gradient(ByPosition):
    """Gradient times activation, for each site and token."""

    analysis: ClassVar[str] = "attribution.gradient"
    title: ClassVar[str] = "Which states is the answer sensitive to?"

    def caption(self) -> str:
        """Return what the chart shows."""
        return (
            f"Gradient of the logit {self.display_target} with respect to the state at each token, times the state: "
            "to first order, how much the logit would lose if the state were zero. Orange raises the logit, blue "
            "lowers it. Choose a site, or click a row."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Integrated(ByPosition):
    """Integrated gradients over the token embeddings, for each token."""

    analysis: ClassVar[str] = "attribution.integrated"
    title: ClassVar[str] = "Which tokens does the answer come from?"

    start: float  # the logit at the baseline
    steps: int
    baseline: str

    @property
    def gap(self) -> float:
        """Return the completeness gap: the sum of the attributions less (the text's logit - the baseline's logit)."""
        return float(self.values.sum()) - (self.logit - self.start)

    def summary(self) -> str:
        """Return the largest numbers, and how far their sum is from the difference of the logits."""
        end = f"{self.start:+.3f} at the baseline ({self.baseline}), completeness gap {self.gap:+.1e}"
        return f"{super().summary()}\n{end} in {self.steps} steps"

    def caption(self) -> str:
        """Return what the chart shows."""
        where = "zero" if self.baseline == "zero" else "the mean token embedding"
        return (
            f"Integrated gradients of the logit {self.display_target} along the straight path of the token "
            f"embeddings from {where} to the text's own: what each token adds to {self.start:+.2f}, the logit at the "
            f"start, to arrive at {self.logit:+.2f}. Orange raises it, blue lowers it."
        )
