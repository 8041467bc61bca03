"""`cutaway generate`: continue prompts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cutaway.cli.inputs import load, read_text
from cutaway.cli.options import (
    BosOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    PromptsArgument,
    SeedOption,
)
from cutaway.cli.output import print_json


def generate(
    prompts: PromptsArgument,
    model: ModelOption = None,
    tokens: Annotated[int, typer.Option("-n", "--max-new-tokens", help="Add at most this many tokens.", min=1)] = 40,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token at each step.", min=0)] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among this many most likely tokens.", min=1)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the most likely tokens that together reach this probability.")
    ] = None,
    seed: SeedOption = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Continue each prompt."""
    texts = [read_text(prompt) for prompt in prompts]
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "bos": bos}
    loaded = load(model, device, dtype)
    generated = loaded.generate(texts, tokens, **settings)
    if not as_json:
        print(generated)
        return
    import pandas as pd

    from cutaway.results.call import describe
    from cutaway.results.saving import envelope

    meta = describe(loaded, "generate", texts, max_new_tokens=tokens, **settings)
    meta["call"] = meta["call"].replace("cutaway.generate(model, ", "model.generate(")
    table = pd.DataFrame({"prompt": texts, "continuation": generated.continuations, "text": generated.texts})
    print_json(envelope("generate", meta, table))
