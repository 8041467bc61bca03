"""`cutaway predict`: show the most likely next tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from cutaway.cli.inputs import load, read_text
from cutaway.cli.options import (
    BosOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    OutputOption,
    PromptsArgument,
    TopOption,
)
from cutaway.cli.output import show
from cutaway.errors import InputError


def predict(
    prompts: PromptsArgument,
    model: ModelOption = None,
    top: TopOption = 10,
    along: Annotated[bool, typer.Option("--along", help="Predict after every prefix of one text.")] = False,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Show the most likely next tokens after each prompt, or after every prefix of a text."""
    if along and len(prompts) > 1:
        raise InputError(f"{len(prompts)} texts were given: --along reads one")
    from cutaway.analyses import predictions

    loaded, texts = load(model, device, dtype), [read_text(prompt) for prompt in prompts]
    if along:
        show(predictions.along(loaded, texts[0], top=top, bos=bos), as_json, output)
    else:
        show(predictions.next_tokens(loaded, texts, top=top, bos=bos), as_json, output)
