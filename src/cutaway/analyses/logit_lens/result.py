"""Hold the logit lens on texts, and its averages over a corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from cutaway.analyses.logit_lens.metrics import METRICS
from cutaway.results.bootstrap import remark
from cutaway.results.result import Result
from cutaway.text.display import show

if TYPE_CHECKING:
    import pandas as pd


STREAM = ("resid_pre", "resid_mid", "resid_post", "mlp_in")


@dataclass(frozen=True, eq=False, repr=False)
class Lens(Result):
    """The logit lens on one or several texts.

    Tensors are on the CPU, [row, token, ...]: a row is a site, and the tokens of all texts follow one another. `loss`
    is NaN and `rank` 0 at a text's last token, which has no next token.
    """

    analysis: ClassVar[str] = "logit_lens.read"
    title: ClassVar[str] = "What would it say at each layer?"

    sites: list[str]
    layers: list[int]
    writes: bool  # whether it reads the output of attention or an MLP, and not the stream
    lengths: list[int]  # tokens of each text
    ids: list[int]
    tokens: list[str]
    display: list[str]
    entropy: Tensor  # row token; nats, as kl, js and loss are
    kl: Tensor
    js: Tensor
    tv: Tensor
    loss: Tensor
    rank: Tensor
    top_ids: Tensor  # row token k
    top_probabilities: Tensor
    top_tokens: list[list[list[str]]]
    top_display: list[list[list[str]]]
    targets: list[str]
    target_probability: Tensor  # row token target
    target_rank: Tensor

    def table(self) -> pd.DataFrame:
        """Return one row a site and token.

        Columns: site, layer, text, position, token, the metrics, the first choice, the targets.
        """
        import pandas as pd

        rows, n = len(self.sites), len(self.ids)
        texts = [i for i, length in enumerate(self.lengths) for _ in range(length)]
        positions = [p for length in self.lengths for p in range(length)]
        columns = {
            "site": [site for site in self.sites for _ in range(n)],
            "layer": [layer for layer in self.layers for _ in range(n)],
            "text": texts * rows,
            "position": positions * rows,
            "token": self.tokens * rows,
            **{name: getattr(self, name).flatten().numpy() for name in METRICS},
            "top": [tokens[0] for row in self.top_tokens for tokens in row],
            "top_probability": self.top_probabilities[..., 0].flatten().numpy(),
        }
        for i, target in enumerate(self.targets):
            columns[f"p({target})"] = self.target_probability[..., i].flatten().numpy()
            columns[f"rank({target})"] = self.target_rank[..., i].flatten().numpy()
        frame = pd.DataFrame(columns)
        return frame.assign(rank=frame["rank"].where(frame["rank"] > 0).astype("Int64"))

    @property
    def display_targets(self) -> list[str]:
        """Return the targets as labels for charts and summaries; not data."""
        return [show(target) for target in self.targets]

    def by_layer(self) -> pd.DataFrame:
        """Return means over tokens: layer, entropy, kl, js, tv, loss; median_rank of the next token."""
        table = self.table()
        means = table.groupby("layer")[["entropy", "kl", "js", "tv", "loss"]].mean()
        return means.assign(median_rank=table.groupby("layer")["rank"].median().astype(float)).reset_index()

    def decided(self) -> list[int]:
        """Return for each token the first layer from which on the first choice is the model's own (the last row's)."""
        same = self.top_ids[:, :, 0] == self.top_ids[-1, :, 0]
        return [self.layers[int(i)] for i in same.flip(0).cumprod(0).flip(0).int().argmax(0)]

    def summary(self) -> str:
        lines = [f"{'layer':>5}  {'entropy':>7}  {'KL':>6}  {'loss':>6}  {'rank':>7}  first choices"]
        n = min(len(self.ids), 6)
        for (_, means), tokens in zip(self.by_layer().iterrows(), self.top_display, strict=True):
            words = "  ".join(row[0] for row in tokens[-n:])
            cells = {"entropy": "7.2f", "kl": "6.2f", "loss": "6.2f", "median_rank": "7,.0f"}
            numbers = "  ".join(_or_dash(means[name], form) for name, form in cells.items())
            lines.append(f"{int(means['layer']):>5}  {numbers}  {words}")
        source = f"read from {self.sites[0].rpartition('.')[2]}" + (", each layer's output" if self.writes else "")
        return "\n".join(
            [*lines, f"means over {len(self.ids):,} token{'s' * (len(self.ids) > 1)} (rank: median), {source}"]
        )

    def caption(self) -> str:
        kind = self.sites[0].rpartition(".")[2]
        reading = (
            f"what each layer's {kind} by itself would say" if self.writes else f"what the model would say at {kind}"
        )
        return (
            f"Each cell: {reading} after the token below it, read through the final LayerNorm and the unembedding; the "
            "text is its first choice, the colour the metric chosen (entropy, KL divergence from the model's own "
            "output, loss of the token that came, in nats; its rank). Below: means over tokens by layer."
        )


@dataclass(frozen=True, eq=False, repr=False)
class LensMeans(Result):
    """Means of the lens' metrics over the tokens of documents, by layer, with intervals that resample documents."""

    analysis: ClassVar[str] = "logit_lens.average"
    title: ClassVar[str] = "What do the layers know?"

    sites: list[str]
    layers: list[int]
    names: list[str]  # of the metrics
    means: Tensor  # row metric
    low: Tensor  # row metric; 95% percentile bootstrap over documents
    high: Tensor
    documents: int
    tokens: int

    def table(self) -> pd.DataFrame:
        """Return one row a site and metric: site, layer, metric, mean, low, high."""
        import pandas as pd

        rows = [
            (site, layer, name, *(t[i, j].item() for t in (self.means, self.low, self.high)))
            for i, (site, layer) in enumerate(zip(self.sites, self.layers, strict=True))
            for j, name in enumerate(self.names)
        ]
        return pd.DataFrame(rows, columns=["site", "layer", "metric", "mean", "low", "high"])

    def summary(self) -> str:
        lines = ["layer  " + "  ".join(f"{name:>20}" for name in self.names)]
        for i, layer in enumerate(self.layers):
            lines.append(f"{layer:>5}  " + "  ".join(self._with_interval(i, j) for j in range(len(self.names))))
        return "\n".join([*lines, f"{self.tokens:,} tokens in {self.documents} documents{remark(self.documents)}"])

    def _with_interval(self, i: int, j: int) -> str:
        """Return the mean of one row and metric, with its interval."""
        ends = "" if self.low[i, j].isnan() else f"({self.low[i, j]:.2f}..{self.high[i, j]:.2f})"
        return f"{self.means[i, j]:7.3f} {ends:>12}"

    def caption(self) -> str:
        return (
            f"Means over {self.tokens:,} tokens of {self.documents} documents, by layer. Bands: 95% intervals from "
            "resampling documents. Loss, entropy, KL and Jensen-Shannon divergence in nats; the others are shares."
        )


def _or_dash(value: float, form: str) -> str:
    """Return a number in the given form, or a dash for NaN."""
    return f"{'-':>{form[0]}}" if math.isnan(value) else f"{value:{form}}"
