"""`cutaway lens`: show what the model would predict at each layer."""

from __future__ import annotations

from typing import Annotated

import typer

from cutaway.cli.inputs import check_state, exactly_one, load, read_corpus, read_text
from cutaway.cli.options import (
    BosOption,
    CorpusInsteadOption,
    DeviceOption,
    DtypeOption,
    FieldOption,
    JsonOption,
    ModelOption,
    OptionalTextArgument,
    OutputOption,
    StateOption,
    TopOption,
)
from cutaway.cli.output import show


def lens(
    text: OptionalTextArgument = None,
    model: ModelOption = None,
    at: Annotated[
        str, typer.Option(help="Read these sites: resid_post, resid_mid, resid_pre, attn_out, mlp_out, or a pattern.")
    ] = "resid_post",
    target: Annotated[list[str] | None, typer.Option(help="Follow this token through the layers; repeatable.")] = None,
    corpus: CorpusInsteadOption = None,
    field: FieldOption = None,
    top: TopOption = 10,
    state: StateOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Show what the model would predict at each layer: the logit lens."""
    from cutaway.analyses import logit_lens

    exactly_one("lens", text, corpus)
    check_state(state, corpus)
    source = read_corpus(corpus, field)
    loaded = load(model, device, dtype)
    if source is None:
        show(logit_lens.read(loaded, read_text(text or ""), at, top, target, bos=bos), as_json, output)
    else:
        show(logit_lens.average(loaded, source, at, bos=bos, state=state), as_json, output)
