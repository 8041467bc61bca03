"""TODO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.attribution import question as asking
from cutaway.analyses.attribution.question import Target
from cutaway.analyses.attribution.result import Component, Direct
from cutaway.arguments import whole
from cutaway.model.modes import plainly
from cutaway.results.call import describe

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model


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
