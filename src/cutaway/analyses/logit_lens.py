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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from cutaway.analyses import vocabulary
from cutaway.analyses.predictions import BATCH_TOKENS, batches_of, checked_top
from cutaway.analyses.resampling import draw_weights, interval, remark
from cutaway.analyses.result import Result, describe
from cutaway.batches import batches
from cutaway.corpus import Source, open_corpus
from cutaway.errors import InputError
from cutaway.model import gpt2
from cutaway.progress import meter
from cutaway.tokens import Tokens, show

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model
    from cutaway.model.sites import Site

STREAM = ("resid_pre", "resid_mid", "resid_post", "mlp_in")
METRICS = ("entropy", "kl", "js", "tv", "loss", "rank")


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
            rank = f"{means['median_rank']:7,.0f}" if means["median_rank"] == means["median_rank"] else "      -"
            numbers = f"{means['entropy']:7.2f}  {means['kl']:6.2f}  {means['loss']:6.2f}  {rank}"
            lines.append(f"{int(means['layer']):>5}  {numbers}  {words}")
        what = f"read from {self.sites[0].rpartition('.')[2]}" + (", what each writes" if self.writes else "")
        return "\n".join([*lines, f"means over {len(self.ids):,} tokens (rank: median), {what}"])

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


def read(
    model: Model,
    text: Inputs,
    at: str = "resid_post",
    top: int = 10,
    targets: Sequence[str] | None = None,
    *,
    bos: bool = False,
) -> Lens:
    """The logit lens on one or several texts.

    Args:
        at: a site of width d_model: "resid_post", "resid_mid", "resid_pre" (the stream), "attn_out", "mlp_out" (what
            each writes, read as if it were the whole stream), or a pattern such as "blocks.{0,-1}.resid_post".
        targets: tokens whose probability and rank are kept at every layer and position; each a single token, such
            as " States".

    Raises:
        InputError: a site without the width of the stream, an empty or too long text.
        TokenizerError: a target that is not one token.
    """
    sites = _sites(model, at)
    names = [targets] if isinstance(targets, str) else list(targets or [])
    target_ids = torch.tensor([model.tokenizer.single(name) for name in names], dtype=torch.long, device=model.device)
    top = checked_top(model, top)
    tokens = model.tokens(text, bos=bos)
    found = list(_parts(model, tokens, sites, top, target_ids))
    joined = {name: torch.cat([part[name] for part in found], 1) for name in found[0]}
    tokenizer, top_ids = model.tokenizer, joined["top_ids"]
    subject = text if isinstance(text, str) else list(tokens.texts or map(tokenizer.decode, tokens.rows()))
    return Lens(
        meta=describe(model, "logit_lens.read", subject, at=at, top=top, targets=names or None, bos=bos),
        sites=[site.name for site in sites],
        layers=[site.layer or 0 for site in sites],
        writes=sites[0].kind not in STREAM,
        lengths=tokens.lengths.tolist(),
        ids=[i for row in tokens.rows() for i in row],
        tokens=[t for row in tokens.strings for t in row],
        display=[t for row in tokens.display for t in row],
        **{name: joined[name] for name in METRICS},
        top_ids=top_ids,
        top_probabilities=joined["top_probabilities"],
        top_tokens=[[[tokenizer.string(i) for i in ids] for ids in row] for row in top_ids.tolist()],
        top_display=[[[tokenizer.display(i) for i in ids] for ids in row] for row in top_ids.tolist()],
        targets=names,
        target_probability=joined["target_probability"],
        target_rank=joined["target_rank"],
    )


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
    sites = _sites(model, at)
    source = open_corpus(corpus)
    names = ["loss", "entropy", "kl", "js", "tv", "right", "agrees"]
    by_document: dict[int, Tensor] = {}  # number of the document: tokens, then sums [row, metric]
    no_targets = torch.empty(0, dtype=torch.long, device=model.device)
    with meter("reading documents", "tokens") as advance:
        for batch in batches(source, model.tokenizer, BATCH_TOKENS, model.config.n_ctx, bos=bos):
            numbers = torch.tensor([row.number for row in batch.rows for _ in row.ids])
            done = 0
            for part in _parts(model, model.tokens(batch.tokens), sites, 1, no_targets):
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


def _sites(model: Model, at: str) -> list[Site]:
    found = model.sites().match(at)
    if wrong := [site for site in found if site.shape != "B P D"]:
        raise InputError(f"the lens reads states of width d_model, and {wrong[0].name!r} is {wrong[0].shape}")
    return found


def _parts(model: Model, tokens: Tokens, sites: list[Site], top: int, targets: Tensor) -> Iterator[dict[str, Tensor]]:
    """The lens' numbers for a few texts and positions at a time, [row, token, ...], in the order of the tokens."""
    final = f"blocks.{model.config.n_layers - 1}.resid_post"
    for rows in batches_of(tokens.lengths.tolist()):
        width = int(tokens.lengths[rows].max())
        batch = Tokens(tokens.ids[rows, :width], tokens.mask[rows, :width])
        run = model.run(batch, capture=[final, *(site.name for site in sites)], logits=None)
        attended = batch.mask.bool()
        states = [run[site.name][attended] for site in sites]  # row of n D
        own = run[final][attended]  # n D
        came = torch.cat([batch.ids[:, 1:], torch.full_like(batch.ids[:, :1], -1)], 1)
        ends = torch.arange(width, device=attended.device) == batch.lengths[:, None] - 1
        came = came.masked_fill(ends, -1)[attended]  # n; -1 where nothing came
        step = vocabulary.chunk(model.config.d_vocab)
        for start in range(0, len(own), step):
            part = slice(start, start + step)
            yield _chunk(model, [state[part] for state in states], own[part], came[part], top, targets)


def _chunk(
    model: Model, states: list[Tensor], own: Tensor, came: Tensor, top: int, targets: Tensor
) -> dict[str, Tensor]:
    """All metrics of a few positions: states [n D] a row, the model's own final state [n D], next tokens [n].

    Everything over the vocabulary is [V, n]: logits of one row at a time, and three buffers that the rows share.
    """
    n = len(own)
    logits = _unembed(model, own)
    p, q, scratch = (torch.empty_like(logits) for _ in range(3))
    log_q = torch.sub(logits, logits.logsumexp(0), out=scratch)  # V n
    torch.exp(log_q, out=q)
    entropy_q = -(log_q.mul_(q)).sum(0)  # n
    own_top = q.argmax(0)  # n
    rows = []
    for state in states:
        logits = _unembed(model, state)
        total = logits.logsumexp(0)  # n
        scores = logits.gather(0, came.clamp(min=0)[None])[0]  # n
        best, best_ids = vocabulary.top(logits, top)  # k n
        target_logits = logits[targets]  # target n
        row = {
            "rank": vocabulary.rank(logits, scores, scratch).masked_fill(came < 0, 0),
            "loss": (total - scores).masked_fill(came < 0, torch.nan),
            "kl": (total - entropy_q - torch.mul(q, logits, out=scratch).sum(0)).clamp(min=0),
            "top_ids": best_ids.T,
            "top_probabilities": (best - total).exp().T,
            "target_probability": (target_logits - total).exp().T,
            "target_rank": torch.stack([vocabulary.rank(logits, t, scratch) for t in target_logits], -1)
            if len(targets)
            else targets.new_zeros(n, 0),
        }
        torch.exp(torch.sub(logits, total, out=p), out=p)
        row["entropy"] = total - torch.mul(p, logits, out=scratch).sum(0)
        row["tv"] = torch.sub(p, q, out=scratch).abs_().sum(0) / 2
        middle = torch.add(p, q, out=scratch).mul_(0.5).clamp_(min=torch.finfo(p.dtype).tiny)
        entropy_m = -torch.log(middle, out=p).mul_(middle).sum(0)
        row["js"] = (entropy_m - (row["entropy"] + entropy_q) / 2).clamp(min=0)
        rows.append(row)
    stacked = {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}
    found = {name: t.double() if t.is_floating_point() else t for name, t in stacked.items()}
    return found | {"own_top": own_top.cpu()[None].expand(len(states), -1)}


def _unembed(model: Model, state: Tensor) -> Tensor:
    """n D -> logits V n, in float32 at least: the final LayerNorm, then the unembedding."""
    w = model.weights
    normed = torch.nn.functional.layer_norm(state, state.shape[-1:], w.ln_final.w, w.ln_final.b, model.config.eps)
    with torch.no_grad():
        return vocabulary.wide(gpt2.unembed(w, normed)).T
