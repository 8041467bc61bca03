"""The logit lens: what the model would say if it stopped at each layer.

    lens = read(model, "The people of the United", targets=[" States"])
    lens.chart(); lens.kl; lens.top_tokens[layer][position]
    average(model, corpus)                   means over a corpus by layer, with intervals over documents

Every state of the residual stream goes through the final LayerNorm, with the statistics of that very state, and the
unembedding. After the last block that is the model's own output. All in nats, p the lens and q the model's own
distribution at the same position:

    entropy   H(p)                      kl    KL(q || p) = sum q log(q / p)
    loss      -log p(next token)        js    H((p + q) / 2) - (H(p) + H(q)) / 2
    rank      of the next token         tv    sum |p - q| / 2   (no unit)

nostalgebraist 2020, interpreting GPT: the logit lens. Belrose et al. 2023, Eliciting Latent Predictions from
Transformers with the Tuned Lens, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cutaway.analyses.lens_numbers import METRICS, parts, passes, sites_at
from cutaway.analyses.predictions import BATCH_TOKENS, checked_run, checked_top
from cutaway.analyses.resampling import draw_weights, interval, remark
from cutaway.analyses.result import Result, describe
from cutaway.analyses.words import displays, spelled, strings, token_id
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.batches import of_model
from cutaway.corpus import Source, open_corpus, refuse_path
from cutaway.errors import InputError
from cutaway.model.modes import plainly
from cutaway.progress import meter
from cutaway.tokens import show

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model
    from cutaway.model.run import Run

STREAM = ("resid_pre", "resid_mid", "resid_post", "mlp_in")


@dataclass(frozen=True, eq=False, repr=False)
class Lens(Result):
    """The lens on one or several texts. Tensors are on the CPU, [row, token, ...]: a row is a site, and the tokens of
    all texts stand one after the other. `loss` and `rank` are NaN and 0 at a text's last token, where nothing came.
    """

    analysis: ClassVar[str] = "logit_lens.read"
    title: ClassVar[str] = "What would it say at each layer?"

    sites: list[str]
    layers: list[int]
    writes: bool  # read from what attention or an MLP writes, and not from the stream
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
        """One row a site and token: site, layer, text, position, token, the metrics, the first choice, the targets."""
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
        """The targets as they are best shown; not data."""
        return [show(target) for target in self.targets]

    def by_layer(self) -> pd.DataFrame:
        """Means over tokens: layer, entropy, kl, js, tv, loss; median_rank of the next token."""
        table = self.table()
        means = table.groupby("layer")[["entropy", "kl", "js", "tv", "loss"]].mean()
        return means.assign(median_rank=table.groupby("layer")["rank"].median().astype(float)).reset_index()

    def decided(self) -> list[int]:
        """For each token the first layer from which on the lens' first choice is the model's own (the last row's)."""
        same = self.top_ids[:, :, 0] == self.top_ids[-1, :, 0]
        return [self.layers[int(i)] for i in same.flip(0).cumprod(0).flip(0).int().argmax(0)]

    def summary(self) -> str:
        lines = [f"{'layer':>5}  {'entropy':>7}  {'KL':>6}  {'loss':>6}  {'rank':>7}  first choices"]
        n = min(len(self.ids), 6)
        for (_, means), tokens in zip(self.by_layer().iterrows(), self.top_display, strict=True):
            words = "  ".join(row[0] for row in tokens[-n:])
            cells = {"entropy": "7.2f", "kl": "6.2f", "loss": "6.2f", "median_rank": "7,.0f"}
            numbers = "  ".join(_cell(means[name], form) for name, form in cells.items())
            lines.append(f"{int(means['layer']):>5}  {numbers}  {words}")
        what = f"read from {self.sites[0].rpartition('.')[2]}" + (", what each writes" if self.writes else "")
        return "\n".join(
            [*lines, f"means over {len(self.ids):,} token{'s' * (len(self.ids) > 1)} (rank: median), {what}"]
        )

    def caption(self) -> str:
        kind = self.sites[0].rpartition(".")[2]
        what = f"what each layer's {kind} alone would say" if self.writes else f"what the model would say at {kind}"
        return (
            f"Each cell: {what} after the token below it, read through the final LayerNorm and the unembedding; the "
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
        """One row a site and metric: site, layer, metric, mean, low, high."""
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
            lines.append(f"{layer:>5}  " + "  ".join(self._cell(i, j) for j in range(len(self.names))))
        return "\n".join([*lines, f"{self.tokens:,} tokens in {self.documents} documents{remark(self.documents)}"])

    def _cell(self, i: int, j: int) -> str:
        ends = "" if self.low[i, j].isnan() else f"({self.low[i, j]:.2f}..{self.high[i, j]:.2f})"
        return f"{self.means[i, j]:7.3f} {ends:>12}"

    def caption(self) -> str:
        return (
            f"Means over {self.tokens:,} tokens of {self.documents} documents, by layer. Bands: 95% intervals from "
            "resampling documents. Loss, entropy, KL and Jensen-Shannon divergence in nats; the others are shares."
        )


@plainly
def read(
    model: Model,
    text: Inputs,
    at: str = "resid_post",
    top: int = 10,
    targets: Sequence[str | int] | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    bos: bool = False,
    run: Run | None = None,
) -> Lens:
    """The logit lens on one or several texts.

    Args:
        at: a site of width d_model: "resid_post", "resid_mid", "resid_pre" (the stream), "attn_out", "mlp_out" (what
            each writes, read as if it were the whole stream), or a pattern such as "blocks.{0,-1}.resid_post".
        targets: tokens whose probability and rank are kept at every layer and position; each the text of a single
            token, such as " States", or its id.
        metrics: those that are wanted; of the others, kl, js, tv and entropy (which take the most time) are NaN.
        run: a pass over this very text that kept `at` and the last resid_post, where there is one already.

    Raises:
        InputError: a site without the width of the stream, an empty or too long text.
        TokenizerError: a target that is not one token.
    """
    sites = sites_at(model, at)
    names = [targets] if isinstance(targets, str) else list(targets or [])
    wanted = [token_id(model, name) for name in names]
    target_ids = torch.tensor(wanted, dtype=torch.long, device=model.device)
    if unknown := [name for name in metrics if name not in METRICS]:
        raise InputError(f"no metric is called {unknown[0]!r}: there are {', '.join(METRICS)}")
    top = checked_top(model, top)
    refuse_path(text)
    tokens = model.tokens(text, bos=bos)
    runs = passes(model, tokens, sites) if run is None else [checked_run(model, run, tokens)]
    found = [part for run in runs for part in parts(model, run, sites, top, target_ids, metrics)]
    joined = {name: torch.cat([part[name] for part in found], 1) for name in found[0]}
    ids = [i for row in tokens.rows() for i in row]
    best = joined["top_ids"].tolist()
    asked: dict[str, Any] = {"at": at, "top": top, "targets": names or None}
    if set(metrics) != set(METRICS):
        asked["metrics"] = list(metrics)
    return Lens(
        meta=describe(model, "logit_lens.read", spelled(model, text, tokens.rows()), **asked, bos=bos),
        sites=[site.name for site in sites],
        layers=[site.layer or 0 for site in sites],
        writes=sites[0].kind not in STREAM,
        lengths=tokens.lengths.tolist(),
        ids=ids,
        tokens=strings(model, ids),
        display=displays(model, ids),
        **{name: joined[name] for name in METRICS},
        top_ids=joined["top_ids"],
        top_probabilities=joined["top_probabilities"],
        top_tokens=[[strings(model, some) for some in row] for row in best],
        top_display=[[displays(model, some) for some in row] for row in best],
        targets=strings(model, wanted),
        target_probability=joined["target_probability"],
        target_rank=joined["target_rank"],
    )


def _cell(value: float, form: str) -> str:
    """A number of a table; a dash where there is none."""
    return f"{value:{form}}" if value == value else f"{'-':>{form[0]}}"


@plainly
def average(
    model: Model,
    corpus: Source = None,
    at: str = "resid_post",
    *,
    resamples: int = 1000,
    seed: int = 0,
    bos: bool = False,
) -> LensMeans:
    """Means over all tokens of documents by layer, read in windows of the model's context.

    `corpus` is whatever cutaway.corpus.open_corpus takes; None for the bundled documents. Metrics: loss, entropy, kl,
    js, tv; `right` (the share of tokens whose next token is the first choice) and `agrees` (the share where the first
    choice is the model's own). Intervals are percentiles of `resamples` bootstrap means
    that draw whole documents with replacement (the tokens of one are not independent).

    Raises InputError for a site without the stream's width, or a corpus without two tokens in any document.
    """
    resamples, seed = whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    sites = sites_at(model, at)
    source = open_corpus(corpus)
    names = ["loss", "entropy", "kl", "js", "tv", "right", "agrees"]
    by_document: dict[int, Tensor] = {}  # number of the document: tokens, then sums [row, metric]
    no_targets = torch.empty(0, dtype=torch.long, device=model.device)
    with meter("reading documents", "tokens") as advance:
        for batch in of_model(model, source, BATCH_TOKENS, bos):
            numbers = torch.tensor([row.number for row in batch.rows for _ in row.ids])
            done = 0
            runs = passes(model, model.tokens(batch.tokens), sites)
            for part in (part for run in runs for part in parts(model, run, sites, 1, no_targets)):
                first = part["top_ids"][..., 0]
                shares = {"right": (part["rank"] == 1).double(), "agrees": (first == part["own_top"]).double()}
                values = torch.stack([shares.get(name, part.get(name, first)) for name in names], -1)
                counted = part["rank"][0] > 0  # tokens that have a next one
                here = numbers[done : done + first.shape[1]]
                done += first.shape[1]
                for number in sorted(set(here[counted].tolist())):
                    chosen = counted & (here == number)
                    sums = torch.cat([chosen.sum()[None], values[:, chosen].sum(1).flatten()])
                    by_document[number] = by_document.get(number, torch.zeros(1)) + sums
            advance(batch.size, None)
    if not by_document:
        raise InputError(f"corpus {source.name}: no document has two tokens, there is nothing to predict")
    totals = torch.stack([by_document[number] for number in sorted(by_document)])
    counts, sums = totals[:, 0], totals[:, 1:].view(-1, len(sites), len(names))
    weights = draw_weights(len(counts), resamples, seed)
    low, high = interval(torch.einsum("rd,dsm->rsm", weights, sums) / (weights @ counts)[:, None, None])
    parameters = {"at": at, "resamples": resamples, "seed": seed, "bos": bos}
    meta = describe(model, "logit_lens.average", corpus, **parameters) | {"input": source.name}
    return LensMeans(
        meta,
        [site.name for site in sites],
        [site.layer or 0 for site in sites],
        names,
        sums.sum(0) / counts.sum(),
        low,
        high,
        len(counts),
        int(counts.sum()),
    )
