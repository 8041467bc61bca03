"""`cutaway states`: measure how Gaussian the states are."""

from __future__ import annotations

from typing import Annotated

import typer

from cutaway.cli.inputs import load, read_corpus
from cutaway.cli.options import (
    BosOption,
    CorpusOption,
    DeviceOption,
    DtypeOption,
    FieldOption,
    JsonOption,
    LayerOption,
    ModelOption,
    OutputOption,
    SeedOption,
    StateOption,
)
from cutaway.cli.output import show


def states(
    model: ModelOption = None,
    corpus: CorpusOption = None,
    field: FieldOption = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Measure resid_post, attn_out, mlp_out, ...; repeatable.", show_default="these three"),
    ] = None,
    layer: LayerOption = None,
    sample: Annotated[int, typer.Option(help="Pair the states of this many tokens, half with half.", min=4)] = 2000,
    centered: Annotated[bool, typer.Option("--centered", help="Subtract the mean over tokens first.")] = False,
    seed: SeedOption = 0,
    replicates: Annotated[
        int, typer.Option(help="Draw this many Monte-Carlo samples for each p-value.", min=19, max=1_000_000)
    ] = 99,
    state: StateOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Measure how Gaussian the hidden states, attention and MLP outputs are, layer by layer."""
    from cutaway.analyses import states as analysis

    loaded = load(model, device, dtype)
    source = read_corpus(corpus, field)
    kinds = tuple(kind) if kind else analysis.KINDS
    result = analysis.measure(
        loaded, source, kinds, layer or None, sample, centered, seed, replicates=replicates, bos=bos, state=state
    )
    show(result, as_json, output)
