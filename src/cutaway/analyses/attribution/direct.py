"""Split a logit into what each component wrote to it directly. Public as attribution.direct."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.attribution.question import Question, Target, read_question
from cutaway.analyses.attribution.result import Component, Direct
from cutaway.arguments import whole
from cutaway.results.call import analysis, meta_of

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model


@analysis("attribution.direct")
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
    """Return every component's direct contribution to a logit at a position, or to the difference of two.

    With edits in force, a component "edits" has the part of the logit that no component wrote.

    Args:
        text: one text, Tokens, or ids [1, pos].
        target: a single token such as " States", or its id; None for the model's own first choice.
        versus: explain the logit of `target` less that of this token.
        position: explain the prediction after this token; negative positions count from the end.
        neurons: also list the MLP neurons that contribute most, up or down: this many.
        bos: put the end-of-text token in front of the text.

    Raises:
        InputError: several texts, a position that is not in the text, neurons below 1.
        TokenizerError: a target that is not one token.
    """
    neurons = None if neurons is None else whole("neurons", neurons, 1)
    question = read_question(model, text, target, versus, position, bos)
    kinds = ["attn.result", "mlp_out", "resid_post", *(["mlp.post"] if neurons else [])]
    run = model.run(question.tokens, capture=["embed", "pos_embed", *kinds, "ln_final.scale"], logits="last")
    question = question.with_target(model, run.logits[0, -1])
    last = {name: value[0, -1].detach().double() for name, value in run.items()}
    scale = last["ln_final.scale"].item()
    u = _direction(model, question, scale)
    before = [Component(name, None, None, (last[name] @ u).item()) for name in ("embed", "pos_embed")]
    after = _final_biases(model, question)
    parts = [*before, *_blocks(model, last, u), *after]
    logit = question.logit(run.logits[0, -1]).item()
    if model.active_edits:
        parts.append(Component("edits", None, None, logit - sum(c.contribution for c in parts)))
    constant = sum(c.contribution for c in after)
    stream = [last[f"blocks.{i}.resid_post"] for i in range(model.config.n_layers)]
    return Direct(
        meta=meta_of(model, question.text),
        **question.fields(model),
        logit=logit,
        scale=scale,
        components=parts,
        neurons=_neurons(model, last, u, neurons) if neurons else [],
        layers=model.config.n_layers,
        heads=model.config.n_heads,
        accumulated=[
            sum(c.contribution for c in before) + constant,
            *((x @ u).item() + constant for x in stream),
        ],
    )


def _direction(model: Model, question: Question, scale: float) -> Tensor:
    """Return u [D]: the product of u with what a component wrote is the component's part of the logit."""
    toward, norm = question.direction(model.weights.W_U), model.weights.ln_final
    weighed = toward if norm.w is None else toward * norm.w.double()
    return (weighed - weighed.mean()) / scale


def _final_biases(model: Model, question: Question) -> list[Component]:
    """Return the parts of the final LayerNorm's bias and of the unembedding's, where the model has them."""
    norm, b_U = model.weights.ln_final, model.weights.b_U
    parts = []
    if norm.b is not None:
        toward = question.direction(model.weights.W_U)
        parts.append(Component("ln_final.b", None, None, (norm.b.double() @ toward).item()))
    if b_U is not None:
        parts.append(Component("b_U", None, None, question.direction(b_U).item()))
    return parts


def _blocks(model: Model, last: dict[str, Tensor], u: Tensor) -> Iterator[Component]:
    """Yield the parts of heads, MLPs and their biases along u [D], in forward order."""
    for i, block in enumerate(model.weights.blocks):
        for head, value in enumerate((last[f"blocks.{i}.attn.result"] @ u).tolist()):
            yield Component("head", i, head, value)
        yield Component("b_O", i, None, (block.b_O.double() @ u).item())
        bias = (block.b_out.double() @ u).item()
        yield Component("mlp", i, None, (last[f"blocks.{i}.mlp_out"] @ u).item() - bias)
        yield Component("b_out", i, None, bias)


def _neurons(model: Model, last: dict[str, Tensor], u: Tensor, k: int) -> list[Component]:
    """Return the k neurons with the largest parts along u, up or down, the largest first."""
    rows = [
        last[f"blocks.{i}.mlp.post"] * (block.W_out.double() @ u)  # M
        for i, block in enumerate(model.weights.blocks)
    ]
    every = torch.stack(rows)  # layer M
    best = every.abs().flatten().topk(min(k, every.numel())).indices.tolist()
    places = [divmod(i, every.shape[1]) for i in best]
    return [Component("neuron", layer, j, every[layer, j].item()) for layer, j in places]
