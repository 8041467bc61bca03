"""`cutaway trace`: find the states that bring the answer back when the subject is hidden."""

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
    SeedOption,
    TextArgument,
)
from cutaway.cli.output import show, showing_partial_results


def trace(
    prompt: TextArgument,
    subject: Annotated[str, typer.Option(help="Words of the prompt to hide with noise.")],
    model: ModelOption = None,
    answer: Annotated[
        str | None,
        typer.Option(help="The continuation to trace, such as ' States'.", show_default="the model's first choice"),
    ] = None,
    occurrence: Annotated[int | None, typer.Option(help="Which occurrence of the subject, counting from 0.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Restore resid_post, mlp_out or attn_out; repeatable.", show_default="all three"),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="Restore this many layers of mlp_out and attn_out together.", show_default="10 of 48"),
    ] = None,
    noise: Annotated[
        float, typer.Option(help="Size of the noise, in standard deviations of the embeddings of --noise-from.")
    ] = 3.0,
    noise_from: Annotated[
        list[str] | None,
        typer.Option(
            help="A subject whose embeddings set the size of the noise; repeatable.",
            show_default="the subject itself",
        ),
    ] = None,
    uniform: Annotated[bool, typer.Option("--uniform", help="Draw uniform noise instead of Gaussian.")] = False,
    samples: Annotated[int, typer.Option(help="Draw the noise this many times.", min=1, max=10_000)] = 10,
    seed: SeedOption = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Find the states that bring the answer back when noise hides the subject: causal tracing."""
    from cutaway.analyses import causal_trace

    loaded = load(model, device, dtype)
    with showing_partial_results(as_json, output):
        result = causal_trace.trace(
            loaded,
            read_text(prompt),
            subject,
            answer,
            kind or causal_trace.KINDS,
            window,
            noise,
            samples,
            seed,
            noise_from or None,
            distribution="uniform" if uniform else "gaussian",
            occurrence=occurrence,
            bos=bos,
        )
    show(result, as_json, output)
