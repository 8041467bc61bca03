"""Turn results into the plain data that a panel draws. The numbers are the results' own: none is computed here."""

from __future__ import annotations

import base64
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.analyses import anatomy, attention, logit_lens, predictions
from cutaway.analyses.attention import scores as head_scores
from cutaway.errors import InputError
from cutaway.model.generate import read_text
from cutaway.pages import page
from cutaway.results.call import describe
from cutaway.results.saving import CHART_ENDINGS, plain
from cutaway.text.corpus import Typed

if TYPE_CHECKING:
    from cutaway.analyses.logit_lens.result import Lens
    from cutaway.analyses.predictions.result import Along
    from cutaway.analyses.verification import Fact
    from cutaway.model.model import Model
    from cutaway.model.taps.tap import Context
    from cutaway.results.result import Result
    from cutaway.text.tokens import Tokens

LENS_TOP = 5
SHOWN = ("entropy", "kl", "loss", "rank")  # of the metrics
AROUND = 8  # positions in front of the cursor that a saved lens shows
SMALL = 48  # cells along a side of a head's small picture
FACTS = 4  # that a verification without a reference measures


def read(model: Model, text: str, bos: bool, most: int) -> Tokens:
    """Return a text as tokens. Raises InputError for more tokens than a page may ask for."""
    found = model.tokenizer.tokens(text, bos)
    if (n := int(found.lengths[0])) > most:
        raise InputError(f"the text has {n:,} tokens: at most {most:,} were expected; shorten it")
    return found


def view(
    model: Model, text: str, bos: bool, top: int, with_next: bool, with_lens: bool, with_heads: bool, most: int
) -> dict[str, Any]:
    """Return all that follows the cursor of one text, or the parts that are asked for."""
    tokens = model.tokens(read(model, text, bos, most))
    kept = "resid_post" if with_lens else ()
    # One pass serves the predictions and the lens.
    run = model.run(tokens, capture=kept, logits="all" if with_next else None) if with_next or with_lens else None
    along = predictions.along(model, tokens, top, run=run) if with_next else None
    lens = logit_lens.read(model, tokens, top=LENS_TOP, metrics=SHOWN, run=run) if with_lens else None

    def call(analysis: str, **asked: Any) -> str:
        found: str = describe(model, analysis, text, **asked, bos=bos)["call"]
        return found

    return {
        "text": text,
        "tokens": _tokens(tokens),
        "next": _next(along) if along else None,
        "lens": _lens(lens) if lens else None,
        "heads": _heads(model, tokens) if with_heads else None,
        "call": {
            "next": call("predictions.along", top=top) if along else None,
            "lens": call("logit_lens.read", top=LENS_TOP) if lens else None,
            "attention": call("attention.read") if with_heads else None,
        },
    }


def _tokens(tokens: Tokens) -> list[dict[str, Any]]:
    [ids], [strings], [display] = tokens.rows(), tokens.strings, tokens.display
    offsets: list[Any] = list(tokens.offsets[0]) if tokens.offsets else []
    if len(ids) and offsets and offsets[0] == (0, 0):
        offsets[0] = (None, None)  # bos stands for no character
    return [
        {"id": i, "text": text, "display": shown, "start": start, "end": end}
        for i, text, shown, (start, end) in zip(ids, strings, display, offsets, strict=True)
    ]


def _next(along: Along) -> list[dict[str, Any]]:
    """Return the candidates at every position, and the token that came."""
    entropy = along.entropy.tolist()
    columns = (along.top_ids.tolist(), along.top_display, along.top_tokens, along.top_probabilities.tolist())
    found = [
        {
            "entropy": entropy[i],
            "top": [
                {"id": token, "display": display, "text": text, "p": p}
                for token, display, text, p in zip(*row, strict=True)
            ],
            "actual": None,
        }
        for i, row in enumerate(zip(*columns, strict=True))
    ]
    came = zip(along.next_probability.tolist(), along.next_rank.tolist(), along.next_loss.tolist(), strict=True)
    for i, (p, rank, loss) in enumerate(came):
        token = {"id": along.ids[i + 1], "display": along.display[i + 1], "text": along.tokens[i + 1]}
        found[i]["actual"] = token | {"p": p, "rank": rank, "loss": loss}
    return found


def _lens(lens: Lens) -> dict[str, Any]:
    """Return numbers by layer and token. Candidates are ids, each named once, which halves size and time."""
    displays = (display for row in lens.top_display for at in row for display in at)
    return {
        "sites": lens.sites,
        "layers": lens.layers,
        **{name: plain(getattr(lens, name).tolist()) for name in SHOWN[:3]},
        "rank": [[value or None for value in row] for row in lens.rank.tolist()],  # 0: nothing came
        "top": lens.top_ids.tolist(),
        "p": lens.top_probabilities.tolist(),
        "names": dict(zip(lens.top_ids.flatten().tolist(), displays, strict=True)),
    }


def _heads(model: Model, tokens: Tokens) -> dict[str, Any]:
    """Return every head's pattern, small; the shade is the square root of the weight.

    A pass of its own: one whose patterns are looked at computes attention another way, and would move the other
    numbers in their sixth digit.
    """
    pictures: list[Tensor] = []
    model.run(tokens, watch={head_scores.SITE: lambda value, _: pictures.append(small(value[0]))}, logits=None)
    stacked = torch.stack(pictures)  # layer head n n
    data: Any = stacked.numpy()
    return {"size": stacked.shape[-1], "patterns": base64.b64encode(data.tobytes()).decode()}


def small(patterns: Tensor) -> Tensor:
    """Return patterns [head, query, key] as uint8 [head, n, n], n at most SMALL: means of blocks of larger ones."""
    patterns = patterns.float().nan_to_num()
    if patterns.shape[-1] > SMALL:
        patterns = torch.nn.functional.adaptive_avg_pool2d(patterns[None], SMALL)[0]
    return (patterns.sqrt() * 255).round().to(torch.uint8).cpu()


def head(model: Model, text: str, bos: bool, layer: int, head: int, most: int) -> bytes:
    """Return one head's pattern as attention.read has it: float32, little-endian, [query, key]."""
    found: list[Tensor] = []

    def keep(value: Tensor, context: Context) -> None:
        if context.layer == layer:
            found.append(value[0, head].float().cpu())

    # Looked at in every layer up to this one, as attention.read does, since that decides how attention is computed.
    sites = f"blocks.{{{','.join(map(str, range(layer + 1)))}}}.attn.pattern"
    model.run(model.tokens(read(model, text, bos, most)), watch={sites: keep}, logits=None)
    data: Any = found[0].numpy()
    raw: bytes = data.astype("<f4").tobytes()
    return raw


def rank(model: Model, text: str, bos: bool, token: str | int, most: int) -> dict[str, Any]:
    """Return one token's rank and probability at every layer and position."""
    read(model, text, bos, most)
    lens = logit_lens.read(model, Typed(text), top=1, targets=[token], metrics=["rank"], bos=bos)
    call = describe(model, "logit_lens.read", text, targets=[token], bos=bos)["call"]
    index = token if isinstance(token, int) else model.tokenizer.single(token)
    return {
        "id": index,
        "display": model.tokenizer.display(index),
        "text": model.tokenizer.string(index),
        "sites": lens.sites,
        "layers": lens.layers,
        "rank": lens.target_rank[..., 0].tolist(),
        "p": lens.target_probability[..., 0].tolist(),
        "call": call,
    }


def continuation(model: Model, ids: list[int]) -> str:
    """Return the text that was added, as Generated.continuations has it."""
    return read_text(model.tokenizer, ids, model.ends)


def generating(model: Model, body: dict[str, Any]) -> str:
    """Return the Python that continues the same way."""
    sampling = {name: value for name, value in body.items() if name != "text"}
    call: str = describe(model, "generate", body["text"], **sampling)["call"]
    return call.replace("cutaway.generate(model, ", "model.generate(")


def parts(model: Model) -> dict[str, Any]:
    """Return the model's parts and its sites."""
    found = anatomy.read(model)
    names = ("name", "shape", "transformer_lens", "hugging_face", "meaning")
    return {
        "summary": found.summary(),
        "config": plain(dataclasses.asdict(model.config)),
        "parts": [dataclasses.asdict(part) for part in found.parts],
        "sites": [dict(zip(names, row, strict=True)) for row in model.sites().rows()],
        "call": found.meta["call"],
    }


def fact(found: Fact) -> dict[str, Any]:
    checked: dict[str, Any] = plain(dataclasses.asdict(found))
    return checked


def result(model: Model, what: str, text: str, bos: bool, most: int) -> Result:
    """Return the package's own result behind a panel."""
    if what == "anatomy":
        return anatomy.read(model)
    read(model, text, bos, most)
    text = Typed(text)
    if what == "next":
        return predictions.along(model, text, bos=bos)
    return logit_lens.read(model, text, bos=bos) if what == "lens" else attention.read(model, text, bos=bos)


def saved(found: Result, ending: str, at: dict[str, Any]) -> bytes:
    """Return the file that Result.save writes; `at` is where a chart's sliders stand."""
    with tempfile.TemporaryDirectory(prefix="cutaway.") as folder:
        path = Path(folder, f"file.{ending}")
        if path.suffix in CHART_ENDINGS:
            page.save(found, path, at)
        else:
            found.save(path)
        return path.read_bytes()


def sliders(layer: int | None, head: int | None, position: int | None, metric: str | None) -> dict[str, Any]:
    """Return the settings of a chart's sliders for where the page stands."""
    found: dict[str, Any] = {"layer": layer, "head": head, "metric": metric}
    if position is not None:
        found |= {"prefix": position + 1, "first": position - AROUND}
    return found
